"""Programs that tests run as a user does."""

import os
import subprocess
import sys
from pathlib import Path

PROGRAM = Path(sys.executable).with_name("pet-calc")


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
