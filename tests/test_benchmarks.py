"""The benchmark scripts run, on something tiny."""

import importlib.util
import json
import sys
from pathlib import Path

import pytest
from training_data import write_base, write_frames

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


def load(name):
    spec = importlib.util.spec_from_file_location(name, BENCHMARKS / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


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
    assert lines[-1].split("|")[6].strip() == "4"
    row = json.loads(
        (tmp_path / "out" / "acac" / "lora-r4-replay" / "row.json").read_text()
    )
    assert row["memory_gb"] > 0.05

    command[command.index("--steps") + 1] = "30"
    with pytest.raises(SystemExit, match="holds a row with other options"):
        run("LoRA r=4, replay")
