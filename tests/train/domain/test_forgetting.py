"""What is forgotten of the base's domain, and what replay does about it."""

import json

import ase.io
import numpy as np
import pytest
import torch
from ase.calculators.singlepoint import SinglePointCalculator
from support.frames import build_frames
from support.runs import build_options, check_resume, stand_as_in_file, write_base

from pet_calc.calculator import PETCalculator
from pet_calc.checkpoint import load_checkpoint
from pet_calc.config import DatasetOptions, LabelOptions, TargetOptions, replace
from pet_calc.data.frames import LabeledFrame
from pet_calc.data.orientation import AS_JUDGED, FURTHER, turn_frame
from pet_calc.errors import ConfigError, DataError
from pet_calc.model.hypers import TargetSpec
from pet_calc.train import step_runner
from pet_calc.train.domain import frames as base_frames
from pet_calc.train.domain.forgetting import Forgetting
from pet_calc.train.domain.frames import label_by_model
from pet_calc.train.run import run_training

NO_TRAINING = {"learning_rate": 1e-300, "epochs": 1}
SHIFT = {"H": 3.0, "O": -70.0, "Al": 12.5}


def run(options, **kwargs):
    return run_training(options, show_progress=False, **kwargs)


def write_labelled(folder, model, *, name, noise=0.0, shift=0.0, seed=7):
    """Write frames labelled by a model: of the base's domain and level."""
    calculator = PETCalculator(model)
    frames = build_frames(6, seed=seed)
    rng = torch.Generator().manual_seed(seed)
    for atoms in frames:
        energy = calculator.get_potential_energy(atoms)
        energy += shift * sum(SHIFT[symbol] for symbol in atoms.symbols)
        forces = calculator.get_forces(atoms)
        energy += noise * len(atoms) * float(torch.randn(1, generator=rng))
        forces = forces + noise * torch.randn(forces.shape, generator=rng).numpy()
        results = {"energy": energy, "forces": forces}
        if atoms.pbc.all():
            noise_of_stress = 0.1 * noise * torch.randn(6, generator=rng).numpy()
            results["stress"] = calculator.get_stress(atoms) + noise_of_stress
        atoms.calc = SinglePointCalculator(atoms, **results)
    path = folder / name
    ase.io.write(path, frames)
    return str(path)


@pytest.fixture
def base(tmp_path):
    return write_base(tmp_path)


@pytest.mark.parametrize("target", ["energy", "energy/pbe0"])
def test_a_new_energy_offset_is_no_forgetting(tmp_path, base, target):
    retain = write_labelled(tmp_path, base, name="retain.xyz", noise=0.05)
    options = build_options(
        tmp_path, base=base, retain=(retain,), target=target, **NO_TRAINING
    )
    report = run(options)
    # EMT's energies are eVs away from the base's, so the composition moved
    state = load_checkpoint(report.best_model).state
    per_element = state[f"baseline.tables.{target}.composition"]
    before = load_checkpoint(base).state["baseline.tables.energy.composition"]
    assert (per_element - before).abs().max() > 0.1
    ratios = report.forgetting.compute_ratios(target)
    expected = {"energy": 1.0, "forces": 1.0, "stress": 1.0}
    assert ratios == pytest.approx(expected, rel=1e-9)
    assert report.forgetting.before["forces_mae"] == pytest.approx(0.04, abs=0.02)


def test_training_elsewhere_is_measured_printed_and_stored(tmp_path, base):
    retain = write_labelled(tmp_path, base, name="retain.xyz", noise=0.01)
    options = build_options(tmp_path, base=base, method="full", retain=(retain,))
    report = run(options)
    ratios = report.forgetting.compute_ratios("energy")
    assert ratios["forces"] > 2.0
    text = report.to_text()
    assert f"forces x{ratios['forces']:.2f}" in text
    assert f"stress x{ratios['stress']:.2f}" in text
    assert "on 6 retained frames" in text
    assert "the base's energy per element" in text
    stored = json.loads((tmp_path / "run" / "report.json").read_text())
    assert stored["forgetting"]["outputs"]["energy"]["ratio"] == ratios
    provenance = load_checkpoint(report.best_model).metadata["provenance"]
    assert provenance["n_frames"]["retained"] == 6
    assert retain in provenance["files"]


