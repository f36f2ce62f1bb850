"""Where ``finetune`` and ``train`` write: tried, and held against what they read."""

from pathlib import Path
from typing import TYPE_CHECKING

from pet_calc.cli.paths import Output, check_outputs, find_folder_obstacle
from pet_calc.system.paths import expand_path

if TYPE_CHECKING:
    from pet_calc.config import RunOptions

_NAMES = (
    "last_model.ckpt",
    "adapter.safetensors",
    "log.csv",
    "log.jsonl",
    "run.log",
    "report.json",
    "report.html",
)
_OPTIONS_NAME = "options_resolved.yaml"


def settle_output(
    options: "RunOptions",
    *,
    options_file: str | None = None,
    run_name: str = "",
    is_resumed: bool = False,
) -> "RunOptions":
    """Return the options with the folder's path filled in.

    Args:
        options: of the run.
        options_file: that they were read from.
        run_name: goes into the name of the best model.
        is_resumed: a resumed run may be described by the options that it has left.

    Raises:
        ConfigError: if nothing can be written there, or an input would be overwritten.
    """
    from pet_calc.config import replace
    from pet_calc.errors import ConfigError
    from pet_calc.train.folder import name_best

    folder = Path(expand_path(options.output))
    if why := find_folder_obstacle(folder):
        raise ConfigError(f"{why} (-o, or output in an options file)")
    best = name_best(folder, run_name, is_resumed=is_resumed)
    outputs = [Output(str(folder / name)) for name in (best, *_NAMES)]
    read = _list_inputs(options)
    check_outputs(outputs, read, may_overwrite=True)
    if options_file is not None and not is_resumed:
        outputs.append(Output(str(folder / _OPTIONS_NAME)))
        check_outputs(outputs, [options_file], may_overwrite=True)
    return replace(options, output=str(folder))


def _list_inputs(options: "RunOptions") -> list[str]:
    """Return every file, or glob, that the options name as read."""
    sets = [
        options.training_set,
        options.validation_set,
        options.test_set,
        options.retain_set,
        options.replay_set,
    ]
    files = [
        file
        for part in sets
        if not isinstance(part, float)
        for dataset in part
        for file in dataset.read_from
    ]
    base = options.finetune.base
    return [*files, *([expand_path(base)] if base else [])]
