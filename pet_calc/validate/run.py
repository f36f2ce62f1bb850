"""All checks that a structure allows, in their order."""

from collections.abc import Callable, Collection
from typing import Any

from ase import Atoms

from pet_calc.calculator.supported import check_known_elements
from pet_calc.validate.derivatives import check_forces, check_stress
from pet_calc.validate.dimers import judge_curves, scan_contacts, scan_dimers
from pet_calc.validate.dynamics import check_drift
from pet_calc.validate.minimum import (
    MOST_ATOMS,
    MOST_ATOMS_OF_CELL,
    check_crystal,
    check_molecule,
)
from pet_calc.validate.potential import Potential
from pet_calc.validate.report import ValidationReport
from pet_calc.validate.smoothness import check_smoothness
from pet_calc.validate.structures import (
    check_structure,
    describe_structure,
    grow,
    rattle,
)
from pet_calc.validate.symmetry import check_symmetry

# components of forces, strains, orientations and paths, in the short form and else
_SHORT, _LONG = (4, 2, 4, 1), (24, 6, 20, 3)
_IN_SHORT = "left out of the short form"


def validate(
    potential: Potential,
    atoms: Atoms,
    *,
    pairs_of: Collection[int] | None = None,
    is_short: bool = False,
    picoseconds: float = 1.0,
    progress: Callable[[Any], Any] | None = None,
) -> ValidationReport:
    """Return what a potential does on a structure, and to pairs of atoms.

    Args:
        potential: what is validated.
        atoms: a molecule, slab, crystal or liquid; the checks that make sense are
            chosen by its periodicity and size. It is left unchanged.
        pairs_of: elements of the dimers; None takes those of the structure.
        is_short: whether to leave out dynamics and the minimum, which take minutes.
        picoseconds: length of the dynamics.
        progress: wraps the batches of dimers.

    Raises:
        DataError: if the structure is none.
        ModelError: if the potential does not know its elements, charge or spin.
    """
    check_structure(atoms)
    check_known_elements(atoms, set(potential.elements))
    report = ValidationReport(potential.name, describe_structure(atoms))
    n_components, n_strains, n_orientations, n_paths = _SHORT if is_short else _LONG
    grown = grow(atoms)
    grown.set_constraint()
    moved = rattle(grown)
    report.rows.append(check_forces(potential, moved, n_components))
    if atoms.pbc.all():
        report.rows.append(check_stress(potential, moved, n_strains))
    else:
        report.skipped["stress"] = "only of bulk"
    report.rows += check_symmetry(potential, moved, n_orientations)
    elements = set(pairs_of or atoms.numbers.tolist())
    if len(grown) > 1:
        report.rows += check_smoothness(potential, moved, n_paths)
        contacts = scan_contacts(potential, grown)
        if contacts:
            report.rows.append(judge_curves("contacts", contacts, potential))
    else:
        report.skipped["jumps, contacts"] = "an atom alone has no neighbours"
    report.curves = scan_dimers(potential, elements, progress)
    report.rows.append(judge_curves("dimers", report.curves, potential))
    if is_short:
        report.skipped["drift, modes"] = _IN_SHORT
        return report
    if len(grown) > 1:
        report.rows.append(check_drift(potential, grown, picoseconds))
    _add_minimum(report, potential, atoms)
    return report


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
