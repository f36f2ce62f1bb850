"""Compare a run that goes on with the one that is in the folder."""

import logging
from pathlib import Path
from typing import Any

from pet_calc.checkpoint import load_checkpoint
from pet_calc.config import RunOptions, read_options
from pet_calc.errors import ConfigError, DataError
from pet_calc.train.provenance import hash_files
from pet_calc.train.start.model import Prepared

logger = logging.getLogger(__name__)

OPTIONS_NAME = "options_resolved.yaml"
# what defines the model: nothing of it can change on the way
_FIXED = ("hypers", "atomic_types", "base_precision")
_FIXED_TRAIN = ("atomic_baseline", "scale_targets", "optimizer")
# of the base its weights count, and not its path
_FREE_FINETUNE = ("base",)


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
        _compare_options(read_options(path), options, last.parent)
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


def _compare_options(before: RunOptions, now: RunOptions, folder: Path) -> None:
    """Raise for what defines the model, warn of the rest."""
    fixed: dict[str, tuple[Any, Any]] = {
        "targets": (list(before.targets), list(now.targets))
    }
    fixed |= {n: (getattr(before, n), getattr(now, n)) for n in _FIXED}
    fixed |= {
        n: (getattr(before.train, n), getattr(now.train, n)) for n in _FIXED_TRAIN
    }
    free = _list_changes("train", before.train, now.train, _FIXED_TRAIN)
    for name, value in _spread(before.finetune):
        fixed[name] = (value, dict(_spread(now.finetune))[name])
    wrong = [
        f"{name}: expected {old}, with which the run in {folder} began, got {new}"
        for name, (old, new) in fixed.items()
        if old != new
    ]
    if wrong:
        raise ConfigError(
            f"{'; '.join(wrong)}; leave it as it was, or choose another folder with -o"
        )
    free += _list_changes("", before, now, (*_FIXED, "train", "finetune", "output"))
    if free:
        logger.warning(
            "resumed with other options than it began with (%s): the result will not "
            "be that of one uninterrupted run",
            ", ".join(free),
        )


def _spread(finetune: Any) -> list[tuple[str, Any]]:
    """Return the fields of the fine-tuning, those of LoRA under their own names."""
    values = [
        (name, value)
        for name, value in vars(finetune).items()
        if name not in (*_FREE_FINETUNE, "lora")
    ]
    return values + [(f"config.{n}", value) for n, value in vars(finetune.lora).items()]


def _list_changes(
    group: str, before: Any, now: Any, without: tuple[str, ...]
) -> list[str]:
    return [
        f"{group}.{name}".lstrip(".")
        for name, value in vars(before).items()
        # what is not said now is chosen as it was then
        if name not in without and getattr(now, name) not in (value, None, {})
    ]
