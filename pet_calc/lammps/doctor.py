"""Check everything between a model and a LAMMPS run on this machine."""

import os
import platform
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import torch
from ase import Atoms

from pet_calc.engine.build import build_engine
from pet_calc.errors import PetCalcError
from pet_calc.export import export_model
from pet_calc.lammps.build import build_plugin
from pet_calc.lammps.compare import compare_step_0
from pet_calc.lammps.locate import find_toolchain
from pet_calc.model.hypers import PETHypers, TargetSpec
from pet_calc.model.pet import PET
from pet_calc.system.compiler import describe_compiler, find_compiler

# small enough to be built and exported in a second
TINY = {"d_pet": 8, "d_head": 8, "d_node": 16, "d_feedforward": 8, "num_heads": 2}


class Diagnosis(NamedTuple):
    """What one check found."""

    name: str
    is_good: bool
    text: str


def examine() -> Iterator[Diagnosis]:
    """Yield a finding per check, as soon as it is done; none of them raises.

    The engine and the plugin are compiled on the way if they are missing.
    """
    checks: dict[str, Callable[[], str]] = {
        "python": _check_python,
        "torch": _check_torch,
        "threads": _check_threads,
        "packages": _check_packages,
        "compiler": lambda: describe_compiler(find_compiler()),
        "engine": lambda: str(build_engine()),
        "plugin": lambda: str(build_plugin()),
        "LAMMPS": lambda: _check_lammps(1),
        "MPI": lambda: _check_lammps(2),
    }
    for name, check in checks.items():
        try:
            yield Diagnosis(name, True, check())
        except PetCalcError as error:
            yield Diagnosis(name, False, str(error))


def _check_python() -> str:
    return f"{platform.python_version()} in {sys.prefix}"


def _check_torch() -> str:
    if torch.cuda.is_available():
        names = [
            torch.cuda.get_device_name(k) for k in range(torch.cuda.device_count())
        ]
        return f"{torch.__version__}, GPU: {', '.join(names)}"
    return f"{torch.__version__}, no GPU in sight"


def _check_threads() -> str:
    given = os.environ.get("OMP_NUM_THREADS")
    limit = f"OMP_NUM_THREADS={given}" if given else "OMP_NUM_THREADS is not set"
    load = os.getloadavg()[0]
    cores = len(os.sched_getaffinity(0))
    threads = torch.get_num_threads()
    return f"{threads} for torch on {cores} cores, {limit}, load {load:.1f}"


def _check_packages() -> str:
    versions = find_toolchain().versions
    return ", ".join(f"{name} {version}" for name, version in versions.items())


def _check_lammps(n_ranks: int) -> str:
    """Compare two atoms in LAMMPS with the calculator."""
    with (
        tempfile.TemporaryDirectory(prefix="pet-calc-") as folder,
        torch.random.fork_rng(),
    ):
        torch.manual_seed(0)
        hypers = PETHypers(**TINY, num_gnn_layers=1)  # type: ignore[arg-type]
        model = PET(hypers, [1, 8], [TargetSpec.for_energy()]).to(torch.float64).eval()
        path = export_model(model, Path(folder) / "tiny.pt", check=False)
        atoms = Atoms("OH", [[0, 0, 0], [0.9, 0.1, 0]], cell=[4, 5, 6], pbc=True)
        found = compare_step_0(atoms, path, n_ranks=n_ranks)
    text = f"{n_ranks} rank(s), forces differ by {found.force_difference:.0e} eV/Å"
    if not found.is_same:
        raise PetCalcError(f"{text} from the calculator's; please report it")
    return text
