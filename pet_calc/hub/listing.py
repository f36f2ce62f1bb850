"""The models there are: bundled, on this machine, and on the Hub."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pet_calc.assets import BUNDLED
from pet_calc.hub.download import fetch_list
from pet_calc.hub.local import get_placing_folder, list_local
from pet_calc.hub.names import N_WEIGHTS, ModelName, list_known

Where = Literal["bundled", "placed", "cached", "hub", "known"]


@dataclass(frozen=True)
class ModelEntry:
    """One model in one version."""

    name: str
    """What to write in place of a path."""
    version: str
    """Empty for bundled models."""
    where: Where
    """placed: copied by hand; hub: to be downloaded; known: so, but not asked now."""
    size_bytes: int | None
    """Of the file; None if the Hub was not asked."""
    n_weights: str
    """About how many weights models of this size have, such as ``25.9M``, or empty."""
    path: str
    """The file on this machine, or empty."""
    about: str
    """Level of theory, and what it is for."""


def list_models(*, is_online: bool = False) -> list[ModelEntry]:
    """Return all models, those on this machine first.

    Args:
        is_online: ask the Hub which models there are, in place of the table of those
            published when this version of pet-calc was made.

    Raises:
        HubError: if the Hub is asked and does not answer.
    """
    entries = [
        ModelEntry(
            name,
            "",
            "bundled",
            path.stat().st_size,
            "",
            str(path),
            _read_title(path.with_suffix(".md")),
        )
        for name, path in BUNDLED.items()
    ]
    local = list_local()
    for name, path in sorted(local.items()):
        where: Where = "placed" if path.parent == get_placing_folder() else "cached"
        entries.append(_build_entry(name, where, path.stat().st_size, str(path)))
    if is_online:
        remote = {name: file.size_bytes for name, file in fetch_list().items()}
    else:
        remote = dict.fromkeys(list_known())
    for name in remote:
        if name not in local:
            where = "hub" if is_online else "known"
            entries.append(_build_entry(name, where, remote[name], ""))
    return entries


def _build_entry(
    name: ModelName, where: Where, size_bytes: int | None, path: str
) -> ModelEntry:
    return ModelEntry(
        str(name),
        name.version_text,
        where,
        size_bytes,
        N_WEIGHTS[name.size],
        path,
        name.about,
    )


def _read_title(card: Path) -> str:
    """Return the first sentence of a model card, without its headline."""
    text = card.read_text(encoding="utf-8").partition("\n\n")[2]
    return " ".join(text.partition("\n\n")[0].split()).partition(". ")[0]
