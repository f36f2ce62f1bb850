"""The verb ``finetune``: a base model and data make a model for that data."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from pet_calc.cli.finetune_flags import build_options, spell, training_flags
from pet_calc.cli.options import (
    device_option,
    dtype_option,
    label_options,
    session_options,
)
from pet_calc.cli.paths import DataFiles, OutputFolder
from pet_calc.cli.run_output import settle_output

if TYPE_CHECKING:
    from pet_calc.config import RunOptions

DEFAULT_OUTPUT = "finetuned"

_SESSION = ("resume", "overwrite", "stop_after", "quiet")


@click.command("finetune")
@click.argument("data", nargs=-1, required=True, type=DataFiles())
@click.option(
    "--base",
    "-c",
    help="Checkpoint to start from (pet-calc or metatrain), or a name as in "
    "`pet-calc models`.",
)
@click.option(
    "-o",
    "--output",
    type=OutputFolder(),
    help=f"Folder for the results.  [{DEFAULT_OUTPUT}]",
)
@training_flags
@device_option()
@dtype_option("float32")
@label_options
@session_options
def command(
    data: tuple[str, ...], base: str | None, output: str | None, **flags: Any
) -> None:
    """Fine-tune the model --base on DATA, files that ASE reads, or an options file.

    \b
    Examples:
      pet-calc finetune train.xyz --base pet-mad-s -o water/
      pet-calc finetune train.xyz --val val.xyz --base b.ckpt --rank 16 --epochs 100
      pet-calc finetune options.yaml --base pet-mad-s-v1.5.0 -o water/
    """
    from pet_calc.system.ranks import is_main_process
    from pet_calc.train.run import run_training

    session = {name: flags.pop(name) for name in _SESSION}
    context = click.get_current_context()
    given = [
        name
        for name in flags
        if context.get_parameter_source(name) is ParameterSource.COMMANDLINE
    ]
    options_file = None
    if len(data) == 1 and Path(data[0]).suffix in (".yaml", ".yml"):
        options_file = data[0]
        options = _read_options(options_file, base, output, given)
    else:
        options = build_options(data, base, output or DEFAULT_OUTPUT, flags, given)
    options = settle_output(
        options, options_file=options_file, is_resumed=session["resume"]
    )
    report = run_training(
        options,
        is_resumed=session["resume"],
        may_overwrite=session["overwrite"],
        stop_after=session["stop_after"],
        show_progress=not session["quiet"],
    )
    if is_main_process():
        click.echo(report.to_text())
        click.echo(f"model      {report.best_model}")


def _read_options(
    path: str, base: str | None, output: str | None, given: list[str]
) -> "RunOptions":
    from pet_calc.config import read_options
    from pet_calc.errors import ConfigError

    if given:
        raise ConfigError(
            f"{spell(given[0])}: write this into {path}; with an options file only "
            "--base, --output and the options of the session are taken from here"
        )
    options = read_options(path)
    if base is not None:
        options = options.with_base(base)
    if output is None:
        # "." is what an options file says that does not say where
        output = DEFAULT_OUTPUT if options.output == "." else options.output
    return replace(options, output=output)
