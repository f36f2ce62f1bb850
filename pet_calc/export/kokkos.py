"""The two files of pet-kokkos, a PET in C++ on Kokkos, for CPUs and GPUs.

``NAME.json`` has the shape, elements and composition energies, ``NAME.safetensors`` the
weights of the trunk and of one energy, in float32. pet-kokkos (on PyPI) reads them in
Python and in LAMMPS (``pair_style pet``, ``pet/kk``).
"""

import copy
import json
import logging
import shutil
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Any, cast

import torch
from safetensors.torch import save
from torch import Tensor

from pet_calc.checkpoint.to_ev import is_angstrom
from pet_calc.errors import ExportError
from pet_calc.export.kokkos_check import check_pair, find_missing
from pet_calc.lora.inject import has_lora, merge_lora
from pet_calc.model.hypers import PETHypers, choose_energy_target
from pet_calc.model.pet import PET
from pet_calc.model.tables import TargetTable
from pet_calc.system.atomic import write_atomically, write_text_atomically
from pet_calc.system.paths import expand_path
from pet_calc.units import energy_factor

logger = logging.getLogger(__name__)

FORMAT_VERSION = 1
ENDINGS = (".json", ".safetensors")
WIDEST_HEAD = 128
"""Numbers per attention head, the limit of pet-kokkos 0.1.1."""

TRUNK = (
    "gnn_layers",
    "combination_norms",
    "combination_mlps",
    "node_embedders",
    "edge_embedder",
    "system_conditioning",
)
HEADS = ("node_heads", "edge_heads")
LAST_LAYERS = ("node_last_layers", "edge_last_layers")


def find_kokkos_obstacle(model: PET, target: str) -> str | None:
    """Return what of the model pet-kokkos has no code for, None if nothing."""
    hypers = model.hypers
    kind = (hypers.transformer_type, hypers.normalization, hypers.activation)
    has_wide_node = hypers.d_node != hypers.d_pet
    if hypers.featurizer_type == "feedforward":
        needed, needs_wide_node = ("PreLN", "RMSNorm", "SwiGLU"), True
    else:
        needed, needs_wide_node = ("PostLN", "LayerNorm", "SiLU"), False
    if kind != needed:
        return (
            f"the model is {hypers.featurizer_type} with {', '.join(kind)}, of which "
            f"it knows {', '.join(needed)} only"
        )
    if has_wide_node != needs_wide_node:
        relation = "other than" if needs_wide_node else "equal to"
        return (
            f"the model is {hypers.featurizer_type} with d_node {hypers.d_node}, which "
            f"must be {relation} d_pet {hypers.d_pet}"
        )
    is_adaptive = hypers.num_neighbors_adaptive is not None
    if is_adaptive and hypers.featurizer_type != "feedforward":
        return "the model is residual with an adaptive cutoff"
    if hypers.d_pet // hypers.num_heads > WIDEST_HEAD:
        width = hypers.d_pet // hypers.num_heads
        return f"attention heads are {width} wide, and {WIDEST_HEAD} is its limit"
    if model.has_zbl(target):
        return "the model has the ZBL repulsion"
    scale = _get_table(model, target).scale
    if not bool((scale == scale[0]).all()):
        return f"the scale of {target} differs between elements"
    unit = model.targets[target].unit or "eV"
    if energy_factor(unit) != 1.0:
        return f"{target} is in {unit}, not in eV"
    return None


def export_to_kokkos(
    model: PET,
    path: str | Path,
    *,
    target: str | None = None,
    source: str = "",
    length_unit: str = "angstrom",
    check: bool = True,
) -> tuple[Path, Path]:
    """Write the two files of pet-kokkos; return their paths, ``.json`` first.

    Args:
        model: on any device, left as it is; LoRA is merged in the files.
        path: of the files without ending; an ending ``.json`` or ``.safetensors`` is
            taken off. Older files are replaced once both new ones are whole.
        target: the energy to write; needed if the model has several.
        source: what the files say they were made from.
        length_unit: of positions and cutoffs, which must be Å.
        check: evaluate the new files by pet-kokkos, where it is installed, and compare
            with the model before they replace anything.

    Raises:
        ExportError: if pet-kokkos has no code for the model, the folder is not there,
            or the files disagree with the model.
    """
    stem = strip_ending(expand_path(path))
    if not stem.parent.is_dir():
        raise ExportError(f"{path}: there is no folder {stem.parent}; make it first")
    name = _choose_target(model, target)
    obstacle = find_kokkos_obstacle(model, name)
    if not is_angstrom(length_unit):
        obstacle = f"the lengths of the model are in {length_unit}, not in angstrom"
    if obstacle:
        raise ExportError(f"pet-kokkos cannot run this model: {obstacle}")
    merged = copy.deepcopy(model).to("cpu")
    if has_lora(merged):
        merge_lora(merged)
    _tell_what_is_lost(merged, name)
    merged = merged.to(torch.float32).eval().requires_grad_(False)
    files = tuple(stem.with_name(stem.name + ending) for ending in ENDINGS)
    with tempfile.TemporaryDirectory(dir=stem.parent, prefix=".export-") as folder:
        draft = Path(folder) / stem.name
        write_pair(merged, draft, target=name, source=source)
        missing = find_missing() if check else None
        if missing:
            logger.warning(
                "%s: not compared with the model by pet-kokkos: %s", stem, missing
            )
        elif check:
            check_pair(draft, merged, name, stem)
        _replace_pair(draft, files)
    logger.info("exported %s and %s: target %s", *files, name)
    return cast(tuple[Path, Path], files)


