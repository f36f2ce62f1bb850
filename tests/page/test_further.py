"""Further frames that a finished run is judged by."""

import json
import shutil

import numpy as np
import pytest
from ase.io import read, write
from support.pages import EVIL, write_kinds
from support.runs import build_options

from pet_calc.config import read_options, replace, write_options
from pet_calc.errors import ConfigError, DataError
from pet_calc.evaluate import further as judging
from pet_calc.evaluate.run import EvaluationOptions, run_evaluation
from pet_calc.page import further, write_page
from pet_calc.page.build import describe_further
from pet_calc.page.further import add_further
from pet_calc.page.read import read_run
from pet_calc.train.run import run_training


@pytest.fixture(scope="module")
def judged(tmp_path_factory):
    """A run judged again by its own validation file."""
    folder = tmp_path_factory.mktemp("further")
    data = write_kinds(folder / "kinds.xyz", 9)
    held_out = write_kinds(folder / "held_out.xyz", 6)
    options = build_options(
        folder, data=data, validation=held_out, method="full", epochs=2
    )
    run_training(options, show_progress=False)
    add_further(folder / "run", [held_out], device="cpu")
    return folder / "run"


def test_the_same_frames_give_the_errors_of_the_run_and_of_eval(judged):
    report = json.loads((judged / "report.json").read_text())
    found = report["further"]
    for name, value in found["after"].items():
        assert value == pytest.approx(report["validation"][name], rel=1e-9), name
    for name, value in found["before"].items():
        assert value == pytest.approx(report["zero_step"][name], rel=1e-9), name
    dataset = read_options(judged / "options_resolved.yaml").validation_set[0]
    model = str(judged / report["best_model"].rpartition("/")[2])
    by_eval = run_evaluation(EvaluationOptions(model, dataset, device="cpu"))
    assert by_eval.errors.judged.to_dict() == pytest.approx(found["after"], rel=1e-9)


def test_they_are_a_set_of_their_own_on_the_page(judged):
    page = write_page(judged).read_text()
    assert EVIL not in page  # but escaped
    for wanted in (
        "Further set",
        "held_out.xyz",
        "On 6 further frames",
        "The worst frames of the further set",
        'data-key="further.after.forces_mae"',
        "By element, further set",
    ):
        assert wanted in page, wanted
    assert "<script>document.title" not in page
    run = read_run(judged)
    assert set(run.after.viewed.sets) == {"train", "validation", "further"}
    # one map of all of them
    assert len(run.after.viewed.places) == len(run.after.viewed.sets)


def test_without_the_base_it_says_why(judged, tmp_path, monkeypatch):
    folder = tmp_path / "run"
    shutil.copytree(judged, folder)
    report = json.loads((folder / "report.json").read_text())
    report["facts"]["provenance"]["base"] = str(tmp_path / "gone.ckpt")
    (folder / "report.json").write_text(json.dumps(report))
    found = add_further(folder, [str(judged.parent / "held_out.xyz")], device="cpu")
    assert found["before"] == {}
    assert "cannot be loaded" in found["why_no_base"]
    assert "Without the base" in describe_further(read_run(folder))


def test_another_base_under_the_old_name_is_not_compared_with(judged, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(judged, folder)
    report = json.loads((folder / "report.json").read_text())
    report["facts"]["provenance"]["base_fingerprint"] = "0" * 64
    (folder / "report.json").write_text(json.dumps(report))
    found = add_further(folder, [str(judged.parent / "held_out.xyz")], device="cpu")
    assert "another model" in found["why_no_base"]


def test_only_some_of_many_frames_are_kept(judged, tmp_path, monkeypatch):
    folder = tmp_path / "run"
    shutil.copytree(judged, folder)
    spread = judging.spread_evenly
    monkeypatch.setattr(
        judging,
        "spread_evenly",
        lambda n, n_atoms: spread(n, n_atoms, most_frames=3),
    )
    monkeypatch.setattr(judging, "N_WORST", 2)
    monkeypatch.setattr(further, "MOST_VIEWED", 2)
    found = add_further(folder, [str(judged.parent / "held_out.xyz")], device="cpu")
    assert (found["n_frames"], found["kept"]["n_frames"]) == (6, 3)
    assert len(found["worst"]) == 2
    # whole sets are of all frames all the same
    report = json.loads((judged / "report.json").read_text())
    assert found["after"] == pytest.approx(report["further"]["after"])


def test_frames_without_labels_are_refused(judged, tmp_path):
    frames = read(judged.parent / "held_out.xyz", ":2")
    for frame in frames:
        frame.calc = None
        frame.positions += 0.01 * np.ones(3)
    write(tmp_path / "bare.xyz", frames)
    with pytest.raises(DataError, match="no frame has a label"):
        add_further(judged, [str(tmp_path / "bare.xyz")], device="cpu")


def test_a_run_without_a_result_is_refused(judged, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(judged, folder)
    (folder / "report.json").unlink()
    with pytest.raises(ConfigError, match="no result yet"):
        add_further(folder, ["x.xyz"])


def test_labels_are_where_the_training_set_has_them(judged):
    run = read_run(judged)
    options = read_options(judged / "options_resolved.yaml")
    (own,) = options.training_set
    named = replace(own.targets[0], key="dft_energy")
    changed = replace(options, training_set=(replace(own, targets=(named,)),))
    path = judged / "options_resolved.yaml"
    text = path.read_text()
    try:
        write_options(changed, path)
        found = further.find_dataset(run, ["more.xyz"])
    finally:
        path.write_text(text)
    assert found.targets[0].key == "dft_energy"
    assert found.read_from == ("more.xyz",)
