"""The short form of `validate` at the end of a run."""

import ase.build
import pytest
from support.runs import build_options

from pet_calc.checkpoint import load_checkpoint
from pet_calc.config import replace
from pet_calc.data.frames import NO_NAME, LabeledFrame
from pet_calc.page.read import read_run
from pet_calc.page.verdict import judge
from pet_calc.train import physics
from pet_calc.train.datasets import RunFrames
from pet_calc.train.physics import MOST_TOKENS, choose_check
from pet_calc.train.run import run_training


@pytest.fixture(scope="module")
def ended(tmp_path_factory):
    """A run that has ended as a user's does, and its options."""
    folder = tmp_path_factory.mktemp("physics")
    options = build_options(folder, epochs=1)
    return run_training(options, show_progress=False), options


def build_run_frames(structures):
    return RunFrames(validation=[LabeledFrame.from_atoms(a) for a in structures])


def test_a_run_ends_with_the_physics_of_its_best_model(ended):
    report, options = ended
    found = read_run(options.output).report["physics"]
    names = [row["name"] for row in found["rows"]]
    assert names[:4] == ["forces", "translation", "permutation", "extensivity"]
    assert {"rotation", "energy jump", "contacts", "dimers"} <= set(names)
    assert {row["verdict"] for row in found["rows"][:4]} == {"ok"}
    assert found["frame"] == report.physics.frame.source
    assert "dimers" not in found
    assert f"physics    {report.physics.report.summarize()}" in report.to_text()


def test_the_page_says_what_was_found(ended):
    _, options = ended
    texts = [sentence.text for sentence in judge(read_run(options.output))]
    (found,) = [text for text in texts if text.startswith("Physics")]
    # the network has hardly learned anything, and no wall
    assert "dimers fails (" in found
    assert "pet-calc validate" in found
    tones = {s.text: s.tone for s in judge(read_run(options.output))}
    assert tones[found] == "bad"


def test_an_option_leaves_it_out(tmp_path, with_physics):
    options = build_options(tmp_path, epochs=1)
    options = replace(options, final_validation=False)
    report = run_training(options, show_progress=False)
    assert report.physics is None
    assert read_run(options.output).report["physics"] is None
    assert not [s for s in judge(read_run(options.output)) if "Physics" in s.text]


def test_a_run_that_has_stopped_is_not_validated_yet(tmp_path, with_physics):
    options = build_options(tmp_path, epochs=2)
    assert run_training(options, stop_after=1, show_progress=False).physics is None


def test_a_run_ends_well_where_its_model_cannot_be_validated(
    tmp_path, with_physics, monkeypatch, caplog
):
    def run_out(*args, **kwargs):
        raise RuntimeError("CUDA out of memory")

    monkeypatch.setattr(physics, "validate", run_out)
    options = build_options(tmp_path, epochs=1)
    report = run_training(options, show_progress=False)
    assert "could not be looked at: CUDA out of memory" in report.to_text()
    assert "CUDA out of memory" in caplog.text
    assert read_run(options.output).report["physics"] is None


def test_the_model_is_the_same_with_and_without_it(ended, tmp_path):
    _, options = ended
    other = replace(options, output=str(tmp_path / "run"), final_validation=False)
    run_training(other, show_progress=False)
    one, two = (
        load_checkpoint(f"{each.output}/best_model.ckpt").state
        for each in (options, other)
    )
    assert all(one[name].equal(two[name]) for name in one)


def test_the_frame_is_of_middling_size_where_that_is_fast():
    molecules = [ase.build.molecule(name) for name in ("H2O", "CH4", "CH3CH2OH")]
    chosen = choose_check(build_run_frames(molecules), NO_NAME, 4.0)
    assert chosen.frame.n_atoms == 5
    assert not chosen.is_large


def test_of_large_frames_the_smallest_is_taken_and_looked_at_less():
    cell = ase.build.bulk("Al", "fcc", 4.05, cubic=True)
    structures = [cell.repeat(n) for n in (2, 3, 3)]
    chosen = choose_check(build_run_frames(structures), NO_NAME, 5.0)
    assert chosen.frame.n_atoms == 32
    assert chosen.is_large
    assert MOST_TOKENS < 32 * 43


def test_frames_that_would_take_long_are_left_to_the_verb(caplog):
    cell = ase.build.bulk("Al", "fcc", 4.05, cubic=True).repeat(3)
    with caplog.at_level("INFO", "pet_calc"):
        assert choose_check(build_run_frames([cell]), NO_NAME, 7.0) is None
    assert "pet-calc validate --quick" in caplog.text


def test_without_validation_frames_there_is_nothing_to_look_at():
    assert choose_check(RunFrames(), "energy", 4.0) is None
