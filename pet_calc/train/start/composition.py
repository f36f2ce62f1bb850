"""Energy offsets per element (E0): from the data, given, or kept from the base."""

import logging
from collections.abc import Sequence

import numpy as np
import torch
from ase.data import atomic_numbers, chemical_symbols

from pet_calc.config import CompositionOptions, TargetOptions
from pet_calc.data.composition_fit import (
    Array,
    count_species,
    estimate_total_energies,
    find_open_types,
    fit_composition,
    fit_composition_shift,
    fit_energy_scale,
    fit_force_scale,
)
from pet_calc.data.dataset import SystemDataset
from pet_calc.data.frames import LabeledFrame
from pet_calc.data.isolated import choose_references
from pet_calc.data.loader import BatchLoader
from pet_calc.data.orientation import AS_JUDGED
from pet_calc.errors import ConfigError, DataError
from pet_calc.model.baseline import TargetTable
from pet_calc.model.derivatives import predict
from pet_calc.model.pet import PET
from pet_calc.units import energy_factor

logger = logging.getLogger(__name__)

# of an isolated atom's squared error in a fit of the offsets, beside 1 of a frame
ATOM_WEIGHT = 1e-6


def set_composition(
    model: PET,
    target: TargetOptions,
    options: CompositionOptions,
    frames: Sequence[LabeledFrame],
    isolated: Sequence[LabeledFrame],
    *,
    has_base: bool,
    scale_targets: bool,
    batch_size: int,
    systems: SystemDataset | None = None,
    new_elements: Sequence[int] = (),
) -> None:
    """Set the composition energies (and a new model's scale) of a target, in place.

    Args:
        model: in training dtype, on its device.
        target: its ``name`` is an output of the model.
        options: how the offsets are found.
        frames: training frames with energies.
        isolated: isolated atoms, for mode ``isolated_atoms``; a fit takes from them
            what the frames leave open.
        has_base: whether the weights were trained before; its scale is kept then.
        scale_targets: set the output scale of a new model to the size of the labels.
        batch_size: of the evaluation of the base.
        systems: ``frames`` with their neighbour lists, if they are there already.
        new_elements: atomic numbers that the base did not know: their offsets are
            fitted before the others, which then explain what is left. So GeO2 says
            something about Ge, and not half of it about the O that the base knows.

    Raises:
        ConfigError: for a table that names unknown elements.
        DataError: if an element of the data has no offset.
    """
    table = _table_of(model, target.name)
    before = table.composition[:, 0].cpu().numpy().copy()
    rows = [i for i, f in enumerate(frames) if f.energy is not None and f.weight > 0]
    labelled = [frames[i] for i in rows]
    energies = np.array([frame.energy for frame in labelled], dtype=np.float64)
    given = options.tables.get(target.name)
    counts = count_species(labelled, model.atomic_types)
    if not has_base and scale_targets:
        rough = fit_composition(counts, energies)
        scale = _choose_scale(frames, energies - counts @ rough, counts.sum(axis=1))
        table.scale.fill_(scale)
        logger.info("energy scale: %.4g eV", scale)
    new = [model.atomic_types.index(z) for z in new_elements]
    if new and options.mode != "isolated_atoms":
        predictions = predict_energies(model, target.name, labelled, batch_size)
        with torch.no_grad():
            table.composition[:, 0] += torch.from_numpy(
                _fit_new(model, counts, energies - predictions, new)
            ).to(table.composition.device)
    start = table.composition[:, 0].cpu().numpy().copy()
    if options.mode == "keep" and given is None:
        offsets = start
    elif options.mode == "isolated_atoms":
        offsets = _from_isolated_atoms(model, target.name, labelled, isolated)
    else:
        # of a new network too: its first outputs are an offset like any other, and
        # their error would drown the forces in the first hundreds of steps
        known = systems.select(rows) if systems else labelled
        predictions = predict_energies(model, target.name, known, batch_size)
        weights = np.ones(len(energies))
        known_types = set(model.atomic_types)
        atoms = [f for z, f in choose_references(isolated).items() if z in known_types]
        if atoms:
            # they decide what the frames leave open, and hardly anything else
            counts = np.vstack([counts, count_species(atoms, model.atomic_types)])
            energies = np.append(energies, [frame.energy for frame in atoms])
            own = predict_energies(model, target.name, atoms, len(atoms))
            predictions = np.append(predictions, own)
            weights = np.append(weights, np.full(len(atoms), ATOM_WEIGHT))
        shift = estimate_total_energies(model.atomic_types) - start
        offsets = start + fit_composition_shift(
            counts, energies, predictions, weights, total_shift=shift
        )
        _warn_of_open(model, counts)
    if given is not None:
        offsets = _apply_table(offsets, given, model.atomic_types, target.unit)
    with torch.no_grad():
        table.composition[:, 0] = torch.from_numpy(offsets)
    _log_offsets(model, before, offsets, labelled)


