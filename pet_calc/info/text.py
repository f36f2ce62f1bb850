"""Show a description of a model file to people."""

from typing import Any

from ase.data import atomic_numbers

from pet_calc.evaluate.metrics import format_errors, format_spread
from pet_calc.info.describe import N_SHOWN

_LABEL_WIDTH = 13
# a run of this many neighbours in the periodic table is written H-Ne
_SHORTEST_RUN = 4


def format_description(values: dict[str, Any]) -> str:
    """Return the lines for what ``describe_file`` returned."""
    size = values["size_bytes"] / 1e6
    title = f"{values['file']}: {values['kind']} ({values['format_version']})"
    rows = [("size", f"{size:.1f} MB" if size >= 0.1 else f"{1000 * size:.0f} kB")]
    if values["name"]:
        rows.insert(0, ("name", values["name"]))
    rows += _list_model(values)
    for i, target in enumerate(values["targets"]):
        rows.append(("" if i else "targets", _format_target(target)))
    if values.get("inputs"):
        rows.append(("inputs", ", ".join(values["inputs"])))
    if "base" in values:
        base = values["base"]
        name = base["name"] or "without a name"
        rows.append(("base", f"{name}, fingerprint {base['fingerprint'][:N_SHOWN]}"))
    if values.get("new_elements"):
        rows.append(("new elements", " ".join(values["new_elements"])))
    if values.get("lora"):
        rows.append(("LoRA", _format_lora(values["lora"], "base" in values)))
    if "fingerprint" in values:
        rows.append(("fingerprint", values["fingerprint"][:N_SHOWN]))
    if "uncertainties" in values:
        names = ", ".join(values["uncertainties"])
        rows.append(("uncertainty", f"{names} (LLPR)" if names else "no"))
    rows += _list_origin(values)
    if values.get("can_resume"):
        rows.append(("resume", "holds a training state; go on with --resume"))
    lines = [f"{label:<{_LABEL_WIDTH}} {text}".rstrip() for label, text in rows]
    return "\n".join([title, *lines])


def format_elements(symbols: list[str]) -> str:
    """Return ascending symbols with runs shortened, such as ``H-Ne Si (11)``."""
    runs: list[list[str]] = []
    for symbol in symbols:
        if runs and atomic_numbers[symbol] == atomic_numbers[runs[-1][-1]] + 1:
            runs[-1].append(symbol)
        else:
            runs.append([symbol])
    parts = [
        f"{run[0]}-{run[-1]}" if len(run) >= _SHORTEST_RUN else " ".join(run)
        for run in runs
    ]
    return f"{' '.join(parts)} ({len(symbols)})"


def _list_model(values: dict[str, Any]) -> list[tuple[str, str]]:
    if "elements" not in values:
        return []
    rows = [
        ("elements", format_elements(values["elements"])),
        ("parameters", f"{values['n_parameters']:,} in {values['dtype']}"),
    ]
    if "shape" in values:
        rows.append(("shape", _format_shape(values["shape"])))
    unit = "Å" if values["length_unit"].lower() in ("angstrom", "a") else None
    unit = unit or values["length_unit"] or "(no unit)"
    cutoff = values["cutoff"]
    text = f"{cutoff['radius']:g} {unit}"
    if "cutoff_function" in cutoff:
        text += f", {cutoff['cutoff_function']} over {cutoff['cutoff_width']:g} {unit}"
    if cutoff.get("num_neighbors_adaptive") is not None:
        text += f"; adapted to {cutoff['num_neighbors_adaptive']:g} neighbours"
        text += f" ({cutoff['adaptive_cutoff_method']})"
    rows.append(("cutoff", text))
    rows.append(
        ("range", f"{values['interaction_range']:g} {unit} (how far atoms feel)")
    )
    return rows


def _format_shape(shape: dict[str, Any]) -> str:
    text = (
        f"d_pet {shape['d_pet']}, d_node {shape['d_node']}, "
        f"d_feedforward {shape['d_feedforward']}, d_head {shape['d_head']}, "
        f"{shape['num_gnn_layers']} GNN x {shape['num_attention_layers']} attention "
        f"layers, {shape['num_heads']} heads, {shape['featurizer_type']}, "
        f"{shape['transformer_type']}, {shape['normalization']}, {shape['activation']}"
    )
    if shape["zbl"]:
        text += ", ZBL"
    if shape["system_conditioning"]:
        text += (
            f"; reads charge (to ±{shape['max_charge']}) and spin multiplicity "
            f"(to {shape['max_spin_multiplicity']})"
        )
    return text


def _format_target(target: dict[str, Any]) -> str:
    text = f"{target['name']} [{target['unit'] or 'no unit'}]"
    level = target["level_of_theory"]
    return f"{text}: {level}" if level else text


def _format_lora(lora: dict[str, Any], is_adapter: bool) -> str:
    text = (
        f"rank {lora['rank']}, alpha {lora['alpha']:g}, on "
        f"{', '.join(lora['targets'])}: {lora['n_parameters']:,} parameters in "
        f"{lora['n_layers']} layers"
    )
    return text if is_adapter else f"{text}, not merged"


def _list_origin(values: dict[str, Any]) -> list[tuple[str, str]]:
    """Return where the model came from, and its errors."""
    rows = []
    provenance = values.get("provenance", {})
    if provenance.get("trained_with"):
        rows.append(("trained with", provenance["trained_with"]))
    if provenance.get("method"):
        text = provenance["method"]
        if provenance.get("base"):
            text += f" from {provenance['base']}"
            text += f", fingerprint {provenance['base_fingerprint'][:N_SHOWN]}"
        rows.append(("trained by", text))
    counts = provenance.get("n_frames") or {}
    if counts:
        text = ", ".join(f"{n} {name}" for name, n in counts.items() if n)
        rows.append(("frames", text))
    for name, digest in (provenance.get("files") or {}).items():
        rows.append(("data", f"{name}, sha256 {digest[:N_SHOWN]}"))
    if values.get("validation"):
        rows.append(("validation", format_errors(values["validation"])))
    rotation = values.get("rotation", {})
    if isinstance(rotation.get("spread"), dict):
        text = f"spread over orientations {format_spread(rotation['spread'])}"
        if rotation.get("base"):
            text += f" (base: {format_spread(rotation['base'])})"
        rows.append(("rotation", text))
    if values.get("epoch") is not None:
        rows.append(("epoch", str(values["epoch"])))
    versions = {
        key: provenance[key]
        for key in ("pet_calc", "torch", "ase", "metatrain")
        if provenance.get(key)
    }
    versions = versions or values.get("versions", {})
    if versions:
        rows.append(("versions", ", ".join(f"{k} {v}" for k, v in versions.items())))
    if values.get("exported_by"):
        rows.append(("exported by", f"pet-calc {values['exported_by']}"))
    if values.get("authors"):
        rows.append(("authors", ", ".join(values["authors"])))
    return rows
