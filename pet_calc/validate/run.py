"""All checks that a structure allows, in their order."""

from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from typing import Any

from ase import Atoms

from pet_calc.calculator.supported import check_known_elements
from pet_calc.validate.derivatives import check_forces, check_stress
from pet_calc.validate.dimers import STEP, judge_curves, scan_contacts, scan_dimers
from pet_calc.validate.dynamics import check_drift
from pet_calc.validate.minimum import (
    MOST_ATOMS,
    MOST_ATOMS_OF_CELL,
    check_crystal,
    check_molecule,
)
from pet_calc.validate.potential import Potential
from pet_calc.validate.report import ValidationReport
from pet_calc.validate.smoothness import Sampling, check_smoothness
from pet_calc.validate.structures import (
    check_structure,
    describe_structure,
    grow,
    rattle,
)
from pet_calc.validate.symmetry import check_symmetry


@dataclass(frozen=True)
class Effort:
    """How much is looked at."""

    n_components: int
    """Of forces, against differences."""
    n_strains: int
    n_orientations: int
    paths: Sampling | None
    """Of jumps; None leaves them out, and contacts too."""
    n_contacts: int = 1000
    """Pairs of elements of which two neighbours are pushed together."""
    step: float = STEP
    """Between distances of dimers and contacts, in sums of covalent radii."""
    is_long: bool = False
    """Whether dynamics and the minimum are looked at."""


LONG = Effort(24, 6, 20, Sampling(3), is_long=True)
# about 140 evaluations and 26, of the structure
SHORT = Effort(
    3,
    1,
    3,
    Sampling(1, spacing=0.16, finest=1e-6, n_chosen=1),
    n_contacts=3,
    step=0.05,
)
LEAST = replace(SHORT, paths=None)


def validate(
    potential: Potential,
    atoms: Atoms,
    *,
    pairs_of: Collection[int] | None = None,
    effort: Effort = LONG,
    picoseconds: float = 1.0,
    progress: Callable[[Any], Any] | None = None,
) -> ValidationReport:
    """Return what a potential does on a structure, and to pairs of atoms.

    Args:
        potential: what is validated.
        atoms: a molecule, slab, crystal or liquid; the checks that make sense are
            chosen by its periodicity and size. It is left unchanged.
        pairs_of: elements of the dimers; None takes those of the structure.
        effort: how much is looked at; ``SHORT`` leaves out dynamics and the minimum.
        picoseconds: length of the dynamics.
        progress: wraps the batches of dimers.

    Raises:
        DataError: if the structure is none.
        ModelError: if the potential does not know its elements, charge or spin.
    """
    check_structure(atoms)
    check_known_elements(atoms, set(potential.elements))
    report = ValidationReport(potential.name, describe_structure(atoms))
    grown = grow(atoms)
    grown.set_constraint()
    moved = rattle(grown)
    report.rows.append(check_forces(potential, moved, effort.n_components))
    if atoms.pbc.all():
        report.rows.append(check_stress(potential, moved, effort.n_strains))
    else:
        report.skipped["stress"] = "only of bulk"
    report.rows += check_symmetry(potential, moved, effort.n_orientations)
    elements = set(pairs_of or atoms.numbers.tolist())
    _add_approach(report, potential, grown, effort)
    report.curves = scan_dimers(potential, elements, effort.step, progress)
    report.rows.append(judge_curves("dimers", report.curves, potential))
    if not effort.is_long:
        report.skipped["drift, modes"] = "left out of the short form"
        return report
    if len(grown) > 1:
        report.rows.append(check_drift(potential, grown, picoseconds))
    _add_minimum(report, potential, atoms)
    return report


def _add_approach(
    report: ValidationReport, potential: Potential, atoms: Atoms, effort: Effort
) -> None:
    """Add the rows on atoms that move in the structure, in place, or why not."""
    if len(atoms) < 2:
        report.skipped["jumps, contacts"] = "an atom alone has no neighbours"
    elif effort.paths is None:
        report.skipped["jumps, contacts"] = "the structure is too large for them"
    else:
        report.rows += check_smoothness(potential, rattle(atoms), effort.paths)
        contacts = scan_contacts(potential, atoms, effort.n_contacts, effort.step)
        if contacts:
            report.rows.append(judge_curves("contacts", contacts, potential))


def _add_minimum(report: ValidationReport, potential: Potential, atoms: Atoms) -> None:
    """Add the rows on the minimum, in place, or why there are none."""
    n_atoms, is_bulk = len(atoms), bool(atoms.pbc.all())
    most = MOST_ATOMS_OF_CELL if is_bulk else MOST_ATOMS
    if n_atoms > most:
        report.skipped["modes"] = (
            f"only up to {most} atoms; name a primitive cell of the crystal"
            if is_bulk
            else f"only up to {most} atoms"
        )
    elif is_bulk:
        report.rows += check_crystal(potential, atoms)
    elif not atoms.pbc.any() and n_atoms > 1:
        report.rows.append(check_molecule(potential, atoms))
    else:
        report.skipped["modes"] = "only of molecules and bulk"