def predict_energies(
    model: PET,
    target: str,
    frames: list[LabeledFrame] | SystemDataset,
    batch_size: int,
) -> Array:
    """Return the model's total energies, [n_frames] in eV.

    Each frame stands in an orientation of its own: what the model makes of the one that
    all frames of a file may share is no offset per element.
    """
    weight = model.edge_embedder.weight
    if not isinstance(frames, SystemDataset):
        frames = SystemDataset(frames, model.pair_cutoff)
    loader = BatchLoader(
        frames,
        batch_size,
        dtype=torch.float64,
        device=weight.device,
        orientation=AS_JUDGED,
    )
    with torch.no_grad():
        parts = [
            predict(model, batch, target, with_forces=False).energy.cpu().numpy()
            for batch, _ in loader
        ]
    return np.concatenate(parts) if parts else np.zeros(0)


def _choose_scale(
    frames: Sequence[LabeledFrame], residuals: Array, n_atoms: Array
) -> float:
    """Return the size, in eV, of what the network has to give per atom.

    With forces it is their root mean square times 1 Å: a network whose outputs are of
    order one then has slopes of the right size from the start (ethanol, 500 steps:
    force MAE 0.23 eV/Å instead of 0.46 with the spread of the energies per atom).
    """
    scale = fit_force_scale(frames)
    return fit_energy_scale(residuals, n_atoms) if scale is None else scale


def _from_isolated_atoms(
    model: PET,
    target: str,
    frames: list[LabeledFrame],
    isolated: Sequence[LabeledFrame],
) -> Array:
    """Return offsets with which the model meets the isolated atoms' energies."""
    table = _table_of(model, target)
    offsets = table.composition[:, 0].cpu().numpy().copy()
    found = choose_references(isolated)
    needed = sorted({int(z) for frame in frames for z in frame.numbers})
    missing = [chemical_symbols[z] for z in needed if z not in found]
    if missing:
        raise DataError(
            "atomic_baseline: isolated_atoms needs a frame of one atom alone, with an "
            f"energy, for: {', '.join(missing)}"
        )
    used = [found[z] for z in needed]
    predictions = predict_energies(model, target, used, len(used))
    for z, frame, prediction in zip(needed, used, predictions, strict=True):
        assert frame.energy is not None
        offsets[model.atomic_types.index(z)] += frame.energy - prediction
    return offsets


def _apply_table(
    offsets: Array,
    given: dict[str, float] | float,
    atomic_types: list[int],
    unit: str | None,
) -> Array:
    factor = energy_factor(unit or "eV")
    if isinstance(given, (int, float)):
        return np.full_like(offsets, factor * given)
    offsets = offsets.copy()
    for symbol, value in given.items():
        number = atomic_numbers.get(symbol)
        if number not in atomic_types:
            known = ", ".join(chemical_symbols[z] for z in atomic_types)
            raise ConfigError(
                f"atomic_baseline: the model does not know {symbol!r}; it knows {known}"
            )
        offsets[atomic_types.index(number)] = factor * value
    return offsets


def _fit_new(model: PET, counts: Array, residuals: Array, new: Sequence[int]) -> Array:
    """Return the shift [n_types] that explains residuals by new elements alone."""
    shift = np.zeros(counts.shape[1])
    for i in new:
        if not counts[:, i].any():
            raise DataError(
                f"{chemical_symbols[model.atomic_types[i]]}, which the base does not "
                "know, is in no training frame with an energy: it cannot be learned; "
                "add such frames, or leave the element out of the other sets"
            )
    rows = counts[:, new].any(axis=1)
    shift[list(new)] = fit_composition(counts[rows][:, new], residuals[rows])
    return shift


def _table_of(model: PET, target: str) -> TargetTable:
    table = model.baseline.tables[target]
    assert isinstance(table, TargetTable)
    return table


def _warn_of_open(model: PET, counts: Array) -> None:
    """Say which energies per element the data do not determine."""
    names = [chemical_symbols[model.atomic_types[i]] for i in find_open_types(counts)]
    if names:
        logger.warning(
            "energies per element: the data determine %s in the proportions only that "
            "they have; energies of other formulas cannot be compared with these",
            ", ".join(names),
        )


def _log_offsets(
    model: PET, before: Array, after: Array, frames: list[LabeledFrame]
) -> None:
    present = {int(z) for frame in frames for z in np.unique(frame.numbers)}
    lines = [
        f"  {chemical_symbols[z]:<2} {after[i]:>16.6f} eV ({after[i] - before[i]:+.6f})"
        for i, z in enumerate(model.atomic_types)
        if z in present
    ]
    logger.info("energy per element, E0 (change):\n%s", "\n".join(lines))
