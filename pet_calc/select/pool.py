"""Keep the best of a stream of frames, no two of them near copies, in flat memory."""

import numpy as np

from pet_calc.select.farthest import choose_farthest
from pet_calc.select.features import Candidate, Vector, compute_distances


class Pool:
    """The most uncertain frames so far, or, without uncertainties, the most diverse."""

    def __init__(self, size: int, *, is_ranked: bool) -> None:
        """Set up.

        Args:
            size: frames that are kept; up to twice as many are held meanwhile.
            is_ranked: whether uncertainty decides.
        """
        self.size = size
        self.is_ranked = is_ranked
        self.candidates: list[Candidate] = []
        self.n_copies = 0
        """Frames left out for a near copy of them."""
        self.n_dropped = 0
        """Frames left out for others that are more uncertain, or farther apart."""
        self._features: Vector = np.zeros((0, 0))
        # else the frames of a slow drift would push out the ones before, one by one
        self._reach = 0.0

    def add(self, candidate: Candidate, near: float) -> None:
        """Take a frame in, or count it.

        Of near copies the most uncertain one stays, without uncertainties the first.

        Args:
            candidate: the frame.
            near: distance of the features below which another one is a copy of it.
        """
        count = len(self.candidates)
        if len(self._features) <= count:
            grown = np.zeros((max(64, 2 * count), len(candidate.features)))
            if count:
                grown[:count] = self._features
            self._features = grown
        distances = compute_distances(candidate.features, self.features)
        if count and near <= distances.min() < self._reach:
            self.n_dropped += 1
            return
        copies = np.flatnonzero(distances < near)
        own = candidate.uncertainty or 0.0
        others = [self.candidates[i].uncertainty or 0.0 for i in copies]
        if others and (not self.is_ranked or max(others) >= own):
            self.n_copies += 1
            return
        if others:
            self.n_copies += len(others)
            self._keep(np.setdiff1d(np.arange(count), copies))
        self._features[len(self.candidates)] = candidate.features
        self.candidates.append(candidate)
        if len(self.candidates) >= 2 * self.size:
            self.close()

    def close(self) -> None:
        """Drop what is beyond the size."""
        n_before = len(self.candidates)
        if n_before <= self.size:
            return
        if self.is_ranked:
            values = np.array([c.uncertainty for c in self.candidates])
            best = np.argsort(-values, kind="stable")[: self.size]
        else:
            best, distances = choose_farthest(self.features, self.size)
            self._reach = float(distances[-1])
        self._keep(np.sort(best))
        self.n_dropped += n_before - self.size

    @property
    def features(self) -> Vector:
        """[n, n_features], of the frames in the pool."""
        return self._features[: len(self.candidates)]

    def _keep(self, indices: np.ndarray) -> None:
        self._features[: len(indices)] = self._features[indices]
        self.candidates = [self.candidates[i] for i in indices]
