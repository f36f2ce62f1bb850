"""What an existing file holds, by its first bytes, before something replaces it."""

import json
import zipfile
from pathlib import Path
from typing import Any

KINDS = {
    "checkpoint": "a checkpoint",
    "export": "an exported model",
    "adapter": "an adapter",
    "tensors": "tensors of another program",
    "report": "a report of pet-calc",
    "predictions": "predictions of pet-calc",
    "selection": "frames chosen by pet-calc",
    "structures": "structures",
    "options": "an options file",
    "lammps": "a LAMMPS input of pet-calc",
    "page": "a page of pet-calc",
    "figure": "a figure",
    "json": "JSON of another program",
}
"""What verbs write and what they may find, as it is called in a message."""

# longer JSON is no report of ours
_LARGEST_REPORT = 50_000_000


def find_kind(path: Path) -> str | None:
    """Return a key of ``KINDS``, ``other``, or None for what is not there or empty."""
    if not path.is_file() or path.stat().st_size == 0:
        return None
    with path.open("rb") as file:
        start = file.read(4096)
    if start[:2] == b"PK":
        return _look_into_archive(path)
    if start[8:10] == b'{"' and path.suffix == ".safetensors":
        return _look_into_weights(path)
    if start[:8] == b"\x89PNG\r\n\x1a\n" or start[:5] == b"%PDF-":
        return "figure"
    try:
        text = start.decode(errors="ignore" if len(start) == 4096 else "strict")
    except UnicodeDecodeError:
        return "other"
    lines = text.lstrip("\ufeff \n\r\t").splitlines()
    if lines and lines[0].strip().isdigit():
        comment = lines[1] if len(lines) > 1 else ""
        if "select_from=" in comment:
            return "selection"
        return "predictions" if "pet_model=" in comment else "structures"
    if text.startswith("<!doctype html>") and '"generator" content="pet-calc"' in text:
        return "page"
    if text.lstrip()[:4] in ("<svg", "<?xm") and "<svg" in text:
        return "figure"
    if text.startswith("# Written by pet-calc"):
        return "lammps"
    if text.lstrip()[:1] in ("{", "["):
        return _look_into_json(path)
    if path.suffix in (".yaml", ".yml"):
        return "options"
    return "other"


def _look_into_archive(path: Path) -> str:
    try:
        names = zipfile.ZipFile(path).namelist()
    except (OSError, zipfile.BadZipFile):
        return "other"
    if any("/code/" in name for name in names):
        return "export"
    return "checkpoint" if any(n.endswith("data.pkl") for n in names) else "other"


def _look_into_weights(path: Path) -> str:
    with path.open("rb") as file:
        n_bytes = int.from_bytes(file.read(8), "little")
        header = file.read(min(n_bytes, _LARGEST_REPORT))
    if b"pet_calc_adapter" in header:
        return "adapter"
    # the weights of a model for pet-kokkos
    is_export = b"node_last_layers.energy.0.energy___0.weight" in header
    return "export" if is_export else "tensors"


def _look_into_json(path: Path) -> str:
    if path.stat().st_size > _LARGEST_REPORT:
        return "json"
    try:
        values: Any = json.loads(path.read_text())
    except (ValueError, RecursionError):
        return "other"
    if not isinstance(values, dict):
        return "json"
    if values.get("architecture") == "pet" and "species_to_index" in values:
        return "export"
    is_errors = all(isinstance(value, int | float) for value in values.values())
    marks = ({"findings"}, {"taken", "left_out"}, {"rows", "verdict"})
    is_ours = any(names <= values.keys() for names in marks)
    return "report" if is_ours or is_errors else "json"
