"""A selection from files: what is taken, in which order, and what is left out."""

import sys
from dataclasses import replace

import ase.build
import ase.io
import numpy as np
import pytest
from support.frames import build_frames

from pet_calc import PETCalculator
from pet_calc.config.quick import build_dataset
from pet_calc.errors import ConfigError, DataError, ModelError
from pet_calc.select.physical import BROKEN, EXPLODED, OVERLAP
from pet_calc.select.result import write_selection
from pet_calc.select.run import (
    CERTAIN,
    COPIES,
    CROWDED,
    IN_TRAINING,
    SelectOptions,
    select_frames,
)

pytest.importorskip("skmatter")


@pytest.fixture
def select(models, tmp_path):
    """Select from atoms."""

    def run(frames, *, exclude=(), model="sure", name="md.xyz", **settings):
        path = tmp_path / name
        ase.io.write(path, frames)
        options = SelectOptions(
            model=models[model],
            dataset=build_dataset([str(path)], {}),
            device="cpu",
            **settings,
        )
        if exclude:
            options = replace(options, exclude=build_dataset(exclude, {}))
        return select_frames(options)

    return run


def numbers_of(selection):
    return [int(each.frame.source.rpartition(" ")[2]) for each in selection.chosen]


def count(selection, reason):
    tally = selection.left_out.get(reason)
    return tally.count if tally else 0


def rattle(n_frames, size=0.1, seed=5):
    rng = np.random.default_rng(seed)
    frames = []
    for _ in range(n_frames):
        atoms = ase.build.molecule("CH3CH2OH")
        atoms.positions += size * rng.standard_normal(atoms.positions.shape)
        frames.append(atoms)
    return frames


def test_uncertainties_are_those_of_the_calculator(models, select):
    frames = build_frames(6, seed=7)
    selection = select(frames, n_frames=6)
    calc = PETCalculator(models["sure"], device="cpu")
    for each, k in zip(selection.chosen, numbers_of(selection), strict=True):
        expected = calc.get_property("energy_uncertainty", frames[k]) / len(frames[k])
        assert each.uncertainty == pytest.approx(expected, rel=1e-6)
    of_atoms = select(frames, n_frames=6, by="atoms")
    for each, k in zip(of_atoms.chosen, numbers_of(of_atoms), strict=True):
        expected = calc.get_property("energies_uncertainty", frames[k]).max()
        assert each.uncertainty == pytest.approx(expected, rel=1e-6)


def test_the_most_uncertain_frame_comes_first_and_the_pool_bounds_the_others(select):
    frames = rattle(30)
    everything = select(frames, n_frames=30, near=0.0)
    order = sorted(everything.chosen, key=lambda each: -each.uncertainty)
    few = select(frames, n_frames=5, pool=10, near=0.0)
    assert few.chosen[0].frame.source == order[0].frame.source
    allowed = {each.frame.source for each in order[:10]}
    assert {each.frame.source for each in few.chosen} <= allowed
    assert (count(few, CERTAIN), count(few, CROWDED)) == (20, 5)
    assert few.n_frames == 30


def test_distances_fall_in_the_order_of_taking(select):
    chosen = select(rattle(20), n_frames=8, by="diversity", model="base").chosen
    assert chosen[0].uncertainty is None
    assert chosen[0].distance == np.inf
    distances = [each.distance for each in chosen[1:]]
    assert distances == sorted(distances, reverse=True)
    assert chosen[1].nearest == "number 1"


def test_what_is_labelled_already_is_left_out_with_its_near_copies(
    select, tmp_path, models
):
    frames = rattle(8)
    ase.io.write(tmp_path / "known.xyz", frames[:2])
    moved = frames[0].copy()
    moved.translate([3.0, -1.0, 0.5])
    moved = moved[::-1]
    near = frames[1].copy()
    near.positions[2] += 1e-4
    again = [*frames, moved, near]
    selection = select(again, n_frames=20, exclude=[str(tmp_path / "known.xyz")])
    assert set(numbers_of(selection)) == set(range(2, 8))
    assert count(selection, IN_TRAINING) == 4
    example = selection.left_out[IN_TRAINING].example
    assert "md.xyz, frame 0, near" in example
    assert "known.xyz, frame 0" in example
    # the first one is the farthest from what is known
    assert selection.chosen[0].distance == max(e.distance for e in selection.chosen)
    assert selection.chosen[0].nearest.startswith(str(tmp_path / "known.xyz"))


