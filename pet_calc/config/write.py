"""Writing options so that a run can be repeated, as ``read_options`` reads them."""

from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from pet_calc.config.data_options import DatasetOptions, TargetOptions
from pet_calc.config.options import (
    BaselineOptions,
    FinetuneOptions,
    LossOptions,
    RunOptions,
)
from pet_calc.config.yaml_file import dump_yaml
from pet_calc.system.atomic import write_text_atomically


def write_options(options: RunOptions, path: str | Path) -> None:
    """Write the options with all defaults filled in, as YAML."""
    write_text_atomically(path, dump_yaml(options_to_dict(options)))


def options_to_dict(options: RunOptions) -> dict[str, Any]:
    """Return the options in the shape of an options file.

    Only text, numbers, true/false, None, lists and dicts; ``parse_options`` makes an
    equal object of it.
    """
    train = options.train
    special = ("loss", "atomic_baseline", "replay")
    training = {
        f.name: getattr(train, f.name) for f in fields(train) if f.name not in special
    }
    training["loss"] = {name: _loss(loss) for name, loss in train.loss.items()}
    training["atomic_baseline"] = _baseline(train.atomic_baseline)
    training["replay"] = asdict(train.replay)
    training["finetune"] = _finetune(options.finetune)
    architecture: dict[str, Any] = {"name": "pet"}
    if options.atomic_types is not None:
        architecture["atomic_types"] = list(options.atomic_types)
    if options.hypers is not None:
        architecture["model"] = options.hypers.to_dict()
    return {
        "architecture": {**architecture, "training": training},
        "device": options.device,
        "base_precision": options.base_precision,
        "seed": options.seed,
        "output": options.output,
        "data_store": options.data_store,
        "final_eval": options.final_eval,
        "training_set": _datasets(options.training_set),
        "validation_set": _datasets(options.validation_set),
        "test_set": _datasets(options.test_set),
        "retain_set": _datasets(options.retain_set) or None,
        "replay_set": _datasets(options.replay_set) or None,
    }


def _datasets(value: float | tuple[DatasetOptions, ...]) -> float | list[Any]:
    if isinstance(value, float):
        return value
    return [_dataset(dataset) for dataset in value]


def _dataset(dataset: DatasetOptions) -> dict[str, Any]:
    values: dict[str, Any] = {
        "systems": {
            "read_from": list(dataset.read_from),
            "length_unit": dataset.length_unit,
            "index": dataset.index,
        },
        "targets": {target.name: _target(target) for target in dataset.targets},
        "weight": dataset.weight,
        "use_isolated_atoms": dataset.use_isolated_atoms,
    }
    if dataset.indices is not None:
        is_path = isinstance(dataset.indices, str)
        values["indices"] = dataset.indices if is_path else list(dataset.indices)
    keys = {
        "charge": dataset.charge_key,
        "spin_multiplicity": dataset.spin_multiplicity_key,
    }
    extra_data = {name: {"key": key} for name, key in keys.items() if key is not None}
    if extra_data:
        values["extra_data"] = extra_data
    return values


def _target(target: TargetOptions) -> dict[str, Any]:
    values = asdict(target)
    del values["name"]
    return values


def _loss(loss: LossOptions) -> dict[str, Any]:
    return {
        **asdict(loss.value),
        "forces": asdict(loss.forces),
        "stress": asdict(loss.stress),
    }


def _baseline(baseline: BaselineOptions) -> str | dict[str, Any]:
    if not baseline.tables:
        return baseline.mode
    return {"mode": baseline.mode, **asdict(baseline)["tables"]}


def _finetune(finetune: FinetuneOptions) -> dict[str, Any]:
    config: dict[str, Any] = {}
    if finetune.method == "lora":
        config = {
            "rank": finetune.lora.rank,
            "alpha": finetune.lora.alpha,
            "target_modules": list(finetune.lora.targets),
        }
    elif finetune.method == "heads":
        config = {"head_modules": list(finetune.head_modules)}
    return {
        "method": finetune.method,
        "read_from": finetune.base,
        "config": config,
        "inherit_heads": dict(finetune.inherit_heads),
        "head_mode": finetune.head_mode,
        "keep_head": finetune.keep_head,
        "direct_heads": finetune.direct_heads,
        "new_elements": finetune.new_elements,
    }