def test_forgetting_is_what_the_calculator_says(tmp_path, base, monkeypatch):
    stand_as_in_file(monkeypatch)
    retain = write_labelled(tmp_path, base, name="retain.xyz", noise=0.01)
    report = run(
        build_options(tmp_path, base=base, method="full", retain=(retain,), epochs=2)
    )
    errors = []
    calculator = PETCalculator(report.best_model)
    for atoms in ase.io.read(retain, ":"):
        wanted = atoms.get_forces()
        errors.append(abs(calculator.get_forces(atoms.copy()) - wanted).ravel())
    mean = sum(e.sum() for e in errors) / sum(e.size for e in errors)
    found = report.forgetting.after["energy"]["forces_mae"]
    assert found == pytest.approx(mean, rel=1e-6)


def test_labels_of_the_base_itself_give_no_ratio():
    forgetting = Forgetting(3, {"forces_mae": 1e-9}, {"energy": {"forces_mae": 0.1}})
    assert forgetting.compute_ratios("energy") == {"forces": None}
    assert "forces no ratio (0.00 -> 100.00 meV/Å)" in forgetting.to_text()


def test_retained_labels_of_another_level_are_refused(tmp_path, base):
    retain = write_labelled(tmp_path, base, name="retain.xyz", shift=1.0)
    with pytest.raises(DataError, match=r"retain_set: energies are .* eV/atom, the"):
        run(build_options(tmp_path, base=base, retain=(retain,)))


def test_retained_frames_without_labels_are_refused(tmp_path, base):
    frames = build_frames(3)
    for atoms in frames:
        atoms.calc = None
    ase.io.write(tmp_path / "bare.xyz", frames)
    options = build_options(tmp_path, base=base, retain=(str(tmp_path / "bare.xyz"),))
    with pytest.raises(DataError, match="retain_set: no frame has an energy or forces"):
        run(options)


def test_retained_frames_with_elements_new_to_the_base_are_refused(tmp_path, base):
    (tmp_path / "gold.xyz").write_text(
        '1\nProperties=species:S:1:pos:R:3 energy=1.0 pbc="F F F"\nAu 0.0 0.0 0.0\n'
    )
    options = build_options(tmp_path, base=base, retain=(str(tmp_path / "gold.xyz"),))
    with pytest.raises(DataError, match=r"retain_set: .*Au .*gold\.xyz, frame 0"):
        run(options)


def test_frames_both_trained_and_retained_are_named(tmp_path, base, caplog):
    retain = write_labelled(tmp_path, base, name="retain.xyz")
    options = build_options(
        tmp_path, base=base, retain=(retain,), replay=(retain,), **NO_TRAINING
    )
    with caplog.at_level("WARNING", "pet_calc"):
        run(options)
    assert "6 of 6 retained frames" in caplog.text
    assert "(replay set): forgetting will look smaller" in caplog.text


def test_sets_may_have_keys_and_units_of_their_own(tmp_path, base):
    retain = write_labelled(tmp_path, base, name="retain.xyz", noise=0.05)
    frames = ase.io.read(retain, ":")
    for atoms in frames:
        energy, forces = atoms.get_potential_energy(), atoms.get_forces()
        if atoms.pbc.all():
            atoms.info["S"] = -atoms.get_stress(voigt=False) / 27.211386
        atoms.calc = None
        atoms.info["E"], atoms.arrays["F"] = energy / 27.211386, forces / 27.211386
    ase.io.write(tmp_path / "hartree.xyz", frames)
    target = TargetOptions(
        key="E",
        unit="Hartree",
        forces=LabelOptions(key="F"),
        stress=LabelOptions(key="S", sign=-1),
    )
    other = DatasetOptions(systems=str(tmp_path / "hartree.xyz"), targets=(target,))
    options = build_options(tmp_path, base=base, retain=(retain,), **NO_TRAINING)
    one = run(options).forgetting.before
    two = run(replace(options, retain_set=(other,)), may_overwrite=True).forgetting
    # the file has eight decimals
    assert two.before == pytest.approx(one, rel=1e-4)
    wrong = replace(other, targets=(replace(target, name="energy/b"),))
    with pytest.raises(ConfigError, match=r"retain_set\.targets: expected energy,"):
        run(replace(options, retain_set=(wrong,)), may_overwrite=True)


