"""Frames with their neighbour lists, and their concatenation to the model's input."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from ase import Atoms
from torch import Tensor

from pet_calc.data.frames import LabeledFrame
from pet_calc.data.labels import NO_LABELS, Array
from pet_calc.data.neighbors import compute_pairs, find_reverse, mask_cell
from pet_calc.data.notes import NOT_WHOLE
from pet_calc.errors import DataError
from pet_calc.model.batch import Batch


class Labels(NamedTuple):
    """The labels of a batch; where a mask is False the value is zero."""

    energy: Tensor
    """[n_systems] float64, eV."""
    has_energy: Tensor
    """[n_systems] bool."""
    forces: Tensor
    """[n_atoms, 3], eV/Å."""
    has_forces: Tensor
    """[n_atoms] bool."""
    stress: Tensor
    """[n_systems, 3, 3], eV/Å^3, positive in tension."""
    has_stress: Tensor
    """[n_systems] bool."""
    weights: Tensor
    """[n_systems], weights of the frames in the loss."""
    n_atoms: Tensor
    """[n_systems] int64."""


@dataclass(frozen=True)
class System:
    """A frame and its pairs, in small integers to save memory."""

    frame: LabeledFrame
    """The structure and its labels."""
    cutoff: float
    """Of the pairs, Å."""
    centers: npt.NDArray[np.int32]
    """[n_pairs], ascending."""
    neighbors: npt.NDArray[np.int32]
    """[n_pairs]."""
    cell_shifts: npt.NDArray[np.signedinteger[Any]]
    """[n_pairs, 3], int8 where that is enough."""
    reverse: npt.NDArray[np.int32]
    """[n_pairs]."""

    @property
    def n_atoms(self) -> int:
        """Number of atoms."""
        return self.frame.n_atoms

    @property
    def n_pairs(self) -> int:
        """Number of directed pairs."""
        return len(self.centers)


def build_system(frame: LabeledFrame, cutoff: float) -> System:
    """Return the frame with its full neighbour list."""
    try:
        centers, neighbors, shifts = compute_pairs(
            frame.positions, frame.cell, frame.pbc, cutoff
        )
        reverse = find_reverse(centers, neighbors, shifts)
    except DataError as error:
        raise DataError(f"{frame.source}: {error}") from error
    is_small = np.abs(shifts).max(initial=0) <= np.iinfo(np.int8).max
    return System(
        frame=frame,
        cutoff=cutoff,
        centers=centers.astype(np.int32),
        neighbors=neighbors.astype(np.int32),
        cell_shifts=shifts.astype(np.int8 if is_small else np.int32),
        reverse=reverse.astype(np.int32),
    )


def collate(
    systems: Sequence[System],
    *,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
) -> Batch:
    """Return the systems laid end to end, with indices that count through.

    Positions and cells are in ``dtype``; rows of cells that are not periodic are zero.
    """
    if not systems:
        raise DataError("no structures to make a batch of")
    frames = [system.frame for system in systems]
    atom_starts = np.cumsum([0] + [system.n_atoms for system in systems])
    pair_starts = np.cumsum([0] + [system.n_pairs for system in systems])

    def to_indices(
        parts: list[npt.NDArray[np.int32]], starts: npt.NDArray[np.int64]
    ) -> Tensor:
        shifted = [
            part.astype(np.int64) + start
            for part, start in zip(parts, starts[:-1], strict=True)
        ]
        return torch.from_numpy(np.concatenate(shifted)).to(device)

    def to_reals(values: npt.NDArray[np.float64]) -> Tensor:
        return torch.from_numpy(values).to(device=device, dtype=dtype)

    def to_integers(values: Sequence[int]) -> Tensor:
        return torch.tensor(values, dtype=torch.int64, device=device)

    shifts = np.concatenate([system.cell_shifts for system in systems]).astype(np.int64)
    system_of_atom = np.repeat(np.arange(len(systems)), np.diff(atom_starts))
    return Batch(
        species=torch.from_numpy(np.concatenate([f.numbers for f in frames])).to(
            device
        ),
        positions=to_reals(np.concatenate([frame.positions for frame in frames])),
        cells=to_reals(np.stack([mask_cell(f.cell, f.pbc) for f in frames])),
        centers=to_indices([system.centers for system in systems], atom_starts),
        neighbors=to_indices([system.neighbors for system in systems], atom_starts),
        cell_shifts=torch.from_numpy(shifts).to(device),
        reverse=to_indices([system.reverse for system in systems], pair_starts),
        system_of_atom=torch.from_numpy(system_of_atom).to(device),
        charges=to_integers([frame.charge for frame in frames]),
        spin_multiplicities=to_integers([f.spin_multiplicity for f in frames]),
    )


def collate_labels(
    systems: Sequence[System],
    *,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
) -> Labels:
    """Return the systems' labels, zeros where a frame has none.

    Those of a frame of weight 0 are masked like missing ones.

    The energy stays float64 whatever ``dtype``: totals reach 1e5 eV.
    """
    frames = [system.frame for system in systems]
    return _collate_labels(
        frames,
        [frame.energy for frame in frames],
        [frame.forces for frame in frames],
        [frame.stress for frame in frames],
        dtype,
        device,
    )


def collate_direct_labels(
    systems: Sequence[System],
    *,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
) -> Labels | None:
    """Return the labels of direct heads that have their own, None if there are none.

    They have no energies.
    """
    frames = [system.frame for system in systems]
    forces = [frame.direct_forces for frame in frames]
    stress = [frame.direct_stress for frame in frames]
    if all(label is None for label in (*forces, *stress)):
        return None
    energies = [None] * len(frames)
    return _collate_labels(frames, energies, forces, stress, dtype, device)


def _collate_labels(
    frames: Sequence[LabeledFrame],
    all_energies: Sequence[float | None],
    all_forces: Sequence[Array | None],
    all_stress: Sequence[Array | None],
    dtype: torch.dtype,
    device: torch.device | str,
) -> Labels:
    def to_reals(values: Any, real_dtype: torch.dtype = dtype) -> Tensor:
        return torch.from_numpy(np.asarray(values, dtype=np.float64)).to(
            device=device, dtype=real_dtype
        )

    def to_mask(values: Any) -> Tensor:
        return torch.from_numpy(np.asarray(values, dtype=bool)).to(device)

    n_atoms = [frame.n_atoms for frame in frames]
    forces = [
        np.zeros((size, 3)) if label is None else label
        for size, label in zip(n_atoms, all_forces, strict=True)
    ]
    stress = [np.zeros((3, 3)) if label is None else label for label in all_stress]
    # a frame of weight 0 counts nowhere: in no loss, error or fit
    counts = np.array([frame.weight > 0 for frame in frames])

    def has_labels(labels: Sequence[Any]) -> npt.NDArray[np.bool_]:
        return np.array([label is not None for label in labels]) & counts

    return Labels(
        energy=to_reals([label or 0.0 for label in all_energies], torch.float64),
        has_energy=to_mask(has_labels(all_energies)),
        forces=to_reals(np.concatenate(forces)),
        has_forces=to_mask(np.repeat(has_labels(all_forces), n_atoms)),
        stress=to_reals(np.stack(stress)),
        has_stress=to_mask(has_labels(all_stress)),
        weights=to_reals([frame.weight for frame in frames]),
        n_atoms=torch.tensor(n_atoms, dtype=torch.int64, device=device),
    )


def build_batch(
    atoms: Atoms | Sequence[Atoms],
    cutoff: float,
    *,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
) -> Batch:
    """Return the model's input for one or many ASE structures in Å.

    The charge comes from ``info["charge"]`` (else 0), the spin multiplicity from
    ``info["spin_multiplicity"]`` or ``info["spin"]`` (else 1).
    """
    structures = [atoms] if isinstance(atoms, Atoms) else atoms
    frames = [
        LabeledFrame.from_atoms(entry, keys=NO_LABELS, source=f"structure {i}")
        for i, entry in enumerate(structures)
    ]
    for frame in frames:
        for note in frame.notes:
            if NOT_WHOLE in note:
                raise DataError(f"{frame.source}: {note}; expected a whole number")
    systems = [build_system(frame, cutoff) for frame in frames]
    return collate(systems, dtype=dtype, device=device)
