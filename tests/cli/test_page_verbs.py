"""The page at the end of a run, and the verbs report, compare and plot."""

import csv
import json
import shutil
import signal
import subprocess
import sys

import pytest
from support.command_line import FINETUNE, SESSION
from support.frames import write_frames


def test_a_run_ends_with_its_page_and_what_to_do_next(tuned):
    folder = tuned.path("run")
    assert (folder / "report.html").is_file()
    lines = tuned.result.stdout.splitlines()
    (page,) = [line for line in lines if line.startswith("page ")]
    assert str(folder / "report.html") in page
    after = lines[lines.index(page) :]
    assert any(f"PETCalculator('{folder}/best_model.ckpt')" in line for line in after)
    assert any(line.endswith(f"pet-calc report {folder}") for line in after)
    assert any("pet-calc lammps input" in line for line in after)


def test_a_failing_page_leaves_a_good_run(paged, monkeypatch):
    from pet_calc.page import build

    def fail(run):
        raise RuntimeError("no ink")

    monkeypatch.setattr(build, "render_page", fail)
    data, base = paged.path("train.xyz"), paged.path("base.ckpt")
    flags = [*FINETUNE, *SESSION, "-o", paged.path("out")]
    result = paged("finetune", data, "-c", base, *flags)
    assert "could not be written (RuntimeError: no ink)" in result.stderr
    assert "Traceback" not in result.output
    assert (paged.path("out") / "report.json").is_file()
    assert not (paged.path("out") / "report.html").exists()


def test_report_makes_the_page_again(tuned, tmp_path):
    folder = tmp_path / "copy"
    shutil.copytree(tuned.path("run"), folder)
    (folder / "report.html").unlink()
    result = tuned("report", folder)
    assert (folder / "report.html").is_file()
    assert str(folder / "report.html") in result.stdout


def test_report_judges_further_frames_as_well(tuned, tmp_path):
    folder = tmp_path / "copy"
    shutil.copytree(tuned.path("run"), folder)
    data = write_frames(tmp_path, 5, seed=7, name="more.xyz")
    result = tuned("report", folder, "--data", data, "--device", "cpu")
    found = json.loads((folder / "report.json").read_text())["further"]
    shown = f"{1000 * found['after']['forces_mae']:.2f}"
    (line,) = [r for r in result.stdout.splitlines() if r.startswith("further ")]
    assert shown in line
    assert "On 5 further frames" in (folder / "report.html").read_text()


def test_report_takes_keys_only_of_further_frames(tuned):
    message = tuned.fail("report", tuned.path("run"), "--energy-key", "e")
    assert "say where --data is" in message


def test_report_needs_a_run(run):
    assert "expected the folder of a run" in run.fail("report", run.path("."))


def test_watch_of_a_run_that_has_ended_names_its_page(tuned):
    result = tuned("watch", tuned.path("run"))
    assert result.stdout.splitlines() == [
        "run        has ended before",
        f"page       {tuned.path('run') / 'report.html'}",
    ]


@pytest.mark.slow
def test_ctrl_c_ends_the_watching_and_not_the_run(tuned, tmp_path):
    folder = tmp_path / "copy"
    shutil.copytree(tuned.path("run"), folder)
    (folder / "report.json").unlink()
    program = "from pet_calc.cli.main import main; main()"
    words = [sys.executable, "-uc", program, "watch", str(folder)]
    # whoever started the tests in the background may have it ignored
    handler_before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        process = subprocess.Popen(words, stdout=subprocess.PIPE, text=True)
    finally:
        signal.signal(signal.SIGINT, handler_before)
    try:
        first = process.stdout.readline()
        assert first.startswith("page       http://127.0.0.1:")
        process.send_signal(signal.SIGINT)
        output, _ = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 0
    assert output.splitlines()[-1] == "watch      ended; the run goes on"


def test_compare_marks_what_must_not_be_compared(tuned, tmp_path):
    first, second = tuned.path("run"), tmp_path / "other"
    data = write_frames(tmp_path, seed=4)
    flags = [*FINETUNE, *SESSION, "-o", second]
    tuned("finetune", data, "-c", tuned.path("base.ckpt"), *flags)
    result = tuned("compare", first, second, "-o", tmp_path / "runs.html")
    assert "other: judged by another validation set than run" in result.stderr
    assert " *" in result.stdout
    page = (tmp_path / "runs.html").read_text()
    assert "must not be compared" in page


def test_compare_of_the_same_frames_shows_the_errors_of_the_reports(tuned, tmp_path):
    first, second = tuned.path("run"), tmp_path / "again"
    shutil.copytree(first, second)
    result = tuned("compare", first, second)
    assert "must not be compared" not in result.stderr
    report = json.loads((first / "report.json").read_text())
    shown = f"{1000 * report['validation']['forces_mae']:.0f}"
    rows = result.stdout.splitlines()
    assert [shown in row for row in rows[1:3]] == [True, True]


def test_one_run_is_no_comparison(tuned):
    assert "two or more runs" in tuned.fail("compare", tuned.path("run"))


def test_plot_writes_figures_and_the_numbers_behind_them(tuned, tmp_path):
    tuned("plot", tuned.path("run"), "-o", tmp_path / "figs", "--format", "svg")
    rows = list(
        csv.reader((tmp_path / "figs" / "curve_forces.csv").read_text().splitlines())
    )
    report = json.loads((tuned.path("run") / "report.json").read_text())
    assert rows[0] == ["epoch", "mae (meV/Å)"]
    assert float(rows[1][1]) == 1000 * report["zero_step"]["forces_mae"]
    for path in (tmp_path / "figs").glob("*.csv"):
        assert path.with_suffix(".svg").stat().st_size > 1000
