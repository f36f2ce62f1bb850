"""Frames to look at: the worst ones, and a map by what the last layer reads."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from pet_calc.data.frames import LabeledFrame
from pet_calc.data.loader import pack
from pet_calc.data.orientation import AS_JUDGED
from pet_calc.data.systems import build_system, collate
from pet_calc.evaluate.kept import KeptPredictions, rank_frames
from pet_calc.evaluate.predict import DEFAULT_BATCH_TOKENS
from pet_calc.model.pet import PET
from pet_calc.model.uncertainty import compute_features, sum_over_systems

VIEWED_FIELDS = (
    "n_atoms",
    "numbers",
    "positions",
    "cells",
    "pbc",
    "forces_label",
    "forces",
    "energy_label",
    "energy",
    "errors",
    "places",
)


@dataclass
class ViewedFrames:
    """Frames as they stand in their files, with labels and predictions."""

    sets: list[str]
    """Which set each frame is of."""
    sources: list[str]
    """Such as ``train.xyz, frame 12``."""
    config_types: list[str]
    """What the file calls each kind."""
    is_worst: list[bool]
    """Whether the frame is there for its error."""
    n_atoms: npt.NDArray[np.int32]
    """[n_frames]."""
    numbers: npt.NDArray[np.uint8]
    """[n_atoms of all frames], atomic numbers."""
    positions: npt.NDArray[np.float32]
    """[n_atoms of all frames, 3], Å."""
    cells: npt.NDArray[np.float32]
    """[n_frames, 3, 3], Å, rows are lattice vectors."""
    pbc: npt.NDArray[np.bool_]
    """[n_frames, 3]."""
    forces_label: npt.NDArray[np.float32]
    """[n_atoms of all frames, 3], eV/Å; NaN without labels."""
    forces: npt.NDArray[np.float32]
    """[n_atoms of all frames, 3], eV/Å; NaN where none was predicted."""
    energy_label: npt.NDArray[np.float32]
    """[n_frames], eV/atom without composition; NaN without one."""
    energy: npt.NDArray[np.float32]
    """[n_frames], eV/atom without composition."""
    errors: npt.NDArray[np.float32]
    """[n_frames], by which the worst are chosen, see ``rank_frames``."""
    places: npt.NDArray[np.float32]
    """[n_frames, 2], principal components of the features."""

    def names(self) -> dict[str, Any]:
        """Return the fields that are no arrays."""
        return {
            "sets": self.sets,
            "sources": self.sources,
            "config_types": self.config_types,
            "is_worst": self.is_worst,
        }

    def slices(self) -> list[slice]:
        """Return the rows of each frame's atoms."""
        ends = np.cumsum(self.n_atoms).tolist()
        return [slice(a, b) for a, b in zip([0, *ends[:-1]], ends, strict=True)]


def build_viewed(
    model: PET,
    target: str,
    entries: Sequence[tuple[str, LabeledFrame, KeptPredictions, bool]],
) -> ViewedFrames | None:
    """Return frames to look at, None without any.

    Args:
        model: whose features give the map.
        target: of the predictions.
        entries: set, frame, its predictions, and whether it is there for its error.
    """
    if not entries:
        return None
    frames = [frame for _, frame, _, _ in entries]
    kept = [own for _, _, own, _ in entries]
    back = [AS_JUDGED.draw(0, own.index.tolist())[0] for own in kept]

    def join(values: list[Any]) -> Any:
        return np.concatenate(values).astype(np.float32)

    return ViewedFrames(
        sets=[name for name, _, _, _ in entries],
        sources=[frame.source for frame in frames],
        config_types=[frame.config_type for frame in frames],
        is_worst=[is_worst for _, _, _, is_worst in entries],
        n_atoms=np.array([frame.n_atoms for frame in frames], dtype=np.int32),
        numbers=np.concatenate([f.numbers for f in frames]).astype(np.uint8),
        positions=join([frame.positions for frame in frames]),
        cells=np.array([frame.cell for frame in frames], dtype=np.float32),
        pbc=np.array([frame.pbc for frame in frames], dtype=bool),
        # rows v of the turned frame are Q v: v Q turns them back
        forces_label=join(
            [k.forces_label @ q for k, q in zip(kept, back, strict=True)]
        ),
        forces=join([k.forces @ q for k, q in zip(kept, back, strict=True)]),
        energy_label=join([own.energy_label for own in kept]),
        energy=join([own.energy for own in kept]),
        errors=join([rank_frames(own) for own in kept]),
        places=find_places(average_features(model, target, frames)),
    )


def join_viewed(model: PET, target: str, parts: Sequence[ViewedFrames]) -> ViewedFrames:
    """Return the frames of all parts, on one map.

    Args:
        model: whose features give the map.
        target: of the predictions.
        parts: in the order wanted.
    """
    values: dict[str, Any] = {
        name: np.concatenate([getattr(part, name) for part in parts])
        for name in VIEWED_FIELDS
    }
    for name in parts[0].names():
        values[name] = [value for part in parts for value in part.names()[name]]
    joined = ViewedFrames(**values)
    frames = [
        LabeledFrame(
            numbers=joined.numbers[rows].astype(np.int64),
            positions=joined.positions[rows].astype(np.float64),
            cell=joined.cells[i].astype(np.float64),
            pbc=joined.pbc[i],
        )
        for i, rows in enumerate(joined.slices())
    ]
    joined.places = find_places(average_features(model, target, frames))
    return joined


def average_features(
    model: PET, target: str, frames: Sequence[LabeledFrame]
) -> npt.NDArray[np.float64]:
    """Return the last-layer features of a target, means over each frame's atoms.

    Args:
        model: on its device.
        target: whose head it is.
        frames: as they stand.

    Returns:
        [n_frames, n_features].
    """
    device = model.edge_embedder.weight.device
    found = []
    systems = (build_system(frame, model.pair_cutoff) for frame in frames)
    for some in pack(systems, DEFAULT_BATCH_TOKENS, lambda system: system.n_tokens):
        batch = collate(some, dtype=torch.float64, device=device)
        with torch.no_grad():
            features = compute_features(model, batch, target).to(torch.float64)
            sums = sum_over_systems(features, batch).cpu().numpy()
        n_atoms = np.array([system.n_atoms for system in some])
        found.append(sums / n_atoms[:, None])
    return np.concatenate(found)


def find_places(features: npt.NDArray[np.float64]) -> npt.NDArray[np.float32]:
    """Return the first two principal components of features, [n, 2]; zero if fewer."""
    centred = features - features.mean(axis=0)
    u, s, _ = np.linalg.svd(centred, full_matrices=False)
    places = np.zeros((len(features), 2), dtype=np.float32)
    n = min(2, u.shape[1])
    places[:, :n] = (u * s)[:, :n]
    return places