def replayed_loss(monkeypatch):
    """Losses of replay in the order of steps."""
    losses = []
    add = step_runner.StepRunner._add_gradient

    def record(self, step, trained, progress):
        loss = add(self, step, trained, progress)
        if trained is not self.training:
            losses.append(loss)
        return loss

    monkeypatch.setattr(step_runner.StepRunner, "_add_gradient", record)
    return losses


@pytest.mark.parametrize("labels", ["base", "file"])
@pytest.mark.parametrize("target", ["energy", "energy/pbe0"])
def test_replay_asks_at_first_for_nothing_that_the_base_does_not_say(
    tmp_path, base, labels, target, monkeypatch
):
    # EMT labels for training move the composition; the base's labels are replayed
    replay = write_labelled(tmp_path, base, name="replay.xyz")
    losses = replayed_loss(monkeypatch)
    monkeypatch.setattr(base_frames, "N_ORIENTATIONS", 0)
    run(
        build_options(
            tmp_path,
            base=base,
            replay=(replay,),
            replay_labels=labels,
            target=target,
            # its own labels are those of the base as the frames stand
            augmentation="none",
            **NO_TRAINING,
        )
    )
    assert losses
    # squares of the eight decimals of the file, of float64 rounding without it
    assert max(losses) < (1e-12 if labels == "file" else 1e-20)


def test_labels_of_the_base_are_means_over_orientations(base):
    model = load_checkpoint(base).build_model()
    frames = [LabeledFrame.from_atoms(atoms) for atoms in build_frames(3)]
    labelled = label_by_model(model, "energy", frames)
    calculator = PETCalculator(base)
    for i, frame in enumerate(frames):
        energies, forces = [], []
        for k in range(-1, base_frames.N_ORIENTATIONS):
            matrix = np.eye(3)
            if k >= 0:
                (matrix,) = (AS_JUDGED if k == 0 else FURTHER).draw(k, [i])
            atoms = turn_frame(frame, matrix).to_atoms()
            energies.append(calculator.get_potential_energy(atoms))
            forces.append(calculator.get_forces(atoms) @ matrix)
        assert labelled[i].energy == pytest.approx(np.mean(energies), abs=1e-10)
        np.testing.assert_allclose(labelled[i].forces, np.mean(forces, 0), atol=1e-10)


def test_replay_keeps_the_base_in_mind(tmp_path, base):
    retain = write_labelled(tmp_path, base, name="retain.xyz", noise=0.01)
    replay = write_labelled(tmp_path, base, name="replay.xyz", seed=8)
    # few steps: all of them at a rate that changes much
    common = {"base": base, "method": "full", "retain": (retain,), "epochs": 8}
    common["train"] = {"warmup_fraction": 0.01}
    without = run(build_options(tmp_path, output="a", **common)).forgetting
    options = build_options(
        tmp_path, output="b", replay=(replay,), replay_weight=10.0, **common
    )
    report = run(options)
    kept = report.forgetting.compute_ratios("energy")["forces"]
    assert kept < 0.5 * without.compute_ratios("energy")["forces"]
    assert load_checkpoint(report.best_model).metadata["provenance"]["n_frames"] == {
        **{"train": 9, "validation": 3, "test": 0, "isolated": 0},
        **{"retained": 6, "replayed": 6},
    }


