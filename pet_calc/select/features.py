"""Evaluate the last-layer features of frames, and how uncertain they are."""

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from pet_calc.data.frames import LabeledFrame
from pet_calc.data.loader import pack
from pet_calc.data.systems import build_system, collate
from pet_calc.evaluate.predict import DEFAULT_BATCH_TOKENS, check_each
from pet_calc.model.pet import PET
from pet_calc.model.uncertainty import (
    LastLayerUncertainty,
    compute_features,
    sum_over_systems,
)

Vector = npt.NDArray[np.float64]


class Nearest(NamedTuple):
    """The nearest of frames that are labelled already."""

    number: int
    """Of the frame among them."""
    distance: float


class Candidate(NamedTuple):
    """A frame as the selection sees it."""

    frame: LabeledFrame
    features: Vector
    """[n_features], means over the atoms."""
    uncertainty: float | None
    """eV/atom, or eV of the most uncertain atom; None of a model without one."""
    nearest: Nearest | None = None
    """Of the excluded frames, if there are any."""


class Measure:
    """A model that tells how far frames are from each other."""

    def __init__(
        self,
        model: PET,
        target: str,
        *,
        uncertainty: LastLayerUncertainty | None = None,
        of_atoms: bool = False,
        batch_tokens: int = DEFAULT_BATCH_TOKENS,
    ) -> None:
        """Set up.

        Args:
            model: LoRA merged, on its device.
            target: the energy whose last layer counts.
            uncertainty: of the target, on the same device.
            of_atoms: take that of the most uncertain atom, not that of the total
                energy per atom.
            batch_tokens: pairs and atoms evaluated at once.
        """
        self._model = model
        self._target = target
        self._uncertainty = uncertainty
        self._of_atoms = of_atoms
        self._batch_tokens = batch_tokens

    def evaluate(self, frames: Iterable[LabeledFrame]) -> Iterator[Candidate]:
        """Yield the frames with their features, in order, read as they are needed.

        Raises:
            DataError: if a frame has an element that the model does not know.
            ModelError: likewise for charge and spin multiplicity.
        """
        model = self._model
        known = check_each(model, frames)
        systems = (build_system(frame, model.pair_cutoff) for frame in known)
        device = model.edge_embedder.weight.device
        for several in pack(systems, self._batch_tokens, lambda s: s.n_tokens):
            batch = collate(several, dtype=torch.float64, device=device)
            per_atom = compute_features(model, batch, self._target).to(torch.float64)
            sums = sum_over_systems(per_atom, batch)
            sizes = [system.n_atoms for system in several]
            n_atoms = torch.tensor(sizes, dtype=torch.float64, device=device)
            means = (sums / n_atoms[:, None]).cpu().numpy()
            deviations: list[float | None] = [None] * len(several)
            if self._uncertainty is not None and self._of_atoms:
                parts = self._uncertainty(per_atom).split(sizes)
                deviations = [float(part.max()) for part in parts]
            elif self._uncertainty is not None:
                deviations = (self._uncertainty(sums) / n_atoms).tolist()
            for system, mean, deviation in zip(several, means, deviations, strict=True):
                yield Candidate(system.frame, mean, deviation)


def compute_distances(features: Vector, others: Vector) -> Vector:
    """Return the distance [n] of a vector [n_features] to others [n, n_features]."""
    differences = others - features
    return np.sqrt(np.einsum("ij,ij->i", differences, differences))
