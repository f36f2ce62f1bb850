"""Adapters on disk: one ``.safetensors`` file of a few MB.

The safetensors header has one entry, ``pet_calc_adapter``: a JSON object of
``format_version``, ``config``, ``targets``, ``base``, ``new_elements``, ``metadata``,
and the ``checksum`` of the tensors.
"""

import json
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, BinaryIO

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from pet_calc.errors import CheckpointError, LoRAError
from pet_calc.lora.adapter import Adapter
from pet_calc.lora.fingerprint import hash_tensors
from pet_calc.lora.layer import LoRAConfig
from pet_calc.model.hypers import TargetSpec
from pet_calc.system.atomic import write_atomically
from pet_calc.system.paths import expand_path

# one entry: safetensors writes several in random order, so no two files were alike
HEADER_KEY = "pet_calc_adapter"
FORMAT_VERSION = 1


def save_adapter(path: str | Path, adapter: Adapter) -> None:
    """Write the adapter to ``path``, which should end in ``.safetensors``.

    A file of that name is replaced only once the new one is whole.
    """
    tensors = {n: t.detach().cpu().contiguous() for n, t in adapter.tensors.items()}
    header = {
        "format_version": FORMAT_VERSION,
        "config": adapter.config.to_dict(),
        "targets": [spec.to_dict() for spec in adapter.targets.values()],
        "base": {"fingerprint": adapter.base_fingerprint, "name": adapter.base_name},
        "new_elements": list(adapter.new_elements),
        "metadata": {"versions": _find_versions(), **adapter.metadata},
        "checksum": hash_tensors(tensors),
    }
    data = save(tensors, metadata={HEADER_KEY: json.dumps(header)})

    def write(file: BinaryIO) -> None:
        file.write(data)

    write_atomically(path, write)


def load_adapter(path: str | Path) -> Adapter:
    """Read an adapter; whether it fits a base is checked when it is put on one.

    Raises:
        CheckpointError: if the file is missing, damaged, from a newer pet-calc, or
            not an adapter of ours.
    """
    path = Path(expand_path(path))
    if not path.is_file():
        raise CheckpointError(f"{path}: there is no such adapter file")
    try:
        with safe_open(path, framework="pt") as file:
            header = _read_header(path, file.metadata() or {})
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise CheckpointError(
            f"{path}: expected a .safetensors adapter, but it is damaged or of another "
            f"kind ({error})"
        ) from error
    return _build_adapter(path, header, tensors)


def _read_header(path: Path, entries: Mapping[str, str]) -> dict[str, Any]:
    if HEADER_KEY not in entries:
        found = ", ".join(f"{key}={value:.40}" for key, value in entries.items())
        raise CheckpointError(
            f"{path}: expected an adapter written by pet-calc, "
            f"found a file with {found or 'nothing'} in its header"
        )
    try:
        header = json.loads(entries[HEADER_KEY])
        found_version = int(header["format_version"])
    except (KeyError, TypeError, ValueError) as error:
        raise _header_error(path, error) from error
    if found_version > FORMAT_VERSION:
        raise CheckpointError(
            f"{path}: expected adapter format {FORMAT_VERSION} or older, "
            f"got {found_version}; update pet-calc to read it"
        )
    return header


def _build_adapter(
    path: Path, header: Mapping[str, Any], tensors: dict[str, Tensor]
) -> Adapter:
    if header.get("checksum") != hash_tensors(tensors):
        raise CheckpointError(
            f"{path}: the tensors do not match their checksum; the file is damaged, "
            "copy it again"
        )
    try:
        specs = [TargetSpec.from_dict(spec) for spec in header["targets"]]
        return Adapter(
            config=LoRAConfig.from_dict(header["config"]),
            tensors=tensors,
            targets={spec.name: spec for spec in specs},
            base_fingerprint=header["base"]["fingerprint"],
            base_name=header["base"]["name"],
            new_elements=tuple(int(z) for z in header.get("new_elements", [])),
            metadata=header["metadata"],
            source=str(path),
        )
    except (KeyError, TypeError, LoRAError) as error:
        raise _header_error(path, error) from error


def _header_error(path: Path, error: Exception) -> CheckpointError:
    return CheckpointError(
        f"{path}: the adapter's header is damaged ({type(error).__name__}: {error})"
    )


def _find_versions() -> dict[str, Any]:
    try:
        own = version("pet-calc")
    except PackageNotFoundError:  # run from a source tree
        own = "unknown"
    return {"pet-calc": own, "torch": torch.__version__}
