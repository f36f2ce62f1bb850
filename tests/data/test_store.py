"""Stores of frames: exact, checked, reused, safe against crashes and other writers."""

import json
import multiprocessing
import pickle
from dataclasses import fields

import ase.io
import numpy as np
import pytest
from ase.build import bulk, molecule

from pet_calc.config.data_options import DatasetOptions, LabelOptions, TargetOptions
from pet_calc.data import store as store_module
from pet_calc.data.dataset import SystemDataset, count_stored_tokens, make_dataset
from pet_calc.data.frames import LabeledFrame, read_frames
from pet_calc.data.loader import BatchLoader
from pet_calc.data.read_dataset import StoreRule, draw_frames, read_dataset
from pet_calc.data.store import FrameStore, open_or_build_store
from pet_calc.data.stored import StoredFrames
from pet_calc.errors import DataError

CUTOFF = 4.0


def write_files(folder):
    """Two files with everything that a frame can have, and can lack."""
    rng = np.random.default_rng(0)
    frames = []
    for i in range(10):
        atoms = molecule("CH3OH") if i % 2 else bulk("NaCl", "rocksalt", 5.6)
        atoms.rattle(0.05, seed=i)
        if i != 3:
            atoms.info["REF_energy"] = rng.standard_normal()
        if i % 3:
            atoms.arrays["REF_forces"] = rng.standard_normal((len(atoms), 3))
        if i % 2 == 0 and i != 4:
            atoms.info["REF_stress"] = rng.standard_normal(6)
        atoms.info |= {"charge": i % 2 - 1, "spin_multiplicity": 1 + i % 3}
        if i == 7:
            atoms.info["REF_energy"] = np.nan
        if i > 7:
            atoms.info["config_type"] = "late"
        frames.append(atoms)
    names = [str(folder / "one.xyz"), str(folder / "two.xyz")]
    ase.io.write(names[0], frames[:6])
    ase.io.write(names[1], frames[6:])
    return names


def build(folder, names, read=None, made_from="plain"):
    read = read or (lambda: read_frames(names))
    return open_or_build_store(
        folder / "stores", "data", {"as": made_from}, names, read
    )


def assert_same_frames(found, expected):
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        for field in fields(LabeledFrame):
            a, b = getattr(one, field.name), getattr(other, field.name)
            if isinstance(b, np.ndarray):
                assert a.dtype == b.dtype
                np.testing.assert_array_equal(a, b)
            else:
                assert a == b, field.name


def fail():
    raise AssertionError("the files were read again")


def test_frames_from_a_store_are_those_of_the_files_bit_for_bit(tmp_path):
    names = write_files(tmp_path)
    frames = StoredFrames.of_store(build(tmp_path, names))
    assert_same_frames(frames, read_frames(names))
    assert_same_frames(frames[2:9:3], read_frames(names)[2:9:3])


def test_a_store_is_reused_while_the_files_are_the_same(tmp_path, caplog):
    names = write_files(tmp_path)
    first = build(tmp_path, names)
    with caplog.at_level("INFO", "pet_calc"):
        again = build(tmp_path, names, read=fail)
    assert again.folder == first.folder
    assert "from an earlier run" in caplog.text
    # other keys or units are other frames
    assert build(tmp_path, names, made_from="kcal").folder != first.folder
    frames = ase.io.read(names[1], ":")
    ase.io.write(names[1], frames[:2])
    with caplog.at_level("INFO", "pet_calc"):
        changed = build(tmp_path, names)
    assert changed.folder != first.folder
    assert len(changed) == 8
    assert f"{first.folder} holds these files as they were" in caplog.text


def test_a_writer_that_fails_leaves_nothing_to_be_taken_for_a_store(tmp_path):
    names = write_files(tmp_path)

    def break_off():
        yield from read_frames(names)[:4]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build(tmp_path, names, read=break_off)
    assert not [path for path in (tmp_path / "stores").iterdir() if path.is_dir()]
    assert len(build(tmp_path, names)) == 10


