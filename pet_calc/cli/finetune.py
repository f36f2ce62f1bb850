"""The verb ``finetune``: a base model and data make a model for that data."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import cloup

from pet_calc.cli.from_fields import build_group, given_flags
from pet_calc.cli.options import FORMATTER, session_options, set_option
from pet_calc.cli.paths import DataFiles, OutputFolder
from pet_calc.cli.run_output import settle_output
from pet_calc.cli.run_report import finish_run
from pet_calc.config.flags import GROUPS
from pet_calc.config.quick import DATA_PLACES, RUN_PLACES, find_place

if TYPE_CHECKING:
    from pet_calc.config import RunOptions

DEFAULT_OUTPUT = "finetuned"

_SESSION = ("resume", "resume_with_new_data", "overwrite", "stop_after", "quiet")
# they mean nothing to the other methods
_LORA_ONLY = ("rank", "alpha", "lora_targets", "head_mode")

_base = cloup.option(
    "--base",
    "-c",
    help="Checkpoint to start from, or a name as in `pet-calc models`.",
)
_output = cloup.option(
    "-o",
    "--output",
    type=OutputFolder(),
    metavar="DIR",
    help=f"Folder for the results.  [{DEFAULT_OUTPUT}]",
)


def _add_flags(command: Any) -> Any:
    """Add the options that are made from the fields, under their headings."""
    places = (*RUN_PLACES, *DATA_PLACES)
    # decorators apply from the last to the first
    for title in reversed(GROUPS):
        own = (_base, _output) if title == GROUPS[0] else ()
        found = [place for place in places if place.flag.group == title]
        command = build_group(title, found, *own)(command)
    return command


@cloup.command("finetune", formatter_settings=FORMATTER)
@cloup.argument("data", nargs=-1, required=True, type=DataFiles())
@_add_flags
@set_option
@session_options
def command(
    data: tuple[str, ...],
    base: str | None,
    output: str | None,
    changes: tuple[str, ...],
    **flags: Any,
) -> None:
    """Fine-tune the model --base on DATA, files that ASE reads, or an options file.

    \b
    Examples:
      pet-calc finetune train.xyz --base pet-mad-s -o water/
      pet-calc finetune train.xyz --val val.xyz --base b.ckpt --rank 16 --epochs 100
      pet-calc finetune options.yaml --base pet-mad-s-v1.5.0 -o water/
    """
    from pet_calc.config.quick import build_finetune_options
    from pet_calc.train.run import run_training

    session = {name: flags.pop(name) for name in _SESSION}
    given = given_flags(flags)
    options_file = None
    if len(data) == 1 and Path(data[0]).suffix in (".yaml", ".yml"):
        options_file = data[0]
        options = _read_options(options_file, base, output, given, changes)
    else:
        checked = _check_flags(base, flags, given)
        options = build_finetune_options(
            data, checked, output or DEFAULT_OUTPUT, flags, changes
        )
    is_resumed = session["resume"] or session["resume_with_new_data"]
    options = settle_output(options, options_file=options_file, is_resumed=is_resumed)
    report = run_training(
        options,
        is_resumed=is_resumed,
        accepts_new_data=session["resume_with_new_data"],
        may_overwrite=session["overwrite"],
        stop_after=session["stop_after"],
        show_progress=not session["quiet"],
    )
    finish_run(report)


def _check_flags(base: str | None, flags: dict[str, Any], given: list[str]) -> str:
    """Return the base; raise without one, and for flags that mean nothing here."""
    from pet_calc.errors import ConfigError

    if base is None:
        raise ConfigError("--base: name the checkpoint to start from")
    method = flags["method"] or "lora"
    for name in _LORA_ONLY:
        if name in given and method != "lora":
            raise ConfigError(
                f"{find_place(name).name}: has no effect with --method {method}; leave "
                "it out, or use --method lora"
            )
    return base


def _read_options(
    path: str,
    base: str | None,
    output: str | None,
    given: list[str],
    changes: tuple[str, ...],
) -> "RunOptions":
    from pet_calc.config import read_options, replace
    from pet_calc.errors import ConfigError

    if given:
        raise ConfigError(
            f"{find_place(given[0]).name}: write this into {path}; with an options "
            "file only --base, --output, --set and the options of the session are "
            "taken from here"
        )
    options = read_options(path, changes)
    if base is not None:
        options = options.with_base(base)
    if output is None:
        # "." is what an options file says that does not say where
        output = DEFAULT_OUTPUT if options.output == "." else options.output
    return replace(options, output=output)
