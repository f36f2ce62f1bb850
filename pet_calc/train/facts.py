"""What a run knows of itself for its page: sources, data, parameters, warnings."""

import json
import logging
import platform
from collections.abc import Container, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, cast

import torch
from ase.data import chemical_symbols

from pet_calc.lora.freeze import trainable_table
from pet_calc.model.tables import TargetTable
from pet_calc.system.atomic import write_text_atomically
from pet_calc.train.datasets import RunFrames
from pet_calc.train.progress import listen
from pet_calc.train.start.model import Prepared


@dataclass
class RunFacts:
    """What a run knows before its first step, for its page; errors in eV and Å."""

    provenance: dict[str, Any] = field(default_factory=dict)
    """Base, level of theory, versions, numbers of frames, checksums of files."""
    census: dict[str, dict[str, Any]] = field(default_factory=dict)
    """By set and target: what the frames hold."""
    trainable: list[dict[str, Any]] = field(default_factory=list)
    """Parameters of each part of the model, and how many of them train."""
    composition: dict[str, dict[str, list[float]]] = field(default_factory=dict)
    """By target and element: energies in eV, of the base (if there is one) and now."""
    warnings: list[str] = field(default_factory=list)
    """What was warned of, in all sessions."""
    test_before: dict[str, float] = field(default_factory=dict)
    """Test errors before the first step."""
    machine: dict[str, Any] = field(default_factory=dict)
    """Where it ran."""

    def save(self, path: Path) -> None:
        """Write them, for later sessions and for runs that are cut off."""
        write_text_atomically(path, json.dumps(self.to_dict(), indent=2) + "\n")

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, as a file of JSON gives them back."""
        plain: dict[str, Any] = json.loads(json.dumps(asdict(self)))
        return plain

    def load_earlier(self, path: Path) -> None:
        """Take over what an earlier session knew and this one cannot measure."""
        if path.exists():
            earlier = json.loads(path.read_text())
            self.test_before = earlier["test_before"]
            self.composition = earlier["composition"]
            self.warn(earlier["warnings"])

    def warn(self, texts: Iterable[str]) -> None:
        """Add warnings, each text once."""
        self.warnings = list(dict.fromkeys([*self.warnings, *texts]))


def describe_start(
    prepared: Prepared, frames: RunFrames, metadata: dict[str, Any], n_ranks: int
) -> RunFacts:
    """Return the facts before the first step.

    Args:
        prepared: the model.
        frames: of the run.
        metadata: of the model files.
        n_ranks: processes that share the work.
    """
    model = prepared.model
    census = {
        part: {target: asdict(found) for target, found in targets.items()}
        for part, targets in frames.census.items()
    }
    symbols = {
        symbol
        for targets in census.values()
        for found in targets.values()
        for symbol in found["elements"]
    }
    return RunFacts(
        # the options are in a file of their own
        provenance={
            name: value
            for name, value in metadata.get("provenance", {}).items()
            if name != "options"
        },
        census=census,
        trainable=[row._asdict() for row in trainable_table(model)],
        composition=_describe_composition(prepared, symbols),
        machine=_describe_machine(model.edge_embedder.weight.device, n_ranks),
    )


class KeptWarnings(logging.Handler):
    """Collects what is warned of."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.texts: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Keep one warning, each text once."""
        text = record.getMessage()
        if text not in self.texts:
            self.texts.append(text)


@contextmanager
def keep_warnings() -> Iterator[list[str]]:
    """Collect the warnings of the package in the block."""
    handler = KeptWarnings()
    with listen(handler):
        yield handler.texts


def _describe_composition(
    prepared: Prepared, symbols: Container[str]
) -> dict[str, dict[str, list[float]]]:
    """Return the energies per element of each energy target, in eV.

    Of the main target they are those of the base's target, and those now.

    Args:
        prepared: the model.
        symbols: of the elements to list.
    """
    model = prepared.model
    before = prepared.base_composition.tolist()
    found: dict[str, dict[str, list[float]]] = {}
    for name, spec in model.targets.items():
        if not spec.is_energy:
            continue
        table = cast(TargetTable, model.baseline.tables[name])
        now = table.composition[:, 0].tolist()
        rows = {}
        for i, number in enumerate(model.atomic_types):
            if chemical_symbols[number] not in symbols:
                continue
            has_before = name == prepared.target and i < len(before)
            rows[chemical_symbols[number]] = [
                *([before[i]] if has_before else []),
                now[i],
            ]
        found[name] = rows
    return found


def _describe_machine(device: torch.device, n_ranks: int) -> dict[str, Any]:
    """Return where a run takes place."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else ""
    return {
        "device": f"{device}{f' ({name})' if name else ''}",
        "processes": n_ranks,
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "system": platform.platform(),
    }
