"""The page of a run: its numbers, its words, and what it must not run."""

import json
import re
import shutil
import tracemalloc
from html.parser import HTMLParser

import numpy as np
import pytest
from ase.io import write
from support.frames import build_frames
from support.pages import EVIL
from support.runs import build_options

from pet_calc.errors import ConfigError
from pet_calc.evaluate import kept
from pet_calc.evaluate.kept_file import KeptFile, KeptPart
from pet_calc.page import PAGE_NAME, write_page
from pet_calc.page.read import ReadRun, read_run
from pet_calc.page.verdict import headline, judge, list_next_steps
from pet_calc.train import loop
from pet_calc.train.run import run_training


class Reader(HTMLParser):
    """Collects tags, attributes and text of a page."""

    def __init__(self):
        super().__init__()
        self.tags, self.numbers, self.texts = [], {}, []
        self._key = None

    def handle_starttag(self, tag, attrs):
        found = dict(attrs)
        self.tags.append((tag, found))
        self._key = found.get("data-key")
        if self._key:
            self.numbers[self._key] = [float(found["data-value"]), ""]

    def handle_data(self, data):
        self.texts.append(data)
        if self._key:
            self.numbers[self._key][1] += data

    def handle_endtag(self, tag):
        self._key = None


def read_page(path):
    reader = Reader()
    reader.feed(path.read_text())
    return reader


def look_up(report, key):
    """The value of the report at a dotted path; names of targets may have dots."""
    value = report
    for name in key.split("."):
        value = value[int(name)] if isinstance(value, list) else value[name]
    return value


@pytest.fixture(scope="module")
def page(finished):
    return read_page(write_page(finished))


def test_numbers_of_the_page_are_those_of_the_report(finished, page):
    report = json.loads((finished / "report.json").read_text())
    errors = {k: v for k, v in page.numbers.items() if k.endswith(("_mae", "_rmse"))}
    for name in ("zero_step", "validation", "test_before", "test"):
        assert f"{name}.forces_mae" in errors
    for key, (value, shown) in page.numbers.items():
        wanted = look_up(report, key)
        if isinstance(wanted, list):  # composition: base and now
            assert value in wanted
            continue
        assert value == wanted, key
        if key.startswith("physics."):  # in the unit of its row
            assert float(shown.split()[0]) == pytest.approx(wanted, rel=0.006), key
            continue
        # all errors are shown in meV and its like
        assert float(shown) == pytest.approx(1000 * wanted, rel=0.006), key


def test_names_from_files_are_text_only(finished, page):
    assert sum(tag == "script" for tag, _ in page.tags) <= 4
    assert not any(tag == "img" for tag, _ in page.tags)
    assert not any(name.startswith("on") for _, found in page.tags for name in found)
    text = (finished / PAGE_NAME).read_text()
    assert "<script>document.title" not in text
    assert "<img" not in text
    # and it is there, to be read
    assert any(EVIL in found for found in page.texts)


def test_nothing_is_loaded_from_elsewhere(finished, page):
    for tag, found in page.tags:
        for name in ("src", "href", "xlink:href"):
            link = found.get(name)
            assert link is None or link.startswith(("#", "data:")), (tag, link)
    assert (finished / PAGE_NAME).stat().st_size < 5e6


def test_identifiers_are_unique_and_links_lead_somewhere(page):
    ids = [found["id"] for _, found in page.tags if "id" in found]
    assert len(ids) == len(set(ids))
    links = {
        found[name][1:]
        for _, found in page.tags
        for name in ("href", "xlink:href", "aria-labelledby")
        if found.get(name, "").startswith("#")
    }
    assert links <= set(ids)
    pictures = [found for tag, found in page.tags if tag == "svg"]
    assert len(pictures) > 10
    assert all(found["aria-label"] and found["role"] == "img" for found in pictures)


def test_the_verdict_comes_first_and_says_what_became_better(finished, page):
    run = read_run(finished)
    assert "than the base" in headline(run)
    text = " ".join(sentence.text for sentence in judge(run))
    assert "On 6 test frames" in text
    assert "So few (6) say little" in text
    assert "not measured: name frames of it with --retain" in text
    headings = [found["id"] for tag, found in page.tags if tag == "section"]
    assert headings[0] == "verdict"


@pytest.mark.parametrize(
    ("energy", "forces", "words"),
    [
        (1.0, 0.05, "Better than the base, errors of energy 2 times smaller, forces 4"),
        (4.0, 0.05, "Better than the base in part only, errors of energy 2 times l"),
        (2.02, 0.199, "About the same as the base in errors of energy, forces"),
        (2.02, 0.05, "Better than the base, errors of energy about the same, forces"),
        (4.0, 0.40, "Worse than the base, errors of energy 2 times larger, forces 2"),
    ],
)
def test_the_headline_says_better_only_of_what_is(tmp_path, energy, forces, words):
    report = {
        "validation": {"energy_mae": energy, "forces_mae": forces},
        "zero_step": {"energy_mae": 2.0, "forces_mae": 0.2},
        "best_epoch": 3,
        "facts": {"provenance": {"base": "b.ckpt"}},
    }
    assert headline(ReadRun(tmp_path, report, is_ended=True)).startswith(words)


