"""Read metatensor's serialized maps as plain tensors.

Metatrain keeps target layouts, scales and composition energies as serialized
``TensorMap`` objects: bytes in a uint8 tensor, a zip file of numpy arrays. Metatensor's
own reader ends the process on some damaged input (found by flipping bytes, version
0.8), so these few bytes of unknown origin are parsed here.
"""

import ast
import io
import math
import zipfile
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pet_calc.errors import CheckpointError
from pet_calc.model.hypers import TargetSpec

SCALAR_KEYS = ["_"]
"""Names of the keys of a map with one block, as scalars and Cartesian tensors have."""

_NPY_MAGIC = b"\x93NUMPY\x01\x00"
_MAX_HEADER = 10_000

# what zipfile and numpy raise over damaged bytes
_DAMAGED = (
    KeyError,
    TypeError,
    ValueError,
    SyntaxError,
    EOFError,
    OverflowError,
    MemoryError,
    RuntimeError,
    zipfile.BadZipFile,
)


@dataclass(frozen=True)
class Axis:
    """Labels of one axis."""

    names: list[str]
    """Names of the columns."""
    values: list[list[int]]
    """One row per entry."""


@dataclass(frozen=True)
class Block:
    """The only block of a map."""

    values: Tensor
    """[n_samples, *n_components, n_properties] float64."""
    samples: Axis
    components: list[Axis]
    properties: Axis
    gradients: list[str]
    """Names of its gradients, ascending."""


def decode_map(buffer: Any, what: str) -> Block:
    """Return the block of the map that is serialized in ``buffer``, a uint8 tensor.

    Raises:
        CheckpointError: naming ``what``, if it is not such a map, or has several
            blocks (a spherical tensor).
    """
    if not isinstance(buffer, Tensor) or buffer.dtype != torch.uint8:
        raise CheckpointError(f"{what}: expected the bytes of a metatensor map")
    try:
        with zipfile.ZipFile(io.BytesIO(buffer.cpu().numpy().tobytes())) as archive:
            keys = _read_axis(archive, "keys")
            if keys.names != SCALAR_KEYS or keys.values != [[0]]:
                raise CheckpointError(
                    f"{what}: {len(keys.values)} blocks with keys {keys.names} (a "
                    "spherical tensor); scalars and Cartesian tensors are supported"
                )
            return _read_block(archive)
    except _DAMAGED as error:
        raise CheckpointError(f"{what}: damaged metatensor map: {error}") from error


def decode_target(
    name: str, layout: Any, *, quantity: str, unit: str, description: str
) -> TargetSpec:
    """Return the spec of a target from its layout, a serialized map without samples.

    Raises:
        CheckpointError: if the target has several blocks (spherical tensors), or one
            value per pair of atoms.
    """
    block = decode_map(layout, f"target {name!r}")
    sample_names = block.samples.names
    if sample_names not in (["system"], ["system", "atom"]):
        raise CheckpointError(
            f"target {name!r} has samples {sample_names}; one value per system or "
            "per atom is supported"
        )
    return TargetSpec(
        name=name,
        quantity=quantity,
        unit=unit,
        sample_kind="atom" if "atom" in sample_names else "system",
        block_name=f"{name}___0",
        components=[len(axis.values) for axis in block.components],
        n_properties=len(block.properties.values),
        description=description,
        gradients=block.gradients,
        layout={
            "components": [axis.names[0] for axis in block.components],
            "properties": block.properties.names,
            "property_values": block.properties.values,
        },
    )


def _read_block(archive: zipfile.ZipFile) -> Block:
    folder = "blocks/0"
    names = archive.namelist()
    n_components = sum(n.startswith(f"{folder}/components/") for n in names)
    gradients = f"{folder}/gradients/"
    found = {
        n[len(gradients) :].split("/")[0] for n in names if n.startswith(gradients)
    }
    block = Block(
        values=torch.from_numpy(_read_array(archive, f"{folder}/values.npy")),
        samples=_read_axis(archive, f"{folder}/samples"),
        components=[
            _read_axis(archive, f"{folder}/components/{i}") for i in range(n_components)
        ],
        properties=_read_axis(archive, f"{folder}/properties"),
        gradients=sorted(found),
    )
    axes = [block.samples, *block.components, block.properties]
    if tuple(block.values.shape) != tuple(len(axis.values) for axis in axes):
        raise ValueError("the shape of the values differs from the labels")
    return block


def _read_axis(archive: zipfile.ZipFile, name: str) -> Axis:
    array = _read_array(archive, f"{name}.npy")
    if array.dtype.names is None or array.ndim != 1:
        raise ValueError(f"{name} are no labels")
    return Axis(list(array.dtype.names), [list(row) for row in array.tolist()])


def _read_array(archive: zipfile.ZipFile, name: str) -> np.ndarray:
    """Return an array of float64 values, or of int32 labels."""
    info = archive.getinfo(name)
    if info.compress_type != zipfile.ZIP_STORED:
        raise ValueError(f"{name} is compressed")
    content = archive.read(info)
    dtype, shape, start = _parse_header(content)
    n_bytes = math.prod(shape) * dtype.itemsize
    if len(content) - start != n_bytes:
        raise ValueError(f"{name}: {len(content) - start} bytes for shape {shape}")
    # a copy, because an array over bytes cannot be written to
    return np.frombuffer(content, dtype=dtype, offset=start).reshape(shape).copy()


def _parse_header(content: bytes) -> tuple[np.dtype, tuple[int, ...], int]:
    """Return type, shape and start of the data of a ``.npy`` file.

    Numpy's own parser also takes Python 2's headers, object types, and more.
    """
    start = len(_NPY_MAGIC) + 2
    end = start + int.from_bytes(content[start - 2 : start], "little")
    if not content.startswith(_NPY_MAGIC) or not start < end <= _MAX_HEADER:
        raise ValueError("not an array of numpy format 1")
    header = ast.literal_eval(content[start:end].decode("ascii").strip())
    descr, shape = header["descr"], header["shape"]
    is_labels = isinstance(descr, list) and all(kind == "<i4" for _, kind in descr)
    if header["fortran_order"] or not (is_labels or descr == "<f8"):
        raise ValueError(f"an array of type {descr!r:.100}")
    if not all(type(n) is int and n >= 0 for n in shape):
        raise ValueError(f"an array of shape {shape!r:.100}")
    return np.dtype(descr), tuple(shape), end
