"""Runs side by side: what may be compared, and how it looks."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from pet_calc.evaluate.kept_file import KeptFile
from pet_calc.page.compare import (
    compare_runs,
    name_apart,
    plot_parities,
    tabulate,
    write_comparison,
)


@pytest.fixture(scope="module")
def pair(finished, tmp_path_factory):
    """Two runs with one test set; the second one's name is no HTML."""
    folder = tmp_path_factory.mktemp("pair")
    for name in ("first", "<b>second"):
        shutil.copytree(finished, folder / name)
    return [folder / "first", folder / "<b>second"]


def change_report(folder, change):
    report = json.loads((folder / "report.json").read_text())
    change(report)
    (folder / "report.json").write_text(json.dumps(report))


def test_the_same_frames_give_parity_plots_on_the_same_axes(pair):
    comparison = compare_runs(pair)
    assert comparison.notes == []
    plots = {plot.name: plot for plot in plot_parities(comparison)}
    one, other = (plots[f"compare_parity_forces_{i}"] for i in (0, 1))
    assert "test: first" in one.title
    assert "test: <b>second" in other.title
    assert one.figure.axes[0].get_xlim() == other.figure.axes[0].get_xlim()
    kept = KeptFile.load(pair[0] / "predictions" / "after.npz")
    wanted = kept.predictions["test", "energy"].forces.ravel()
    np.testing.assert_allclose(one.columns["first"], wanted)


def test_the_page_of_a_comparison_escapes_names(pair, tmp_path):
    write_comparison(compare_runs(pair), tmp_path / "runs.html")
    page = (tmp_path / "runs.html").read_text()
    assert "Predictions over labels" in page
    assert "<b>" not in page
    assert "&lt;b&gt;second" in page
    assert "default-src 'none'" in page


def test_other_labels_of_the_same_frames_are_other_data(pair, tmp_path):
    shutil.copytree(pair[0], tmp_path / "other")
    path = tmp_path / "other" / "predictions" / "after.npz"
    kept = KeptFile.load(path)
    kept.predictions["test", "energy"].forces_label[0, 0] += 0.1
    kept.save(path)
    comparison = compare_runs([*pair, tmp_path / "other"])
    assert comparison.differences["test"] == ["other"]
    assert "other: judged by another test set than first" in comparison.notes[0]
    assert not any("other" in plot.title for plot in plot_parities(comparison))
    table = tabulate(comparison)
    marked = [any(c.text.endswith("*") for c in row) for row in table.rows]
    assert marked == [False, False, True]


def test_names_are_as_long_as_tells_runs_apart():
    paths = [Path(f"/data/{name}/run") for name in ("water", "ice", "ice")]
    assert name_apart(paths[:2]) == ["water/run", "ice/run"]
    assert name_apart([Path("/data/rank4"), Path("/x/rank8")]) == ["rank4", "rank8"]
    assert len(set(name_apart(paths))) == 3


def test_a_run_without_a_test_set_is_not_said_to_have_another_one(pair, tmp_path):
    shutil.copytree(pair[0], tmp_path / "untested")
    change_report(tmp_path / "untested", lambda r: r.update(test={}, test_before={}))
    comparison = compare_runs([tmp_path / "untested", *pair])
    assert comparison.notes == []
    assert comparison.differences["test"] == []
    assert [name for name, _ in comparison.comparable("test")] == [
        "first",
        "<b>second",
    ]
