"""The benchmark scripts run, on something tiny."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
import yaml
from support.benchmarks import BENCHMARKS, load
from support.frames import write_frames
from support.models import TINY
from support.runs import write_base


@pytest.mark.slow
def test_the_table_of_fine_tunings_is_made_row_by_row(tmp_path, monkeypatch):
    script = load("finetune_table")
    write_frames(tmp_path)
    retain = write_frames(tmp_path, seed=3, name="retain.xyz")
    monkeypatch.setitem(
        script.SETS, "acac", ("train.xyz@:6", "train.xyz@6:9", "train.xyz@9:")
    )
    command = [
        *("table", "--data", tmp_path, "--set", "acac", "--base", write_base(tmp_path)),
        *("--retain", retain, "--steps", "3", "--batch-size", "4"),
        *("--replay-generate", "3", "-o", tmp_path / "out"),
    ]

    def run(*only):
        words = [*map(str, command), "--only", *only]
        monkeypatch.setattr(sys, "argv", words)
        script.main()
        return (tmp_path / "out" / "acac" / "table.md").read_text().splitlines()

    base = run("base")[-1].split("|")
    assert [cell.strip() for cell in base[1:3]] == ["base", "0.0"]
    # nothing was trained, so nothing is forgotten
    assert [cell.strip() for cell in base[-3:-1]] == ["1.00", "1.00"]
    file = tmp_path / "out" / "acac" / "base" / "row.json"
    made = file.stat().st_mtime_ns
    lines = run("base", "LoRA r=4, replay")
    assert file.stat().st_mtime_ns == made
    assert lines[-2] == "|".join(base)
    # two steps in an epoch of six frames
    assert lines[-1].startswith("| LoRA r=4, replay | ")
    assert lines[-1].split("|")[8].strip() == "4"
    row = json.loads(
        (tmp_path / "out" / "acac" / "lora-r4-replay" / "row.json").read_text()
    )
    assert row["memory_gb"] > 0.05

    command[command.index("--steps") + 1] = "30"
    with pytest.raises(SystemExit, match="holds a row with other options"):
        run("LoRA r=4, replay")


@pytest.mark.slow
def test_what_trainings_learn_of_orientation_is_shown_row_by_row(tmp_path):
    rows = ["base", "LoRA, consistency", "metatrain full"]
    script = BENCHMARKS / "orientation.py"
    command = [sys.executable, script, "--data", BENCHMARKS.parent / "data" / "dft"]
    command += ["--set", "glycol", "--steps", 2, "--only", *rows, "-o", tmp_path]
    done = subprocess.run(
        list(map(str, command)), capture_output=True, text=True, check=True
    )
    lines = done.stdout.splitlines()[-3:]
    assert [line.split("|")[1].strip() for line in lines] == rows
    for line in lines:
        assert all(float(cell) >= 0 for cell in line.split("|")[2:-1])


@pytest.mark.slow
def test_fine_tuning_is_compared_with_metatrain_s_at_equal_steps(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    script = load("lora_against_metatrain")
    write_frames(tmp_path)
    frames = (["train.xyz@:8"], ["train.xyz@8:"])
    monkeypatch.setattr(script, "DATA_SETS", {"water": frames})
    monkeypatch.setattr(script, "BASE_FRAMES", ("train.xyz@:",))
    monkeypatch.setattr(script, "BASE_MODEL", TINY)
    words = ["compare", "--data", tmp_path, "-o", tmp_path / "out"]
    words += ["--base-epochs", "2", "--epochs", "2", "--rank", "2", "--rows"]
    words += ["base", "metatrain, LoRA, step 0", "metatrain, all weights"]
    monkeypatch.setattr(sys, "argv", [*map(str, words)])
    script.main()

    def read(name):
        file = tmp_path / "out" / "water" / script.make_slug(name) / "row.json"
        return json.loads(file.read_text())

    base, start, full = map(read, words[-3:])
    assert [row[0] for row in (base, start, full)] == [0, 0, 4]
    # A and B are random: what has learned nothing yet is another model
    assert start[1] != base[1]
    options = tmp_path / "out" / "water" / "metatrain-all-weights" / "options.yaml"
    loss = yaml.safe_load(options.read_text())["architecture"]["training"]["loss"]
    assert loss["energy"]["weight"] == 10.0
    assert loss["energy"]["forces"]["weight"] == 1.0


def run_script(name, *words, shape="tiny"):
    """Run a script as a user does; return the cells of its table's rows."""
    root = str(BENCHMARKS.parent)
    shape_words = ["--shape", shape] if shape else []
    done = subprocess.run(
        [sys.executable, BENCHMARKS / f"{name}.py", *shape_words, *words],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": root, "OMP_NUM_THREADS": "1"},
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    rows = [line for line in done.stdout.splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in row.strip("|").split("|")] for row in rows]


@pytest.mark.slow
def test_times_against_size_are_fitted_and_drawn(tmp_path):
    pytest.importorskip("matplotlib")
    picture = tmp_path / "scaling.png"
    programs = ["metatrain", "model"]
    _, *rows, fit = run_script(
        *("size_scaling", "--max-atoms", "130", "--rounds", "1"),
        *("--programs", *programs, "--plot", str(picture)),
    )
    assert [row[0] for row in rows] == ["64", "128"]
    # two sizes: the fit goes through both points, but for the rounding of the table
    for column in (1, 2):
        small, large = (float(row[column]) for row in rows)
        assert float(fit[column]) == pytest.approx(np.log2(large / small), abs=0.05)
    assert picture.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("has_kokkos", [True, False])