def strip_ending(path: str | Path) -> Path:
    """Return the path that pet-kokkos is given: that of the files, without ending."""
    path = Path(path)
    return path.with_suffix("") if path.suffix in ENDINGS else path


def write_pair(model: PET, stem: Path, *, target: str, source: str = "") -> None:
    """Write both files of a model that ``find_kokkos_obstacle`` finds nothing in.

    Args:
        model: LoRA merged.
        stem: path without ending.
        target: name of the energy.
        source: what the files say they were made from.
    """
    header = json.dumps(describe_model(model, target, source), indent=2)
    weights = save(collect_weights(model, target))
    write_atomically(
        stem.with_name(stem.name + ".safetensors"), lambda file: file.write(weights)
    )
    write_text_atomically(stem.with_name(stem.name + ".json"), header + "\n")


def describe_model(model: PET, target: str, source: str = "") -> dict[str, Any]:
    """Return what stands in ``NAME.json``.

    Energies are in eV and lengths in Å; ``species_to_index`` goes by atomic number, -1
    where unknown, ``composition_energies`` by that index.
    """
    table = _get_table(model, target)
    return {
        "format_version": FORMAT_VERSION,
        "architecture": "pet",
        "source_model": source,
        "target": target,
        "hypers": _describe_hypers(model.hypers, has_zbl=model.has_zbl(target)),
        "length_unit": "angstrom",
        "energy_unit": "eV",
        "energy_scale": float(table.scale[0, 0]),
        "n_species": len(model.atomic_types),
        "atomic_types": list(model.atomic_types),
        "species_to_index": model.species_to_species_index.tolist(),
        "composition_energies": table.composition[:, 0].tolist(),
        "pet_calc_version": version("pet-calc"),
    }


def collect_weights(model: PET, target: str) -> dict[str, Tensor]:
    """Return the tensors of ``NAME.safetensors`` in float32, by pet-kokkos' names.

    They are those of the state dict; the target is called ``energy`` and its block
    ``energy___0``, whatever the model calls them.
    """
    found: dict[str, Tensor] = {}
    for name, value in model.state_dict().items():
        root, *rest = name.split(".")
        if root in HEADS + LAST_LAYERS:
            if rest[0] != target:
                continue
            rest[0] = "energy"
            if root in LAST_LAYERS:
                rest[2] = "energy___0"
        elif root not in TRUNK:
            continue
        name = ".".join([root, *rest])
        found[name] = value.detach().to("cpu", torch.float32).contiguous()
    return found


def _describe_hypers(hypers: PETHypers, *, has_zbl: bool) -> dict[str, Any]:
    own = hypers.to_dict()
    names = (
        *("d_pet", "d_head", "d_node", "d_feedforward", "num_heads"),
        *("num_attention_layers", "num_gnn_layers", "normalization", "activation"),
        *("transformer_type", "featurizer_type", "attention_temperature", "cutoff"),
        *("cutoff_width", "cutoff_function", "num_neighbors_adaptive"),
        *("adaptive_cutoff_method", "cutoff_width_adaptive", "system_conditioning"),
        *("max_charge", "max_spin_multiplicity"),
    )
    return {
        **{name: own[name] for name in names},
        "head_dim": hypers.d_pet // hypers.num_heads,
        "num_readout_layers": hypers.num_readout_layers,
        "zbl": has_zbl,
        "long_range_enabled": False,
    }


def _choose_target(model: PET, wanted: str | None) -> str:
    energies = [name for name, spec in model.targets.items() if spec.is_energy]
    if wanted is None and len(energies) > 1:
        raise ExportError(
            f"the model has several energies ({', '.join(energies)}), and the files of "
            "pet-kokkos hold one; say which one with --target"
        )
    return choose_energy_target(model.targets, wanted)


def _tell_what_is_lost(model: PET, target: str) -> None:
    """Log what of the model is not in the files."""
    rest = [name for name in model.targets if name != target]
    if rest:
        logger.info(
            "left out: %s; the files of pet-kokkos hold one energy, and its forces are "
            "derived from it",
            ", ".join(rest),
        )
    dtype = model.edge_embedder.weight.dtype
    if dtype != torch.float32:
        logger.info(
            "the weights are in %s, and are rounded to float32, which pet-kokkos "
            "computes in",
            str(dtype).removeprefix("torch."),
        )


def _replace_pair(draft: Path, files: tuple[Path, ...]) -> None:
    """Move both files to their places, so that old and new are never mixed."""
    header, weights = files
    sources = [draft.with_name(draft.name + ending) for ending in ENDINGS]
    for source, file in zip(sources, files, strict=True):
        if file.exists():
            shutil.copymode(file, source)
    # two files cannot be replaced at once: in between there is no header, and a pair
    # without one is not found, where a mixed one would be run
    header.unlink(missing_ok=True)
    sources[1].replace(weights)
    sources[0].replace(header)


def _get_table(model: PET, target: str) -> TargetTable:
    return cast(TargetTable, model.baseline.tables[target])
