"""Sequences of frames that lie in stores and are read when they are asked for."""

from collections.abc import Iterator, Sequence
from typing import Any, overload

import numpy as np
import numpy.typing as npt

from pet_calc.data.frames import NO_NAME, LabeledFrame
from pet_calc.data.records import ROW, name_column
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
        targets: Sequence[Sequence[str]],
        only: str | None = None,
    ) -> None:
        """Set up from parts; ``of_store`` and ``join`` are easier.

        Args:
            stores: that frames are read from.
            which: [n_frames], store of each frame.
            rows: [n_frames], its number in that store.
            weights: of each store, on top of the frames' own.
            targets: of each store, names of those that its frames have labels of.
            only: target whose labels alone count; None is all.
        """
        self.stores = tuple(stores)
        self.which = which
        self.rows = rows
        self.weights = tuple(weights)
        self.targets = tuple(tuple(names) for names in targets)
        self.only = only

    @classmethod
    def of_store(
        cls,
        store: FrameStore,
        *,
        weight: float = 1.0,
        targets: Sequence[str] = (NO_NAME,),
    ) -> "StoredFrames":
        """Return all frames of a store, whose targets get these names in order."""
        rows = np.arange(len(store), dtype=np.uint32)
        which = np.zeros(len(store), dtype=np.uint16)
        return cls([store], which, rows, weights=[weight], targets=[targets])

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
            targets=[names for part in parts for names in part.targets],
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
        frame = self.stores[which].read(int(self.rows[index]), self.targets[which])
        frame.weight *= self.weights[which]
        return frame if self.only is None else frame.of_target(self.only)

    def take(self, indices: Indices) -> "StoredFrames":
        """Return some of the frames, in the order of ``indices``."""
        return StoredFrames(
            self.stores,
            self.which[indices],
            self.rows[indices],
            weights=self.weights,
            targets=self.targets,
            only=self.only,
        )

    @property
    def names(self) -> list[str]:
        """Names of the targets that there are labels of."""
        if self.only is not None:
            return [self.only]
        return list(dict.fromkeys(name for names in self.targets for name in names))

    def has_target(
        self, name: str, indices: Indices | None = None
    ) -> npt.NDArray[np.bool_]:
        """Return which of all frames, or of some, have labels of a target."""
        is_there = np.array([name in names for names in self.targets], dtype=bool)
        return is_there[self.which if indices is None else self.which[indices]]

    def of_target(self, name: str) -> "StoredFrames":
        """Return the frames that have labels of a target, with these labels alone."""
        own = self.take(np.flatnonzero(self.has_target(name)))
        own.only = name
        return own

    def read_flags(
        self, name: str, indices: Indices | None = None
    ) -> npt.NDArray[np.uint32]:
        """Return what a target's labels are, of all frames or of some.

        They are bits of ``records.py``, none where a frame has no labels of the target.
        """
        columns = [
            store.index[name_column("flags", names.index(name))]
            if name in names
            else None
            for store, names in zip(self.stores, self.targets, strict=True)
        ]
        return self._gather(columns, ROW["flags"], indices)

    def read_column(
        self, name: str, indices: Indices | None = None
    ) -> npt.NDArray[Any]:
        """Return a column of the stores' index for all frames, or for some."""
        columns = [store.index[name] for store in self.stores]
        return self._gather(columns, ROW[name], indices)

    def _gather(
        self,
        columns: Sequence[npt.NDArray[Any] | None],
        dtype: np.dtype[Any],
        indices: Indices | None,
    ) -> npt.NDArray[Any]:
        """Return the frames' entries of their stores' columns, zero without one."""
        which = self.which if indices is None else self.which[indices]
        rows = self.rows if indices is None else self.rows[indices]
        values = np.zeros(len(rows), dtype=dtype)
        for number, column in enumerate(columns):
            if column is not None:
                is_here = which == number
                values[is_here] = column[rows[is_here]]
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
