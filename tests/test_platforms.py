"""The package where Linux's own things are missing, as on macOS and Windows."""

import subprocess
import sys

import pytest

SCRIPT = """
import builtins, os, sys
from pathlib import Path

# before anything is imported: what only Linux, or only Unix, has
sys.modules["fcntl"] = None
del os.sched_getaffinity
kept = {{name: getattr(Path, name) for name in ("exists", "open", "read_text")}}
kept_open = builtins.open


def hide(name):
    def method(self, *args, **kwargs):
        if str(self).startswith("/proc"):
            if name == "exists":
                return False
            raise FileNotFoundError(str(self))
        return kept[name](self, *args, **kwargs)

    return method


def open_file(file, *args, **kwargs):
    if str(file).startswith("/proc"):
        raise FileNotFoundError(str(file))
    return kept_open(file, *args, **kwargs)


for name in kept:
    setattr(Path, name, hide(name))
builtins.open = open_file

import importlib
import pkgutil

import ase.build
import ase.optimize
import click
import filelock
import huggingface_hub
import metatomic_ase
import torch
import torch.distributed
import tqdm
import vesin
import yaml

# the libraries think they are on Linux, where they are
sys.platform = "{platform}"

import pet_calc

for module in pkgutil.walk_packages(pet_calc.__path__, "pet_calc."):
    importlib.import_module(module.name)

from ase.build import molecule

from pet_calc import PETCalculator
from pet_calc.system.cores import CoreWatch
from pet_calc.system.locks import hold_lock

atoms = molecule("H2O")
atoms.calc = PETCalculator("pet-gfn1-xs", device="cpu")
for _ in range(25):  # long enough to ask for the engine
    atoms.positions[0, 0] += 0.001
    energy = atoms.get_potential_energy()
print(energy, atoms.get_forces().shape)
CoreWatch().warn_if_shared(8)
# on a real Windows the library has a lock of its own
if sys.platform != "win32":
    with hold_lock(Path(sys.argv[1]) / "lock") as is_ours:
        assert is_ours
"""


@pytest.mark.parametrize("platform", ["darwin", "win32"])
def test_everything_imports_and_the_calculator_runs_without_linux(tmp_path, platform):
    script = tmp_path / "script.py"
    script.write_text(SCRIPT.format(platform=platform))
    done = subprocess.run(
        [sys.executable, str(script), str(tmp_path)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith("(3, 3)\n")