def test_a_killed_run_has_a_page_of_what_there_is(finished, tmp_path):
    folder = tmp_path / "killed"
    shutil.copytree(finished, folder)
    (folder / "report.json").unlink()
    (folder / "predictions" / "after.npz").unlink()
    run = read_run(folder)
    assert not run.is_ended
    page = read_page(write_page(folder))
    assert any("has not ended" in text for text in page.texts)
    assert any("--resume" in text for text in page.texts)
    assert "next" in {found.get("id") for _, found in page.tags}


def test_a_folder_without_a_run_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="expected the folder of a run"):
        write_page(tmp_path)


def test_an_interrupted_run_says_so_and_how_to_go_on(tmp_path, monkeypatch):
    finish = loop.Trainer._finish_epoch

    def interrupt(self, n_steps):
        row = finish(self, n_steps)
        self._stop.is_set = True
        return row

    monkeypatch.setattr(loop.Trainer, "_finish_epoch", interrupt)
    report = run_training(build_options(tmp_path, test="0.25"), show_progress=False)
    assert report.end == "interrupted"
    run = read_run(tmp_path / "run")
    assert "interrupted after 1 of 4 epochs" in judge(run)[1].text
    assert list_next_steps(run)[0][0] == "go on"
    write_page(tmp_path / "run")


def test_a_run_without_forces_is_said_to_be_no_use_for_dynamics(tmp_path):
    frames = build_frames()
    for frame in frames:
        frame.calc.results = {"energy": frame.get_potential_energy()}
    write(tmp_path / "energies.xyz", frames)
    options = build_options(tmp_path, data=str(tmp_path / "energies.xyz"))
    run_training(options, show_progress=False)
    page = write_page(tmp_path / "run").read_text()
    assert "not made for dynamics" in page
    assert "parity_energy" in page
    assert "parity_forces" not in page


def test_one_validation_frame_is_called_single(tmp_path):
    write(tmp_path / "one.xyz", build_frames(1, seed=5))
    options = build_options(tmp_path, validation=str(tmp_path / "one.xyz"))
    run_training(options, show_progress=False)
    run = read_run(tmp_path / "run")
    # whether it was beaten on that frame is chance
    run.report["best_epoch"] = 1
    assert any("a single validation frame" in s.text for s in judge(run))
    write_page(tmp_path / "run")


def test_the_page_has_what_the_uncertainty_was_fitted_to(tmp_path):
    options = build_options(tmp_path, uncertainty=True)
    report = run_training(options, show_progress=False)
    page = read_page(write_page(tmp_path / "run"))
    (calibration,) = report.uncertainty.values()
    key = "uncertainty.energy.reliability.table.0.error"
    wanted = calibration.reliability["table"][0]["error"]
    assert page.numbers[key][0] == wanted


def test_a_run_from_scratch_is_compared_with_its_start(finished, tmp_path):
    folder = tmp_path / "scratch"
    shutil.copytree(finished, folder)
    report = json.loads((folder / "report.json").read_text())
    report["facts"]["provenance"] |= {"base": "", "method": "full"}
    (folder / "report.json").write_text(json.dumps(report))
    text = write_page(folder).read_text()
    assert "A network trained from scratch" in text
    assert re.search(r">before training<", text)


@pytest.mark.slow
def test_a_hundred_thousand_frames_make_no_larger_page(finished, tmp_path):
    """As many predictions as a run keeps of them, in all three sets."""
    folder = tmp_path / "large"
    shutil.copytree(finished, folder)
    rng = np.random.default_rng(0)
    n_frames, n_atoms = kept.MOST_FRAMES, kept.MOST_ATOMS // kept.MOST_FRAMES
    labels = {
        "index": np.arange(0, 10 * n_frames, 10),
        "n_atoms": np.full(n_frames, n_atoms, np.int32),
        "numbers": rng.choice([1, 6, 8], n_frames * n_atoms).astype(np.uint8),
    }
    shapes = {
        "energy": (n_frames,),
        "forces": (n_frames * n_atoms, 3),
        "stress": (n_frames, 3, 3),
    }
    for name, shape in shapes.items():
        labels[f"{name}_label"] = rng.standard_normal(shape, np.float32)
    for file, error in (("before", 0.3), ("after", 0.1)):
        path = folder / "predictions" / f"{file}.npz"
        large = KeptFile.load(path)
        for key in large.predictions:
            found = {
                name: labels[f"{name}_label"]
                + error * rng.standard_normal(shape, np.float32)
                for name, shape in shapes.items()
            }
            large.predictions[key] = kept.KeptPredictions(**labels, **found)
            large.parts[key[0]] = KeptPart(10 * n_frames)
        large.save(path)
    tracemalloc.start()
    page = write_page(folder)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    # three times what the arrays of both files have: 21 MB
    assert peak < 200e6
    assert page.stat().st_size < 4e6
    assert "10,000 of 100,000 frames, evenly spread" in page.read_text()
