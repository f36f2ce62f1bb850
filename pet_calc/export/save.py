"""Build the metatomic model of a PET, and write it to a file."""

import copy
import json
import logging
import tempfile
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from metatomic.torch import (
    AtomisticModel,
    ModelCapabilities,
    ModelMetadata,
    ModelOutput,
)

from pet_calc.errors import ExportError
from pet_calc.export.check import check_file
from pet_calc.export.module import ExportedPET, name_output
from pet_calc.export.serialize import serialize
from pet_calc.export.uncertainty import (
    ENSEMBLE,
    FEATURE,
    UNCERTAINTY,
    name_extra_output,
)
from pet_calc.lora.inject import has_lora, merge_lora
from pet_calc.model.hypers import DIRECT_STRESS, TargetSpec
from pet_calc.model.pet import PET
from pet_calc.model.tables import TargetTable
from pet_calc.model.uncertainty import LastLayerUncertainty
from pet_calc.system.atomic import write_atomically
from pet_calc.system.paths import expand_path
from pet_calc.units import energy_factor

logger = logging.getLogger(__name__)

DTYPE_NAMES = {torch.float32: "float32", torch.float64: "float64"}

# a usual cell, and steps of its energy, eV, that spoil its differences
N_USUAL_ATOMS = 200
COARSEST_STEP = 2e-3

ARCHITECTURE_REFERENCES = [
    "PET: https://doi.org/10.48550/arXiv.2305.19302",
    "PET variants of the universal models: https://doi.org/10.48550/arXiv.2601.16195",
]
IMPLEMENTATION_REFERENCES = ["metatomic: https://docs.metatensor.org/metatomic"]


def build_atomistic_model(
    model: PET,
    *,
    metadata: dict[str, Any] | None = None,
    length_unit: str = "angstrom",
    uncertainties: Mapping[str, LastLayerUncertainty] | None = None,
) -> AtomisticModel:
    """Return the model behind metatomic's interface, not yet scripted or saved.

    Args:
        model: left as it is; the result holds a copy, with LoRA merged, on the CPU.
        metadata: ``name``, ``description``, ``authors`` (a list), ``references`` (a
            list, or lists under ``model``, ``architecture``, ``implementation``), and
            anything else, which is kept as text.
        length_unit: of positions and cutoffs, as metatomic spells it.
        uncertainties: of energies that have one, in the unit of the target.

    Raises:
        ExportError: if metatomic cannot express an output or a unit of the model.
    """
    dtype = model.edge_embedder.weight.dtype
    if dtype not in DTYPE_NAMES:
        raise ExportError(
            f"cannot export a model in {dtype}: convert it to float32 or float64 first"
        )
    merged = copy.deepcopy(model).to("cpu")
    if has_lora(merged):
        merge_lora(merged)
    merged.eval().requires_grad_(False)
    try:
        capabilities = ModelCapabilities(
            outputs={
                **{name_output(s): _describe(s) for s in model.targets.values()},
                **_describe_features(model),
                **_describe_uncertainties(model, uncertainties or {}),
            },
            atomic_types=merged.atomic_types,
            interaction_range=merged.interaction_range,
            length_unit=length_unit,
            supported_devices=["cuda", "cpu"],
            dtype=DTYPE_NAMES[dtype],
        )
        return AtomisticModel(
            ExportedPET(merged, uncertainties).eval(),
            _build_metadata(metadata or {}),
            capabilities,
        )
    except (RuntimeError, ValueError) as error:
        raise ExportError(f"metatomic does not accept this model: {error}") from error


def export_model(
    model: PET,
    path: str | Path,
    *,
    metadata: dict[str, Any] | None = None,
    length_unit: str = "angstrom",
    uncertainties: Mapping[str, LastLayerUncertainty] | None = None,
    check: bool = True,
) -> Path:
    """Write the model as a TorchScript file for metatomic; return its path.

    Args:
        model: as for ``build_atomistic_model``.
        path: file to write, usually ``*.pt``; an older one is replaced whole.
        metadata: as for ``build_atomistic_model``.
        length_unit: likewise.
        uncertainties: likewise.
        check: load the file again and compare it with ``model`` before it replaces
            anything.

    Raises:
        ExportError: if the model cannot be expressed, or the file disagrees with it.
    """
    path = Path(expand_path(path))
    if not path.parent.is_dir():
        raise ExportError(f"{path}: there is no folder {path.parent}; make it first")
    exported = build_atomistic_model(
        model, metadata=metadata, length_unit=length_unit, uncertainties=uncertainties
    )
    _warn_of_coarse_totals(exported.module.pet)
    content = serialize(exported)
    if check:
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=".export-") as folder:
            draft = Path(folder) / path.name
            try:
                draft.write_bytes(content)
            except OSError as error:
                error.filename = str(path)
                raise
            check_file(draft, exported.module.pet, path, uncertainties)
    write_atomically(path, lambda file: file.write(content))
    logger.info(
        "exported %s: outputs %s, interaction range %g %s",
        path,
        ", ".join(exported.capabilities().outputs),
        exported.capabilities().interaction_range,
        length_unit,
    )
    return path


