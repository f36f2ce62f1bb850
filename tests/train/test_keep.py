"""What a run keeps for its page: predictions before and after, facts, the worst."""

import json

import numpy as np
import pytest
from ase.io import read, write
from support.frames import build_frames, write_frames
from support.runs import build_options

from pet_calc.config import replace
from pet_calc.evaluate.kept import KeptPredictions, choose_kept, rank_frames
from pet_calc.evaluate.kept_file import KeptFile
from pet_calc.train import keep
from pet_calc.train.run import run_training

N_FRAMES = 24


def build_longer(folder, **flags):
    """Options of a run that beats its base."""
    data = write_frames(folder, N_FRAMES)
    return build_options(
        folder, data=data, test="0.25", method="full", epochs=8, **flags
    )


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """The report and the folder of a run with a test set."""
    folder = tmp_path_factory.mktemp("kept")
    report = run_training(build_longer(folder), show_progress=False)
    return report, folder / "run"


def get_table(report, part):
    (table,) = [table for table in report.kept if table["set"] == part]
    return table


def load(folder, name):
    return KeptFile.load(folder / keep.FOLDER_NAME / name)


def test_kept_predictions_have_the_errors_of_the_report(done):
    report, _ = done
    for part, before, after in (
        ("validation", report.zero_step, report.validation),
        ("test", report.test_before, report.test),
    ):
        table = get_table(report, part)
        for found, wanted in ((table["before"], before), (table["after"], after)):
            assert len(found) == 6
            for name, value in found.items():
                # kept in single precision
                assert value == pytest.approx(wanted[name], rel=1e-4), name


def test_before_and_after_are_the_same_frames_in_the_same_orientation(done):
    _, folder = done
    before, after = load(folder, keep.BEFORE_NAME), load(folder, keep.AFTER_NAME)
    assert before.parts == after.parts
    assert before.predictions.keys() == after.predictions.keys()
    for key, own in after.predictions.items():
        assert own.has_same_labels(before.predictions[key])
        assert not np.array_equal(own.forces, before.predictions[key].forces)


def test_groups_add_up_to_their_set(done):
    table = get_table(done[0], "train")
    groups = [g for g in table["groups"] if g["kind"] == "element"]
    total = sum(g["n_atoms"] * g["errors"]["forces_mae"] for g in groups)
    n_atoms = sum(g["n_atoms"] for g in groups)
    assert total / n_atoms == pytest.approx(table["after"]["forces_mae"], rel=1e-6)
    assert {g["name"] for g in groups} == {"H", "O", "Al"}


def test_viewed_frames_stand_as_in_their_file(done):
    report, folder = done
    viewed = load(folder, keep.AFTER_NAME).viewed
    frames = build_frames(N_FRAMES)
    for i, rows in enumerate(viewed.slices()):
        file, _, number = viewed.sources[i].rpartition(", frame ")
        assert file.endswith("train.xyz")
        frame = frames[int(number)]
        np.testing.assert_allclose(viewed.positions[rows], frame.positions, atol=1e-5)
        np.testing.assert_allclose(
            viewed.forces_label[rows], frame.get_forces(), atol=1e-4
        )
    worst = [viewed.sources[i] for i, is_it in enumerate(viewed.is_worst) if is_it]
    assert worst == [entry["source"] for entry in report.worst]
    errors = [entry["forces_rmse"] for entry in report.worst]
    assert errors == sorted(errors, reverse=True)


def test_facts_say_what_was_trained_on_what(done):
    report, folder = done
    facts = report.facts
    assert facts["provenance"]["n_frames"]["train"] == 12
    assert facts["census"]["train"]["energy"]["n_frames"] == 12
    assert set(facts["composition"]["energy"]) == {"H", "O", "Al"}
    assert any("in the proportions only" in text for text in facts["warnings"])
    n_trained = sum(row["n_trainable"] for row in facts["trainable"])
    assert n_trained == report.n_trainable
    start = json.loads((folder / keep.FOLDER_NAME / keep.START_NAME).read_text())
    assert start["test_before"] == report.test_before
    assert start["provenance"] == facts["provenance"]