def test_pet_kokkos_is_a_peer_where_it_is_installed(has_kokkos, monkeypatch):
    pytest.importorskip("metatrain", reason="the script compares with metatrain")
    monkeypatch.syspath_prepend(BENCHMARKS)
    script = load("single_point")
    found = torch.device("cpu") if has_kokkos else None
    monkeypatch.setattr(script, "find_device", lambda: found)
    assert ("pet-kokkos" in script.list_programs("float32", "cpu")) == has_kokkos
    assert "pet-kokkos" not in script.list_programs("float64", "cpu")
    assert "pet-kokkos" not in script.list_programs("float32", "cuda")


@pytest.mark.slow
def test_overhead_is_shown_beside_the_bare_network():
    _, *rows = run_script("overhead", "--rounds", "1")
    names = [row[0] for row in rows]
    assert names[:2] == ["model, bare", "model, calculator"]
    assert "model, bare, LoRA merged" in names
    assert rows[0][2:] == ["+0.00", "1.00"]
    assert all(float(row[1]) > 0 for row in rows)


@pytest.mark.slow
def test_the_cost_of_an_uncertainty_is_shown_by_route():
    _, *rows = run_script("uncertainty_cost", "--rounds", "1")
    names = [row[0] for row in rows]
    assert names[:4] == [
        *("PyTorch", "PyTorch, uncertainty"),
        *("engine", "engine, uncertainty"),
    ]
    assert "engine, a pass of PyTorch" in names
    assert all(float(row[1]) > 0 for row in rows)
    assert [row[2].endswith(" %") for row in rows[:4]] == [False, True, False, True]


@pytest.mark.slow
def test_throughput_is_shown_by_processes(tmp_path):
    frames = write_frames(tmp_path)
    _, *rows = run_script(
        *("processes", "--base", str(write_base(tmp_path)), "--frames", str(frames)),
        *("--processes", "1", "2", "--rounds", "1", "--batch-size", "4"),
        shape=None,
    )
    settings = [["1", "1"], ["2", "1"], ["1", "2"]]
    assert [row[:3] for row in rows] == [
        [task, *setting] for task in ("eval", "finetune") for setting in settings
    ]
    # how fast such short runs are is noise
    assert rows[0][4] == rows[3][4] == "1.00"


@pytest.mark.slow
def test_peak_memory_is_that_of_a_process_of_its_own():
    tasks = ["single point, model", "step, lora"]
    _, *rows = run_script("peak_memory", "--atoms", "64", "--tasks", *tasks)
    assert [row[0] for row in rows] == tasks
    for row in rows:
        # torch alone is more than 100 MB, and a step of anything takes some
        assert float(row[1]) > 100
        assert float(row[2]) > 1


def test_wrong_copies_are_counted_for_each_base():
    rows = run_script("wrong_copies", "--quick", "--sets", "materials", shape=None)
    right = rows[1:4]
    assert [row[0] for row in right] == ["bundled base", "random weights", "no base"]
    # nothing that is right is refused, or warned of
    assert all(row[1].startswith("0 (0) of ") for row in right)
    kbar = next(row for row in rows if row[:3] == ["kbar", "either", "any"])
    assert kbar[3] == "100 (100), -, -"


@pytest.mark.slow
def test_what_others_on_the_cores_cost_is_shown():
    words = ["--rounds", "1", "--seconds", "1.5", "--loops", "1"]
    _, *rows = run_script("shared_cores", *words)
    assert [row[:2] for row in rows] == [
        [name, way]
        for name in ("ethanol", "64 Si")
        for way in ("all threads", "one thread", "calculator")
    ]
    assert all(float(cell) > 0 for row in rows for cell in row[2:])


@pytest.mark.slow
def test_all_benchmarks_make_one_report(tmp_path):
    parts = ["single points, tiny, float64", "training steps", "batches of molecules"]
    words = ["-o", str(tmp_path), "--quick", "--threads", "1", "--only", *parts]
    run_script("run_all", *words, shape=None)
    text = (tmp_path / "report.md").read_text()
    assert [line[3:] for line in text.splitlines() if line.startswith("## ")] == parts
    # what each table is there for
    for row in ("| ethanol (9) | ", "| silicon, 4 frames | lora | ", "| pet-calc, mod"):
        assert f"\n{row}" in text


def test_a_benchmark_that_fails_is_named_and_ends_no_other(monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(BENCHMARKS)
    script = load("run_all")
    arguments = ["run_all", "-o", str(tmp_path), "--only", "training steps", "overhead"]
    monkeypatch.setattr(sys, "argv", arguments)
    made = [("", "ImportError: no metatrain"), ("| a table |", "")]
    monkeypatch.setattr(script, "run_section", lambda command: made.pop(0))
    with pytest.raises(SystemExit, match="failed: training steps"):
        script.main()
    text = (tmp_path / "report.md").read_text()
    assert "**Failed:** ImportError: no metatrain" in text
    assert "| a table |" in text


def test_radii_that_ten_steps_do_not_find_are_counted(tmp_path, monkeypatch, capsys):
    write_frames(tmp_path)
    monkeypatch.setattr(sys, "argv", ["radii", "--data", str(tmp_path)])
    load("adaptive_radii").main()
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].endswith("frames of 1 files")
    assert lines[4] == "| 1.0 | 0 | 0 |"
    assert len(lines) == 8
