"""Other people's simulation programs, where they are installed."""

import importlib
import sys
from pathlib import Path

import pytest


def require(module, package):
    """Import a program's module, or skip the test."""
    return pytest.importorskip(
        module, reason=f"{package} is not installed (pip install {package})"
    )


def require_script(module, package, name):
    """Words that start a program's command, or a skipped test.

    pip puts commands beside Python, or in ``bin`` of the folder of ``--target``.
    """
    found = importlib.import_module(module) if require(module, package) else None
    folders = (Path(sys.executable).parent, Path(found.__file__).parents[1] / "bin")
    paths = [folder / name for folder in folders if (folder / name).is_file()]
    if not paths:
        pytest.skip(f"{package} has no command {name} here")
    return [sys.executable, str(paths[0])]
