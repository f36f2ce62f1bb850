"""Each example runs as its docstring says."""

import sys
from pathlib import Path

import ase.io
import pytest
from support.commands import PROGRAM, require_lammps, run_command

ROOT = Path(__file__).resolve().parents[1]
EXAMPLES = ROOT / "examples"


def run(name, *arguments, cwd):
    return run_command([sys.executable, EXAMPLES / name, *arguments], cwd)


def finetune(folder, rank):
    """A short run of the command line on the data of this repository."""
    data = ROOT / "data" / "dft"
    words = [
        *("finetune", f"{data / 'train.xyz'}@0:8", "--val", f"{data / 'val.xyz'}@0:2"),
        *("--base", "pet-gfn1-xs", "--target", "energy/pbe0", "--rank", str(rank)),
        *("--epochs", "1", "--quiet", "-o", str(folder)),
    ]
    run_command([PROGRAM, *words], folder.parent)
    return folder / "adapter.safetensors"


def test_relaxation(tmp_path):
    assert "relaxed energy" in run("relax.py", cwd=tmp_path)


def test_dynamics(tmp_path):
    text = run("dynamics.py", "pet-gfn1-xs", 20, "md.traj", cwd=tmp_path)
    assert "20 steps" in text
    assert (tmp_path / "md.traj").exists()


def test_drift(tmp_path):
    assert "energy drift" in run("drift.py", "pet-gfn1-xs", cwd=tmp_path)


@pytest.mark.lammps
def test_lammps(tmp_path):
    require_lammps()
    text = run("lammps_md.py", "pet-gfn1-xs", 10, "md", cwd=tmp_path)
    assert "compared  energy" in text
    assert "Loop time" in text
    assert (tmp_path / "md" / "final.data").exists()


@pytest.mark.slow
def test_adapters_side_by_side(tmp_path):
    adapters = [finetune(tmp_path / str(rank), rank) for rank in (2, 4)]
    text = run("adapters.py", "pet-gfn1-xs", *adapters, cwd=tmp_path)
    lines = text.splitlines()
    assert len(lines) == 3
    assert lines[-1].startswith("the base alone")


@pytest.mark.slow
def test_active_learning(tmp_path):
    pytest.importorskip("skmatter", reason="pip install 'pet-calc[select]'")
    pytest.importorskip("tblite", reason="pip install tblite, which labels the frames")
    text = run("active_learning.py", "--tiny", "-o", "loop", cwd=tmp_path)
    assert "$ pet-calc select" in text
    table = text[text.index("RMSE on held-out frames") :].splitlines()
    # round 0, and one round, by both ways
    assert [line.split()[:2] for line in table[2:6]] == [
        [number, way] for number in "01" for way in ("select", "random")
    ]
    assert table[6].startswith("rare frames among the first 2, seed 0: uncertainty ")
    assert [line.split()[:2] for line in table[-2:]] == [
        ["1", "select"],
        ["1", "random"],
    ]
    folder = tmp_path / "loop" / "seed-0"
    assert len(ase.io.read(folder / "select-1.xyz", ":")) == 2
    assert len(ase.io.read(folder / "random-rare.xyz", ":")) == 2