def test_near_copies_among_the_frames_are_taken_once(select):
    frames = rattle(5)
    copies = [atoms.copy() for atoms in frames]
    for atoms in copies:
        atoms.positions[1] += 1e-4
    selection = select([*frames, *copies], n_frames=20)
    assert sorted(k % 5 for k in numbers_of(selection)) == list(range(5))
    assert count(selection, COPIES) == 5
    assert len(select([*frames, *copies], n_frames=20, near=0.0).chosen) == 10


def test_unphysical_frames_are_left_out_and_named(select):
    sound = rattle(4)
    overlapping, exploded, broken, doubled = (atoms.copy() for atoms in sound)
    overlapping.positions[4] = overlapping.positions[0] + [0.3, 0.0, 0.0]
    exploded.positions[4] += 50.0
    broken.positions[0] = np.nan
    doubled.positions[4] = doubled.positions[0]
    frames = [*sound, overlapping, exploded, broken, doubled]
    selection = select(frames, n_frames=20)
    assert sorted(numbers_of(selection)) == [0, 1, 2, 3]
    assert selection.n_frames == 8
    assert "md.xyz, frame 4: " in selection.left_out[OVERLAP].example
    assert "md.xyz, frame 5: " in selection.left_out[EXPLODED].example
    assert "md.xyz, frame 6: " in selection.left_out[BROKEN].example
    assert selection.left_out[BROKEN].count == 2
    with pytest.raises(DataError, match=r"none of 2 frames .* 2 frames that cannot"):
        select([broken, doubled])


def test_every_takes_each_kth_frame(select):
    selection = select(rattle(10), n_frames=20, every=3)
    assert sorted(numbers_of(selection)) == [0, 3, 6, 9]


def test_a_model_without_uncertainty_says_what_to_do(select):
    with pytest.raises(ModelError, match=r"pet-calc uncertainty .*--by diversity"):
        select(rattle(2), model="base")


def test_an_unknown_element_is_an_error_that_names_the_frame(select):
    frames = [*rattle(2), ase.build.molecule("HCl")]
    with pytest.raises(DataError, match=r"Cl \(1 frames, first .*md.xyz, frame 2\)"):
        select(frames)


def test_written_frames_have_no_labels_but_where_they_are_from(select, tmp_path):
    """Those of a trajectory are what the model said."""
    frames = build_frames(4, seed=7)
    frames[0].info["charge"] = 0
    selection = select(frames, n_frames=4)
    write_selection(tmp_path / "next.xyz", selection)
    written = ase.io.read(tmp_path / "next.xyz", ":")
    for atoms, k, each in zip(
        written, numbers_of(selection), selection.chosen, strict=True
    ):
        assert atoms.calc is None
        assert set(atoms.arrays) == {"numbers", "positions"}
        np.testing.assert_allclose(atoms.positions, frames[k].positions, atol=1e-7)
        np.testing.assert_allclose(atoms.cell, frames[k].cell, atol=1e-7)
        assert atoms.info["select_from"] == each.frame.source
        assert atoms.info["select_uncertainty"] == pytest.approx(each.uncertainty)
        assert ("charge" in atoms.info) == (k == 0)
        assert "spin_multiplicity" not in atoms.info


def test_a_missing_library_is_told_before_anything_is_read(models, monkeypatch):
    monkeypatch.setitem(sys.modules, "skmatter.sample_selection", None)
    options = SelectOptions(
        model=models["sure"], dataset=build_dataset(["there_is_none.xyz"], {})
    )
    with pytest.raises(ConfigError, match="skmatter"):
        select_frames(options)


def test_a_turned_frame_is_a_near_copy_to_a_trained_model_and_size_does_not_matter(
    tmp_path,
):
    """Features of the bundled base turn by 1e-4; atoms that move by 0.05 A are new."""
    rng = np.random.default_rng(0)
    silicon = ase.build.bulk("Si", cubic=True)
    for repeat in (1, 3):
        frame = silicon.repeat(repeat)
        frame.positions += 0.05 * rng.standard_normal(frame.positions.shape)
        turned, moved, shaken = (frame.copy() for _ in range(3))
        turned.rotate(40, (1, 2, 3), rotate_cell=True)
        moved.positions += 0.001 * rng.standard_normal(frame.positions.shape)
        shaken.positions += 0.05 * rng.standard_normal(frame.positions.shape)
        ase.io.write(tmp_path / "known.xyz", frame)
        ase.io.write(tmp_path / "md.xyz", [turned, moved, shaken])
        options = SelectOptions(
            model="pet-sevennet-xs",
            dataset=build_dataset([str(tmp_path / "md.xyz")], {}),
            exclude=build_dataset([str(tmp_path / "known.xyz")], {}),
            by="diversity",
            device="cpu",
        )
        assert numbers_of(select_frames(options)) == [2]
