"""Names that the pickle of a checkpoint may mention, and what stands for each.

Each is answered with an inert object or a function of this module, never with the
function or class that the pickle names; ``unpickle.py`` refuses every other name.
"""

import math
import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pet_calc.errors import CheckpointError


class StandIn:
    """An object of a foreign class: its saved state, without its behaviour."""

    __slots__ = ("state",)

    def __init__(self) -> None:
        self.state: Any = None


class DatasetInfo(StandIn):
    """Stand-in of ``metatrain.utils.data.dataset.DatasetInfo``."""

    __slots__ = ()


class TargetInfo(StandIn):
    """Stand-in of ``metatrain.utils.data.target_info.TargetInfo``."""

    __slots__ = ()


class ScriptObject(StandIn):
    """Stand-in of ``torch.ScriptObject``; its state is (payload, class name)."""

    __slots__ = ()


@dataclass(frozen=True)
class Function:
    """A function that a pickle may call: our own, in place of the one it names."""

    call: Callable[..., Any]


@dataclass(frozen=True)
class StorageKind:
    """Stand-in of ``torch.FloatStorage`` and its like."""

    dtype: torch.dtype


@dataclass(frozen=True)
class Storage:
    """The bytes of one storage, and what they are."""

    content: Tensor
    dtype: torch.dtype


@dataclass(frozen=True)
class NumpyType:
    """Stand-in of a numpy dtype."""

    code: str


class StateDict(dict[Any, Any]):
    """What stands for an ``OrderedDict``; attributes such as _metadata are dropped."""


def _rebuild_tensor(
    storage: Any, start: Any, size: Any, stride: Any, *_: Any
) -> Tensor:
    """Return a view of the storage, after checking that it lies inside.

    The remaining arguments of torch's function (requires_grad, hooks, metadata) have
    no use here.
    """
    numbers = (start, *size, *stride)
    if (
        not isinstance(storage, Storage)
        or not all(type(n) is int and n >= 0 for n in numbers)
        or len(size) != len(stride)
    ):
        raise CheckpointError("refused: malformed tensor")
    values = storage.content.view(storage.dtype)
    n_values = math.prod(size)
    if n_values == 0:
        return torch.empty(tuple(size), dtype=storage.dtype)
    last = start + sum((n - 1) * s for n, s in zip(size, stride, strict=True))
    # more values than the storage has (stride 0) is legal but made to exhaust memory
    if last >= values.numel() or n_values > values.numel():
        raise CheckpointError(
            f"refused: a tensor of shape {tuple(size)} reaches outside its storage"
        )
    return values.as_strided(tuple(size), tuple(stride), start)


def _rebuild_parameter(tensor: Any, *_: Any) -> Tensor:
    if not isinstance(tensor, Tensor):
        raise CheckpointError("refused: a parameter that is no tensor")
    return tensor


def _rebuild_set(items: Any = ()) -> set[Any]:
    return set(items)


def _rebuild_tuple(items: Any = ()) -> tuple[Any, ...]:
    return tuple(items)


def _rebuild_mapping(items: Any = ()) -> StateDict:
    return StateDict(items)


def _rebuild_device(*arguments: Any) -> str:
    return ":".join(str(a) for a in arguments)


def _rebuild_numpy_type(code: Any, *_: Any) -> NumpyType:
    if code not in _NUMPY_CODES:
        raise CheckpointError(f"numpy numbers of type {code!r:.20} are not supported")
    return NumpyType(_NUMPY_CODES[code])


def _rebuild_number(kind: Any, content: Any) -> Any:
    if not isinstance(kind, NumpyType) or not isinstance(content, bytes):
        raise CheckpointError("refused: malformed numpy number")
    return struct.unpack("<" + kind.code, content)[0]


def _encode(text: Any, encoding: Any = "latin1") -> bytes:
    """Return the bytes that protocol 2 writes as text."""
    if not isinstance(text, str) or encoding != "latin1":
        raise CheckpointError("refused: malformed bytes")
    return text.encode("latin1")


_NUMPY_CODES = {"f8": "d", "f4": "f", "i8": "q", "i4": "i", "b1": "?"}

_STORAGES = {
    "DoubleStorage": torch.float64,
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
}

ALLOWED: dict[tuple[str, str], Any] = {
    ("metatrain.utils.data.dataset", "DatasetInfo"): DatasetInfo,
    ("metatrain.utils.data.target_info", "TargetInfo"): TargetInfo,
    ("torch", "ScriptObject"): ScriptObject,
    ("torch", "Size"): Function(_rebuild_tuple),
    ("torch", "device"): Function(_rebuild_device),
    ("torch._utils", "_rebuild_tensor_v2"): Function(_rebuild_tensor),
    ("torch._utils", "_rebuild_parameter"): Function(_rebuild_parameter),
    ("collections", "OrderedDict"): Function(_rebuild_mapping),
    # python 2 spells it so, and torch writes protocol 2
    ("__builtin__", "set"): Function(_rebuild_set),
    ("builtins", "set"): Function(_rebuild_set),
    ("numpy", "dtype"): Function(_rebuild_numpy_type),
    ("numpy.core.multiarray", "scalar"): Function(_rebuild_number),
    ("numpy._core.multiarray", "scalar"): Function(_rebuild_number),
    ("_codecs", "encode"): Function(_encode),
}
ALLOWED.update({("torch", k): StorageKind(v) for k, v in _STORAGES.items()})
ALLOWED.update(
    {("torch", str(v).removeprefix("torch.")): v for v in _STORAGES.values()}
)
