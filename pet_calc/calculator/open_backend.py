"""From what ``PETCalculator`` is given to what evaluates it."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from pet_calc.calculator.adapters import AdapterSwitch
from pet_calc.calculator.backend import Backend
from pet_calc.calculator.from_checkpoint import CheckpointBackend
from pet_calc.calculator.from_export import DTYPES, ExportBackend
from pet_calc.calculator.from_kokkos import load_kokkos_backend
from pet_calc.calculator.request import Request
from pet_calc.checkpoint import Checkpoint
from pet_calc.checkpoint.open import (
    choose_device,
    is_exported,
    load_merged_model,
    load_record,
    load_uncertainties,
)
from pet_calc.errors import ConfigError
from pet_calc.model.pet import PET
from pet_calc.model.uncertainty import LastLayerUncertainty
from pet_calc.system.paths import expand_path

BACKENDS = ("pet-calc", "pet-kokkos")

Source = str | Path | Checkpoint | PET
Adapters = Mapping[str, str | Path]


def open_backend(
    model: Source,
    request: Request,
    *,
    adapter: str | Path | None,
    adapters: Adapters | None,
    device: str | torch.device | None,
    dtype: str | torch.dtype | None,
    precision: str,
    backend: str,
) -> tuple[Backend, AdapterSwitch | None]:
    """Return what evaluates the model, and what switches its adapters, if there are.

    The arguments and errors are those of ``PETCalculator``.
    """
    wanted = _resolve_dtype(dtype)
    if not request.skin >= 0.0:
        raise ConfigError(
            f"skin: expected a distance of at least 0 Å, got {request.skin}"
        )
    if backend not in BACKENDS:
        raise ConfigError(f"backend {backend!r}: expected {' or '.join(BACKENDS)}")
    if isinstance(model, (str, Path)):
        model = expand_path(model)
    if backend == "pet-kokkos":
        if adapters is not None:
            raise ConfigError(
                f"backend={backend!r}: it switches no adapters; name one with adapter="
            )
        kokkos = load_kokkos_backend(
            model,
            request,
            adapter=adapter,
            device=device,
            dtype=wanted,
            precision=precision,
        )
        return kokkos, None
    if isinstance(model, str) and is_exported(model):
        _refuse_on_export(model, adapter is not None or adapters is not None, precision)
        return ExportBackend(model, request, device=device, dtype=wanted), None
    first = None if adapters is None else _pick_first(adapter, adapters)
    record = load_record(
        Checkpoint.from_model(model) if isinstance(model, PET) else model
    )
    place = choose_device(device)
    put = adapter if adapters is None else None
    network = load_merged_model(record, adapter=put, dtype=wanted, device=place)
    own = load_uncertainties(record, adapter=put, device=place)
    name = model if isinstance(model, str) else "the model"
    build = _Builder(network, request, precision, own, name)
    if adapters is None:
        return build(None if put is None else str(put), None), None
    base_name = Path(record.source).name if record.source else ""
    switch = AdapterSwitch(network, adapters, build, base_name=base_name)
    return switch.switch(first, None), switch


@dataclass(frozen=True)
class _Builder:
    """Makes the backend of a model as it is now; a class, since it is copied."""

    model: PET
    request: Request
    precision: str
    uncertainties: Mapping[str, LastLayerUncertainty]
    name: str

    def __call__(self, adapter: str | None, target: str | None) -> CheckpointBackend:
        request = self.request
        return CheckpointBackend(
            self.model,
            request if target is None else replace(request, target=target),
            precision=self.precision,
            # it belongs to the features of the base alone
            uncertainties=self.uncertainties if adapter is None else {},
            source=self.name if adapter is None else f"{self.name} with {adapter}",
        )


def _pick_first(adapter: str | Path | None, adapters: Adapters) -> str | None:
    """Return the name of the adapter to begin with, None for the base alone."""
    if adapter is None or adapter in adapters:
        return None if adapter is None else str(adapter)
    raise ConfigError(
        f"adapter={str(adapter)!r}: expected one of the names in adapters= "
        f"({', '.join(adapters) or 'none'}); put this file there too"
    )


def _refuse_on_export(path: str, has_adapter: bool, precision: str) -> None:
    if has_adapter:
        raise ConfigError(
            f"{path}: an exported file cannot take an adapter; export the "
            "checkpoint with the adapter instead (pet-calc export --adapter)"
        )
    if precision != "exact":
        raise ConfigError(
            f"{path}: an exported file runs in its own precision; for another "
            "one take the checkpoint"
        )


def _resolve_dtype(dtype: str | torch.dtype | None) -> torch.dtype | None:
    if dtype is None or dtype in DTYPES.values():
        return dtype  # type: ignore[return-value]
    if isinstance(dtype, str) and dtype in DTYPES:
        return DTYPES[dtype]
    raise ConfigError(f"dtype {dtype}: expected float32 or float64")