def test_a_resumed_run_keeps_what_was_before_its_first_step(done, tmp_path):
    whole, _ = done
    options = build_longer(tmp_path)
    run_training(options, stop_after=2, show_progress=False)
    resumed = run_training(options, is_resumed=True, show_progress=False)
    assert resumed.test_before == whole.test_before
    assert resumed.kept == whole.kept


def test_a_stored_set_keeps_what_one_in_memory_keeps(done, tmp_path):
    whole, _ = done
    options = build_longer(tmp_path, store=str(tmp_path / "store"))
    report = run_training(options, show_progress=False)
    for mine, theirs in zip(report.kept, whole.kept, strict=True):
        assert mine["n_frames"] == theirs["n_frames"]
        assert mine["before"] == pytest.approx(theirs["before"])


def test_without_forces_there_are_energies_alone(tmp_path):
    for frame in (frames := build_frames()):
        frame.calc.results = {"energy": frame.get_potential_energy()}
    write(tmp_path / "energies.xyz", frames)
    options = build_options(tmp_path, data=str(tmp_path / "energies.xyz"))
    report = run_training(options, show_progress=False)
    table = get_table(report, "validation")
    assert set(table["after"]) == {"energy_mae", "energy_rmse"}
    assert table["groups"] == []
    assert all(entry["forces_rmse"] is None for entry in report.worst)
    errors = [abs(entry["energy_error"]) for entry in report.worst]
    assert errors == sorted(errors, reverse=True)


def test_groups_of_config_types_have_their_names(tmp_path):
    frames = build_frames()
    for i, frame in enumerate(frames):
        frame.info["config_type"] = "<b>bulk</b>" if i % 3 == 0 else "water"
    write(tmp_path / "kinds.xyz", frames)
    assert "config_type" in read(tmp_path / "kinds.xyz").info
    options = build_options(tmp_path, data=str(tmp_path / "kinds.xyz"))
    report = run_training(replace(options, output=str(tmp_path / "k")))
    table = get_table(report, "train")
    kinds = {g["name"]: g for g in table["groups"] if g["kind"] == "config_type"}
    assert set(kinds) == {"<b>bulk</b>", "water"}
    assert "stress_mae" not in kinds["water"]["errors"]
    assert kinds["water"]["before"].keys() == kinds["water"]["errors"].keys()


def build_kept(n_frames=3):
    rng = np.random.default_rng(0)
    n_atoms = np.arange(1, n_frames + 1, dtype=np.int32)
    n_rows = int(n_atoms.sum())

    def draw(*shape):
        return rng.standard_normal(shape).astype(np.float32)

    return KeptPredictions(
        index=np.arange(n_frames)[::-1].copy(),
        n_atoms=n_atoms,
        energy_label=draw(n_frames),
        energy=draw(n_frames),
        stress_label=draw(n_frames, 3, 3),
        stress=draw(n_frames, 3, 3),
        numbers=np.arange(1, n_rows + 1, dtype=np.uint8),
        forces_label=draw(n_rows, 3),
        forces=draw(n_rows, 3),
    )


def test_joined_parts_are_in_the_order_of_the_set():
    kept = build_kept()
    joined = KeptPredictions.join([kept.take(np.array([k])) for k in range(3)])
    assert joined.index.tolist() == [0, 1, 2]
    assert joined.numbers.tolist() == [4, 5, 6, 2, 3, 1]
    np.testing.assert_array_equal(rank_frames(joined), rank_frames(kept)[::-1])


def test_a_file_gives_back_what_was_saved(tmp_path):
    file = KeptFile(predictions={("test", "energy/pbe"): build_kept()})
    file.save(tmp_path / "kept.npz")
    found = KeptFile.load(tmp_path / "kept.npz").predictions["test", "energy/pbe"]
    for name, value in vars(file.predictions["test", "energy/pbe"]).items():
        np.testing.assert_array_equal(getattr(found, name), value)


def test_few_frames_of_many_are_kept_evenly_spread():
    frames = build_frames(12) * 10
    n_atoms = sum(len(frame) for frame in frames)

    class Sized:
        def __init__(self, frame):
            self.n_atoms = len(frame)

    chosen = choose_kept([Sized(f) for f in frames], most_atoms=n_atoms // 4)
    assert len(chosen) == len(frames) // 4
    assert chosen[0] == 0
    assert chosen[-1] == len(frames) - 1
    assert set(np.diff(chosen)) <= {3, 4, 5}
