"""Compare a run that goes on with the one that is in the folder."""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pet_calc.checkpoint import load_checkpoint
from pet_calc.config import RunOptions, find_changes, read_options
from pet_calc.config.yaml_file import read_yaml
from pet_calc.errors import ConfigError, DataError
from pet_calc.train.provenance import hash_files
from pet_calc.train.start.model import Prepared

logger = logging.getLogger(__name__)

OPTIONS_NAME = "options_resolved.yaml"
# what defines the model: nothing of it can change on the way
_FIXED = (
    "base_precision.",
    "architecture.model.",
    "architecture.atomic_types.",
    "architecture.training.composition.",
    "architecture.training.scale_targets.",
    "architecture.training.optimizer.",
    "architecture.training.finetune.",
)
# what a run did before there was an option, which its file does not name
_BEFORE = {"energy_warmup": 0.0}
# of the base its weights count, and not its path
_FREE = ("output", "architecture.training.finetune.read_from")


def check_resumed(
    last: Path, options: RunOptions, prepared: Prepared, *, accepts_new_data: bool
) -> bool:
    """Raise unless a run can go on with these options and data.

    What changes the path of a run but not its model, such as its length or rate, is
    warned of.

    Args:
        last: checkpoint of the run that goes on.
        options: of now.
        prepared: the model as it starts with the options of now.
        accepts_new_data: whether the data may be other than they were.

    Returns:
        Whether the data are other than they were.

    Raises:
        ConfigError: for options that would make another model, naming them.
        DataError: for data that have changed, naming the files.
    """
    provenance = load_checkpoint(last).metadata.get("provenance", {})
    path = last.with_name(OPTIONS_NAME)
    if path.exists():
        _compare_options(_read_earlier(path), options, last.parent)
    fingerprint = provenance.get("base_fingerprint", prepared.base_fingerprint)
    if fingerprint != prepared.base_fingerprint:
        raise ConfigError(
            f"--base: expected the model that the run in {last.parent} began with, "
            f"{provenance.get('base')} of fingerprint {fingerprint[:16]}, got "
            f"{options.finetune.base} of fingerprint {prepared.base_fingerprint[:16]}; "
            "name that one, or choose another folder with -o"
        )
    before, now = provenance.get("files", {}), hash_files(options)
    changed = sorted(
        name for name in before.keys() | now.keys() if before.get(name) != now.get(name)
    )
    if changed and not accepts_new_data:
        raise DataError(
            f"{', '.join(changed)}: not the data that the run in {last.parent} began "
            "with; --resume-with-new-data goes on with them, -o names another folder"
        )
    if changed:
        logger.warning("goes on with other data: %s", ", ".join(changed))
    return bool(changed)


def check_state(
    state: Mapping[str, Any],
    folder: Path,
    *,
    algorithm: str,
    n_epochs: int,
    is_compiled: bool,
) -> None:
    """Raise for another optimiser than a run began with, warn of the rest.

    Args:
        state: of the training, as it was saved.
        folder: of the run.
        algorithm: the optimiser of now.
        n_epochs: how long the run is to be now.
        is_compiled: whether the compiled engine computes the steps of now.
    """
    began_with = state.get("algorithm", "adam")
    if began_with != algorithm:
        raise ConfigError(
            f"optimizer: expected {began_with}, with which the run in {folder} began, "
            f"got {algorithm}"
        )
    was_compiled = state.get("is_compiled", False)
    if was_compiled != is_compiled:
        logger.warning(
            "the run began with steps by %s: from here on its numbers may differ "
            "in the last digits from those of an uninterrupted one",
            "the compiled engine" if was_compiled else "PyTorch",
        )
    if state["n_epochs"] != n_epochs:
        logger.warning(
            "the run was planned for %d epochs and goes on to %d: the learning "
            "rate now follows the new length",
            state["n_epochs"],
            n_epochs,
        )


def _read_earlier(path: Path) -> RunOptions:
    """Return the options that a run began with, also one of an older version."""
    training = read_yaml(path).get("architecture", {}).get("training", {})
    changes = [
        f"training.{name}={value}"
        for name, value in _BEFORE.items()
        if name not in training
    ]
    return read_options(path, changes)


def _compare_options(before: RunOptions, now: RunOptions, folder: Path) -> None:
    """Raise for what defines the model, warn of the rest."""
    # layers that nobody names now are those that the run began with
    changes = [c for c in find_changes(before, now) if c[2] != ("auto",)]
    names = list(before.targets), list(now.targets)
    fixed = [("targets", *names)] if names[0] != names[1] else []
    fixed += [change for change in changes if _is_fixed(change[0])]
    if fixed:
        wrong = [
            f"{name}: expected {old}, with which the run in {folder} began, got {new}"
            for name, old, new in fixed
        ]
        raise ConfigError(
            f"{'; '.join(wrong)}; leave it as it was, as in {folder / OPTIONS_NAME}, "
            "or choose another folder with -o"
        )
    # what is not said now is chosen as it was then
    free = [
        name
        for name, _, new in changes
        if name not in _FREE and new is not None and new != {}
    ]
    if free:
        logger.warning(
            "resumed with other options than it began with (%s): the result will not "
            "be that of one uninterrupted run",
            ", ".join(free),
        )


def _is_fixed(name: str) -> bool:
    return name not in _FREE and f"{name}.".startswith(_FIXED)
