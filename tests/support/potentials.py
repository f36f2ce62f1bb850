"""A pair potential that obeys all physics, and ways to break it, one at a time."""

import numpy as np
import torch
from ase.calculators.calculator import Calculator, all_changes
from ase.data import covalent_radii
from ase.stress import full_3x3_to_voigt_6_stress

from pet_calc.data.neighbors import compute_pairs
from pet_calc.validate import Potential

CUTOFF = 5.0


class PairPotential(Calculator):
    """Lennard-Jones with its minimum at the sum of covalent radii, and a defect.

    hole: the wall has one, at 0.72 of the radii. wrong force, wrong stress: off by
    0.01. shifted: depends on the place. first: the first atom is another. oriented:
    stronger along z. mirrored: odd in z. sized: energy grows with the square of the
    size. cut: ends abruptly at 2 Å.
    """

    implemented_properties = ("energy", "free_energy", "energies", "forces", "stress")

    def __init__(self, defect="", depth=0.2):
        super().__init__()
        self.defect, self.depth = defect, depth

    def calculate(self, atoms=None, properties=None, system_changes=all_changes):
        super().calculate(atoms, properties, system_changes)
        cell = np.array(self.atoms.cell)
        first, second, shifts = compute_pairs(
            self.atoms.positions, cell, self.atoms.pbc, CUTOFF
        )
        positions = torch.tensor(self.atoms.positions, requires_grad=True)
        strain = torch.zeros(3, 3, dtype=torch.float64, requires_grad=True)
        i, j = torch.tensor(first), torch.tensor(second)
        fixed = torch.tensor(shifts @ np.where(self.atoms.pbc[:, None], cell, 0.0))
        edges = (positions[j] - positions[i] + fixed) @ (torch.eye(3) + strain)
        radii = torch.tensor(covalent_radii[self.atoms.numbers])
        pairs = 0.5 * self.compute_pairs(edges, radii[i] + radii[j])
        if self.defect == "mirrored":
            numbers = self.atoms.numbers
            signs = torch.tensor(np.sign(numbers[second] - numbers[first]))
            pairs = pairs * (1 + signs * (edges[:, 2] / edges.norm(dim=1)) ** 3)
        if self.defect == "first":
            pairs = pairs * torch.where(i == 0, 1.1, 1.0)
        energies = torch.zeros(len(self.atoms), dtype=torch.float64)
        energies = energies.index_add(0, i, pairs)
        if self.defect == "sized":
            energies = energies + 0.01 * len(self.atoms)
        if self.defect == "shifted":
            energies = energies + 0.01 * torch.sin(positions[:, 0])
        gradient, virial = torch.autograd.grad(energies.sum(), (positions, strain))
        forces = -gradient.numpy()
        if self.defect == "wrong force":
            forces = forces + 0.01
        energies = energies.detach().numpy()
        energy = float(energies.sum())
        self.results = {"energy": energy, "free_energy": energy, "energies": energies}
        self.results["forces"] = forces
        if self.atoms.pbc.all():
            virial = 0.5 * (virial + virial.T).numpy() / self.atoms.get_volume()
            virial = virial + 0.01 * np.eye(3) * (self.defect == "wrong stress")
            self.results["stress"] = full_3x3_to_voigt_6_stress(virial)

    def compute_pairs(self, edges, bonds):
        """Energy of each pair in eV, which is zero from the cutoff on."""
        distances = edges.norm(dim=1)
        ratios = (bonds / distances) ** 6
        energies = self.depth * (ratios**2 - 2 * ratios)
        if self.defect == "hole":
            places = (distances / bonds - 0.72) / 0.04
            energies = energies - 30 * torch.exp(-(places**2))
        if self.defect == "oriented":
            energies = energies * (1 + 2 * (edges[:, 2] / distances) ** 2)
        if self.defect == "cut":
            return energies * (distances < 2.0)
        return energies * (1 - (distances / CUTOFF) ** 2).clamp(min=0) ** 3


def build_potential(defect="", elements=(1, 8, 13), **options):
    """What is validated, with a defect or none."""
    calculator = PairPotential(defect, **options)
    return Potential(calculator, f"pairs {defect}", list(elements), CUTOFF, CUTOFF)
