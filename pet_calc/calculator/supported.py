"""Check that a system is one that the model can answer for."""

import numpy as np
from ase import Atoms
from ase.calculators.calculator import PropertyNotImplementedError
from ase.data import chemical_symbols

from pet_calc.data.frames import LabeledFrame
from pet_calc.data.notes import NOT_WHOLE, find_state_notes, is_warning
from pet_calc.errors import ModelError
from pet_calc.model.pet import PET


def check_known_elements(atoms: Atoms, known: set[int]) -> None:
    """Raise ``ModelError`` naming the elements that are not ``known``."""
    unknown = sorted(set(atoms.numbers.tolist()) - known)
    if unknown:
        names = ", ".join(chemical_symbols[z] for z in unknown)
        raise ModelError(
            f"the model does not know {names}; it was trained on "
            + ", ".join(chemical_symbols[z] for z in sorted(known))
        )


def check_charge_and_spin(
    model: PET, charge: int, spin_multiplicity: int, source: str
) -> None:
    """Raise ``ModelError`` if a conditioned model has no entry for these values."""
    if model.system_conditioning is None:
        return
    hypers = model.hypers
    if abs(charge) > hypers.max_charge:
        raise ModelError(
            f"{source}: total charge {charge}, but the model knows "
            f"{-hypers.max_charge} to {hypers.max_charge} only"
        )
    if not 1 <= spin_multiplicity <= hypers.max_spin_multiplicity:
        raise ModelError(
            f"{source}: spin multiplicity {spin_multiplicity} (2S + 1), but the model "
            f"knows 1 to {hypers.max_spin_multiplicity} only"
        )


def check_frame_state(model: PET, frame: LabeledFrame) -> None:
    """Raise the same for a frame of a file.

    A charge or spin that is no whole number is an error only here: a model without
    conditioning does not ask for it.
    """
    check_charge_and_spin(model, frame.charge, frame.spin_multiplicity, frame.source)
    if model.system_conditioning is None:
        return
    for note in find_state_notes(frame.notes):
        if NOT_WHOLE in note:
            raise ModelError(
                f"{frame.source}: {note}, but the model needs it as a whole number; "
                "mend the file, or name another key with --charge-key or --spin-key"
            )


def find_serious_notes(frame: LabeledFrame, model: PET | None) -> list[str]:
    """Return the notes of a frame that question its labels.

    For a conditioned model, those on charge and spin as well.
    """
    notes = [note for note in frame.notes if is_warning(note)]
    if model is not None and model.system_conditioning is not None:
        notes += find_state_notes(frame.notes)
    return notes


def has_stress(atoms: Atoms, properties: list[str] | None) -> bool:
    """Return whether there is a stress; raise if it is asked for and there is none."""
    is_bulk = bool(np.all(atoms.pbc))
    if not is_bulk and not {"stress", "stresses"}.isdisjoint(properties or []):
        raise PropertyNotImplementedError(
            "stress needs a structure that is periodic in all three directions, "
            f"but pbc is {atoms.pbc.tolist()}"
        )
    return is_bulk
