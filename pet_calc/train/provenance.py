"""Where a model comes from: what was done with which base, data and versions."""

from typing import Any

import ase
import torch

import pet_calc
from pet_calc.config import RunOptions, options_to_dict
from pet_calc.data.files import expand_paths
from pet_calc.system.hashing import hash_file
from pet_calc.train.datasets import RunFrames
from pet_calc.train.domain.frames import BaseDomain
from pet_calc.train.start.model import Prepared


def describe_run(
    options: RunOptions,
    prepared: Prepared,
    frames: RunFrames,
    domain: BaseDomain,
) -> dict[str, Any]:
    """Return the metadata of the model files: what was done with what."""
    target = options.energy_targets[options.main_energy]
    metadata: dict[str, Any] = {}
    if prepared.base is not None:
        inherited = ("name", "authors", "references", "description")
        metadata = {
            key: value
            for key, value in prepared.base.metadata.items()
            if key in inherited
        }
    metadata["provenance"] = {
        "pet_calc": pet_calc.__version__,
        "torch": torch.__version__,
        "ase": ase.__version__,
        "method": options.finetune.method,
        "base": options.finetune.base or "",
        "base_fingerprint": prepared.base_fingerprint,
        "target": target.name,
        "level_of_theory": target.description,
        "new_elements": prepared.new_elements,
        "n_frames": {
            **frames.n_frames,
            "retained": len(domain.retained),
            "replayed": len(domain.replayed),
        },
        "files": hash_files(options),
        "options": options_to_dict(options),
    }
    return metadata


def hash_files(options: RunOptions) -> dict[str, str]:
    """Return the SHA-256 of each data file, by its name with the frames chosen."""
    datasets = [*options.training_set, *options.retain_set, *options.replay_set]
    for part in (options.validation_set, options.test_set):
        if not isinstance(part, float):
            datasets.extend(part)
    hashes: dict[str, str] = {}
    known: dict[str, str] = {}
    for dataset in datasets:
        for file, index in expand_paths(list(dataset.read_from), dataset.index):
            name = file if index == ":" else f"{file}@{index}"
            if file not in known:
                known[file] = hash_file(file)
            hashes[name] = known[file]
    return hashes
