"""A dispersion correction from PyPI beside the model, summed by ASE."""

import numpy as np
import pytest
from ase.calculators.calculator import PropertyNotImplementedError
from ase.calculators.fd import calculate_numerical_forces, calculate_numerical_stress
from ase.calculators.mixing import SumCalculator
from ase.filters import FrechetCellFilter
from ase.optimize import FIRE
from support.structures import build_bulk, build_molecule

from pet_calc import PETCalculator

dftd3 = pytest.importorskip("dftd3.ase", reason="pip install dftd3")


def build_d3():
    return dftd3.DFTD3(method="PBE", damping="d3bj")


@pytest.mark.parametrize("is_exported", [False, True])
@pytest.mark.parametrize("build", [build_bulk, build_molecule])
def test_energy_forces_and_stress_are_sums(model, exported, build, is_exported):
    atoms = build()
    source = exported if is_exported else model
    own, d3 = PETCalculator(source), build_d3()
    atoms.calc = SumCalculator([PETCalculator(source), build_d3()])
    expected = own.get_potential_energy(atoms) + d3.get_potential_energy(atoms)
    assert atoms.get_potential_energy() == pytest.approx(expected, abs=1e-10)
    forces = own.get_forces(atoms) + d3.get_forces(atoms)
    np.testing.assert_allclose(atoms.get_forces(), forces, atol=1e-10)
    assert np.abs(d3.get_forces(atoms)).max() > 1e-4
    if not atoms.pbc.all():
        with pytest.raises(PropertyNotImplementedError):
            atoms.get_stress()
        return
    stress = own.get_stress(atoms) + d3.get_stress(atoms)
    np.testing.assert_allclose(atoms.get_stress(), stress, atol=1e-10)


def test_forces_of_the_sum_follow_from_its_energy(model):
    # a molecule: at the cutoff of its lattice sums D3 jumps by 1e-7 eV
    atoms = build_molecule()
    atoms.calc = SumCalculator([PETCalculator(model), build_d3()])
    numerical = calculate_numerical_forces(atoms, eps=1e-4)
    np.testing.assert_allclose(atoms.get_forces(), numerical, atol=1e-5)
    assert np.abs(build_d3().get_forces(atoms)).max() > 1e-4


def test_its_stress_does_and_cells_relax(model):
    atoms = build_bulk()
    atoms.calc = SumCalculator([PETCalculator(model), build_d3()])
    numerical = calculate_numerical_stress(atoms, eps=1e-3, force_consistent=False)
    np.testing.assert_allclose(atoms.get_stress(), numerical, atol=1e-4)
    assert np.abs(build_d3().get_stress(atoms)).max() > 1e-3
    with FIRE(FrechetCellFilter(atoms), logfile=None) as relaxation:
        relaxation.run(steps=2)
    assert relaxation.nsteps == 2