def _warn_of_coarse_totals(model: PET) -> None:
    """Warn where float32, in which metatomic passes energies, is too coarse for them.

    pet-calc's own programs add the composition in float64 (``evaluate_pairs``).
    """
    if model.edge_embedder.weight.dtype != torch.float32:
        return
    for name, spec in model.targets.items():
        if not spec.is_energy:
            continue
        table = cast(TargetTable, model.baseline.tables[name])
        largest = float(table.composition.abs().max())
        total = np.float32(N_USUAL_ATOMS * largest)
        # no name of a unit is eV, as everywhere
        step = float(np.spacing(total)) * energy_factor(spec.unit or "eV")
        if step > COARSEST_STEP:
            logger.warning(
                "%s: composition energies reach %.6g %s per atom: of %d atoms, other "
                "programs get the total in steps of %.2g meV, since the file is in "
                "float32; export with --dtype float64 for them (PETCalculator and "
                "pet-calc's LAMMPS plugin with the engine add them in float64)",
                name,
                largest,
                spec.unit,
                N_USUAL_ATOMS,
                1e3 * step,
            )


def _describe(spec: TargetSpec) -> ModelOutput:
    # PET's outputs are sums over atoms, so all but the stress exist per atom too
    is_stress = spec.base_name == DIRECT_STRESS
    return ModelOutput(
        unit=spec.unit,
        sample_kind="system" if is_stress else "atom",
        description=spec.description or f"PET output {spec.name}",
    )


def _describe_features(model: PET) -> dict[str, ModelOutput]:
    """Return the outputs that programs draw maps of, one for each energy."""
    return {
        name_extra_output(name, FEATURE): ModelOutput(
            sample_kind="atom", description=f"last-layer features of {name}"
        )
        for name, spec in model.targets.items()
        if spec.is_energy
    }


def _describe_uncertainties(
    model: PET, uncertainties: Mapping[str, LastLayerUncertainty]
) -> dict[str, ModelOutput]:
    """Return the outputs that the uncertainties of energies add, by name."""
    texts = {
        UNCERTAINTY: "standard deviation of {}, by last-layer prediction rigidity",
        ENSEMBLE: "ensemble of {}, by last layers drawn with its uncertainty",
    }
    return {
        name_extra_output(name, kind): ModelOutput(
            unit=model.targets[name].unit,
            sample_kind="atom",
            description=text.format(name),
        )
        for name, own in uncertainties.items()
        for kind, text in texts.items()
        if kind == UNCERTAINTY or own.n_members
    }


def _build_metadata(values: dict[str, Any]) -> ModelMetadata:
    """Return metatomic's form of the metadata, with what pet-calc adds."""
    rest = dict(values)
    name = str(rest.pop("name", None) or "PET")
    description = str(rest.pop("description", None) or "")
    authors = [str(author) for author in rest.pop("authors", None) or []]
    given = rest.pop("references", None) or {}
    if not isinstance(given, dict):
        given = {"model": given}
    references: dict[str, list[str]] = {
        "architecture": list(ARCHITECTURE_REFERENCES),
        "implementation": list(IMPLEMENTATION_REFERENCES),
    }
    for kind, entries in given.items():
        known = references.setdefault(kind, [])
        known.extend(str(entry) for entry in entries if entry not in known)
    own_version = version("pet-calc")
    extra = {**rest, **(rest.pop("extra", None) or {}), "pet_calc_version": own_version}
    return ModelMetadata(
        name=name,
        description=f"{description}\n\nExported by pet-calc {own_version}.".strip(),
        authors=authors,
        references=references,
        extra={str(k): _to_text(v) for k, v in extra.items() if k != "extra"},
    )


def _to_text(value: Any) -> str:
    """Return text as it is, and everything else as JSON."""
    return value if isinstance(value, str) else json.dumps(value)
