"""Sequences of frames that lie in stores and are read when they are asked for."""

from collections.abc import Iterator, Sequence
from typing import Any, overload

import numpy as np
import numpy.typing as npt

from pet_calc.data.frames import LabeledFrame
from pet_calc.data.store import FrameStore

Indices = npt.NDArray[np.int64]


class StoredFrames(Sequence[LabeledFrame]):
    """Frames of one or more stores, in any order; a few bytes each in memory."""

    def __init__(
        self,
        stores: Sequence[FrameStore],
        which: npt.NDArray[np.uint16],
        rows: npt.NDArray[np.uint32],
        *,
        weights: Sequence[float],
        targets: Sequence[str],
    ) -> None:
        """Set up from parts; ``of_store`` and ``join`` are easier.

        Args:
            stores: that frames are read from.
            which: [n_frames], store of each frame.
            rows: [n_frames], its number in that store.
            weights: of each store, on top of the frames' own.
            targets: of each store, see ``LabeledFrame.target``.
        """
        self.stores = tuple(stores)
        self.which = which
        self.rows = rows
        self.weights = tuple(weights)
        self.targets = tuple(targets)

    @classmethod
    def of_store(
        cls, store: FrameStore, *, weight: float = 1.0, target: str = ""
    ) -> "StoredFrames":
        """Return all frames of a store."""
        rows = np.arange(len(store), dtype=np.uint32)
        which = np.zeros(len(store), dtype=np.uint16)
        return cls([store], which, rows, weights=[weight], targets=[target])

    @classmethod
    def join(cls, parts: Sequence["StoredFrames"]) -> "StoredFrames":
        """Return the frames of all parts, one part after the other."""
        starts = np.cumsum([0] + [len(part.stores) for part in parts])
        which = [part.which + start for part, start in zip(parts, starts, strict=False)]
        return cls(
            [store for part in parts for store in part.stores],
            np.concatenate(which).astype(np.uint16),
            np.concatenate([part.rows for part in parts]),
            weights=[weight for part in parts for weight in part.weights],
            targets=[target for part in parts for target in part.targets],
        )

    def __len__(self) -> int:
        return len(self.rows)

    @overload
    def __getitem__(self, index: int) -> LabeledFrame: ...
    @overload
    def __getitem__(self, index: slice) -> "StoredFrames": ...
    def __getitem__(self, index: int | slice) -> Any:
        if isinstance(index, slice):
            return self.take(np.arange(len(self))[index])
        which = int(self.which[index])
        frame = self.stores[which].read(int(self.rows[index]))
        frame.weight *= self.weights[which]
        frame.target = self.targets[which]
        return frame

    def take(self, indices: Indices) -> "StoredFrames":
        """Return some of the frames, in the order of ``indices``."""
        return StoredFrames(
            self.stores,
            self.which[indices],
            self.rows[indices],
            weights=self.weights,
            targets=self.targets,
        )

    def read_column(
        self, name: str, indices: Indices | None = None
    ) -> npt.NDArray[Any]:
        """Return a column of the stores' index for all frames, or for some."""
        which = self.which if indices is None else self.which[indices]
        rows = self.rows if indices is None else self.rows[indices]
        parts = [store.index[name] for store in self.stores]
        if len(parts) == 1:
            return np.asarray(parts[0][rows])
        values = np.empty(len(rows), dtype=parts[0].dtype)
        for number, part in enumerate(parts):
            is_here = which == number
            values[is_here] = part[rows[is_here]]
        return values

    def read_weights(self, indices: Indices) -> npt.NDArray[np.float64]:
        """Return the weights of some frames in the loss."""
        factors = np.array(self.weights)[self.which[indices]]
        return np.asarray(self.read_column("weight", indices) * factors)

    def iterate_kinds(self) -> Iterator[tuple[dict[str, Any], Indices]]:
        """Yield what frames share (elements, config_type, ...) and those frames."""
        kinds = self.read_column("kind").astype(np.int64)
        kinds += self.which.astype(np.int64) << 32
        order = np.argsort(kinds, kind="stable")
        found, starts = np.unique(kinds[order], return_index=True)
        for kind, indices in zip(
            found.tolist(), np.split(order, starts[1:]), strict=True
        ):
            store = self.stores[kind >> 32]
            yield store.kinds[kind & 0xFFFFFFFF], indices