def test_what_a_killed_writer_left_is_replaced(tmp_path):
    names = write_files(tmp_path)
    folder = build(tmp_path, names).folder
    folder.rename(folder.with_name(folder.name + ".tmp"))
    (folder.with_name(folder.name + ".tmp") / "header.json").unlink()
    assert len(build(tmp_path, names)) == 10


def test_files_that_grow_while_they_are_read_are_refused(tmp_path):
    names = write_files(tmp_path)

    def grow():
        yield from read_frames(names)
        with open(names[0], "a") as file:
            file.write("1\n\nH 0 0 0\n")

    with pytest.raises(DataError, match="changed while being read"):
        build(tmp_path, names, read=grow)


def _write_at_once(folder, names, counter, barrier):
    def read():
        with counter.get_lock():
            counter.value += 1
        return read_frames(names)

    barrier.wait()
    assert len(build(folder, names, read=read)) == 10


def test_of_two_writers_one_writes_and_both_read(tmp_path):
    names = write_files(tmp_path)
    context = multiprocessing.get_context("fork")
    counter, barrier = context.Value("i", 0), context.Barrier(3)
    workers = [
        context.Process(target=_write_at_once, args=(tmp_path, names, counter, barrier))
        for _ in range(3)
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
    assert [worker.exitcode for worker in workers] == [0, 0, 0]
    assert counter.value == 1


@pytest.mark.parametrize("name", ["frames.bin", "index.bin"])
def test_a_changed_byte_is_found(tmp_path, name):
    folder = build(tmp_path, write_files(tmp_path)).folder
    data = bytearray((folder / name).read_bytes())
    data[len(data) // 2] ^= 1
    (folder / name).write_bytes(data)
    with pytest.raises(DataError, match=r"damaged .*delete .*it is made again"):
        list(StoredFrames.of_store(FrameStore(folder)))


@pytest.mark.parametrize("name", ["frames.bin", "index.bin", "header.json"])
def test_a_cut_or_missing_file_is_found(tmp_path, name):
    folder = build(tmp_path, write_files(tmp_path)).folder
    data = (folder / name).read_bytes()
    (folder / name).write_bytes(data[:-10])
    with pytest.raises(DataError, match="damaged"):
        FrameStore(folder)
    (folder / name).unlink()
    with pytest.raises(DataError, match="damaged"):
        FrameStore(folder)


def test_a_store_of_another_version_is_refused(tmp_path):
    folder = build(tmp_path, write_files(tmp_path)).folder
    header = json.loads((folder / "header.json").read_text())
    header["format_version"] = 99
    (folder / "header.json").write_text(json.dumps(header))
    with pytest.raises(DataError, match="version 2, got 99"):
        FrameStore(folder)


def test_joined_and_chosen_frames_keep_their_weights_and_targets(tmp_path):
    names = write_files(tmp_path)
    store = build(tmp_path, names)
    one = StoredFrames.of_store(store, weight=0.5)
    two = StoredFrames.of_store(store, weight=2.0, target="energy/b").take([7, 1])
    joined = StoredFrames.join([one, two])
    assert len(joined) == 12
    assert [joined[i].target for i in (0, 10, 11)] == ["", "energy/b", "energy/b"]
    assert [joined[i].weight for i in (0, 10, 11)] == [0.5, 2.0, 2.0]
    assert joined[11].source == joined[1].source
    for name in ("n_atoms", "flags"):
        column = joined.read_column(name)
        np.testing.assert_array_equal(column[:10], column[:10])
    assert joined.read_column("n_atoms").tolist() == [f.n_atoms for f in joined]
    other = pickle.loads(pickle.dumps(joined))
    assert_same_frames(other, joined)


def test_kinds_say_which_frames_have_what(tmp_path):
    frames = StoredFrames.of_store(build(tmp_path, write_files(tmp_path)))
    seen = []
    for kind, indices in frames.iterate_kinds():
        for i in indices:
            assert sorted(set(frames[i].numbers.tolist())) == kind["elements"]
            assert frames[i].config_type == kind["config_type"]
        seen += indices.tolist()
    assert sorted(seen) == list(range(10))


@pytest.mark.parametrize("n_workers", [0, 2])
def test_a_streamed_data_set_is_one_in_memory(tmp_path, n_workers):
    names = write_files(tmp_path)
    store = build(tmp_path, names)
    stored = StoredFrames.of_store(store, weight=0.5)
    streamed = make_dataset(stored, CUTOFF)
    in_memory = SystemDataset(list(stored), CUTOFF)
    streamed.prepare(n_workers=n_workers)
    np.testing.assert_array_equal(streamed.count_tokens(), in_memory.count_tokens())
    for indices in ([0, 3, 7], list(range(10)), [4]):
        assert streamed.measure(indices) == pytest.approx(in_memory.measure(indices))
    for by, size in (("frames", 3), ("tokens", 60)):
        loaders = [
            BatchLoader(dataset, size, by=by, shuffle=True, n_workers=n)
            for dataset, n in ((in_memory, 0), (streamed, n_workers))
        ]
        for one, other in zip(*(x.iterate_steps(1) for x in loaders), strict=True):
            assert one.totals == pytest.approx(other.totals)
            for part, found in zip(one.parts, other.parts, strict=True):
                for a, b in zip(part.batch, found.batch, strict=True):
                    np.testing.assert_array_equal(a, b)
                for a, b in zip(part.labels, found.labels, strict=True):
                    np.testing.assert_array_equal(a, b)


def test_pairs_are_counted_once_for_a_store(tmp_path, monkeypatch):
    frames = StoredFrames.of_store(build(tmp_path, write_files(tmp_path)))
    counts = count_stored_tokens(frames, CUTOFF)
    monkeypatch.setattr("pet_calc.data.dataset.build_system", fail)
    some = frames.take(np.array([8, 2]))
    assert count_stored_tokens(some, CUTOFF).tolist() == counts[[8, 2]].tolist()


def test_a_data_set_is_the_same_from_memory_and_from_a_store(tmp_path):
    names = write_files(tmp_path)
    options = DatasetOptions(
        systems=names,
        indices=(9, 0, 4),
        weight=3.0,
        targets=(
            TargetOptions(unit="kcal/mol"),
            TargetOptions(name="energy/b", stress=LabelOptions(mode="off")),
        ),
    )
    kept, stored = (
        read_dataset(options, StoreRule(tmp_path / "s", when), main_target="energy")
        for when in ("never", "always")
    )
    assert isinstance(stored, StoredFrames)
    assert_same_frames(stored, kept)
    assert [frame.target for frame in kept] == ["energy"] * 3 + ["energy/b"] * 3
    assert kept[1].stress is not None
    assert kept[4].stress is None


def test_only_large_files_are_stored_by_themselves(tmp_path, monkeypatch, caplog):
    names = write_files(tmp_path)
    options = DatasetOptions(systems=names)
    rule = StoreRule(tmp_path / "stores")
    assert isinstance(read_dataset(options, rule), list)
    assert not (tmp_path / "stores").exists()
    monkeypatch.setattr("pet_calc.data.read_dataset.STORE_ABOVE_GB", 1e-6)
    with caplog.at_level("INFO", "pet_calc"):
        assert isinstance(read_dataset(options, rule), StoredFrames)
    assert "from 1e-06 GB on frames are not kept in memory" in caplog.text


def test_drawn_frames_are_all_of_few_and_a_fair_part_of_many():
    assert draw_frames(iter(range(5)), 10) == list(range(5))
    drawn = draw_frames(iter(range(10_000)), 1000)
    assert drawn == sorted(set(drawn))
    assert len(drawn) == 1000
    # the mean of 1000 of 0..9999: 5000, with a standard deviation of 87
    assert abs(np.mean(drawn) - 5000) < 400


def test_elements_are_stored_as_they_are(tmp_path, monkeypatch):
    """Every element that ASE has a symbol for fits into a byte."""
    path = tmp_path / "all.xyz"
    atoms = ase.Atoms(list(range(119)), [[2.0 * i, 0, 0] for i in range(119)])
    ase.io.write(path, atoms)
    assert store_module.FORMAT_VERSION == 2
    store = build(tmp_path, [str(path)])
    assert store.read(0).numbers.tolist() == list(range(119))