@pytest.mark.parametrize(
    ("flags", "size"),
    [({}, 4), ({"batch_size": 5}, 5), ({"replay_batch_size": 2}, 2)],
)
def test_a_step_replays_some_frames_however_few_it_trains_on(
    tmp_path, base, caplog, flags, size
):
    replay = write_labelled(tmp_path, base, name="replay.xyz")
    options = build_options(
        tmp_path, base=base, replay=(replay,), **{"batch_size": 1, "epochs": 1} | flags
    )
    with caplog.at_level("INFO"):
        run(options)
    assert f"replay: 6 frames, {size} of them in every step" in caplog.text


def test_a_resumed_run_replays_the_same_batches(tmp_path, base):
    replay = write_labelled(tmp_path, base, name="replay.xyz")
    whole = build_options(
        tmp_path, base=base, output="whole", replay=(replay,), replay_generate=4
    )
    check_resume(whole, tmp_path)


def test_steps_that_are_cut_replay_and_train_direct_heads_as_whole_ones(tmp_path):
    direct = TargetSpec("non_conservative_force", "force", "eV/A", "atom", "f", [3])
    base = write_base(tmp_path, targets=[TargetSpec.for_energy(), direct])
    states = []
    for most in (None, 1):
        options = build_options(
            tmp_path,
            output=str(most),
            base=base,
            epochs=2,
            replay_generate=6,
            train={"max_pairs_per_batch": most},
        )
        run(options)
        states.append(load_checkpoint(tmp_path / str(most) / "last_model.ckpt").state)
    for name, value in states[0].items():
        # sums in another order, in float64
        assert torch.allclose(states[1][name], value, rtol=1e-7, atol=1e-9), name


def test_replay_trains_the_base_head_through_the_trunk_if_it_is_kept(
    tmp_path, base, caplog
):
    replay = write_labelled(tmp_path, base, name="replay.xyz")
    retain = write_labelled(tmp_path, base, name="retain.xyz", noise=0.01, seed=9)
    common = {
        "base": base,
        "method": "full",
        "target": "energy/pbe0",
        "keep_head": True,
        "retain": (retain,),
    }
    without = run(build_options(tmp_path, output="a", **common)).forgetting
    options = build_options(
        tmp_path, output="b", replay=(replay,), replay_weight=10.0, **common
    )
    with caplog.at_level("INFO", "pet_calc"):
        report = run(options)
    assert "for target energy with the base's energies" in caplog.text
    assert list(report.forgetting.after) == ["energy/pbe0", "energy"]
    kept = report.forgetting.compute_ratios("energy")["forces"]
    assert kept < 0.7 * without.compute_ratios("energy")["forces"]
    # frozen: what changed came through the trunk
    state, before = (
        load_checkpoint(report.best_model).state,
        load_checkpoint(base).state,
    )
    for name, value in before.items():
        if name.split(".")[0] in ("node_heads", "edge_heads"):
            assert torch.equal(state[name], value), name


def test_replay_needs_labels_or_asks_for_those_of_the_base(tmp_path, base):
    frames = build_frames(3)
    for atoms in frames:
        atoms.calc = None
    ase.io.write(tmp_path / "bare.xyz", frames)
    flags = {"base": base, "replay": (str(tmp_path / "bare.xyz"),), "epochs": 1}
    with pytest.raises(DataError, match="or use --replay-labels base"):
        run(build_options(tmp_path, **flags))
    run(build_options(tmp_path, replay_labels="base", **flags))


def test_a_base_with_several_outputs_gives_the_one_that_is_inherited(tmp_path):
    specs = [TargetSpec.for_energy("energy/a"), TargetSpec.for_energy("energy/b")]
    base = write_base(tmp_path, targets=specs)
    options = build_options(
        tmp_path, base=base, target="energy/b", replay_generate=2, **NO_TRAINING
    )
    assert run(options).forgetting is None
