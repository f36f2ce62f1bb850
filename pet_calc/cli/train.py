"""The verb ``train``: everything from an options file."""

from pathlib import Path

import click

from pet_calc.cli.options import session_options, set_option, store_option
from pet_calc.cli.paths import InputFile, ModelFile, OutputFolder
from pet_calc.cli.run_output import settle_output
from pet_calc.cli.run_report import finish_run


@click.command("train")
@click.argument("options_file", type=InputFile())
@click.option(
    "-c",
    "--base",
    type=ModelFile(),
    help="Checkpoint or name of the model to fine-tune; all weights, or LoRA if the "
    "options say so.",
)
@click.option("-o", "--output", type=OutputFolder(), help="Folder for the results.")
@store_option
@set_option
@session_options
def command(
    options_file: str,
    base: str | None,
    output: str | None,
    store: str | None,
    changes: tuple[str, ...],
    resume: bool,
    resume_with_new_data: bool,
    overwrite: bool,
    stop_after: int | None,
    quiet: bool,
) -> None:
    """Train a base model as OPTIONS_FILE (YAML) says, or fine-tune with -c.

    Leaves best_model_NAME.ckpt, where NAME is the options file's.

    \b
    Examples:
      pet-calc train options.yaml
      pet-calc train options.yaml -c best_model_options.ckpt
    """
    from pet_calc.config import read_options, replace
    from pet_calc.train.run import run_training

    options = read_options(options_file, changes)
    if base is not None:
        options = options.with_base(base)
    if output is not None:
        options = replace(options, output=output)
    if store is not None:
        options = replace(options, data_store=store)
    run_name = Path(options_file).stem
    options = settle_output(
        options,
        options_file=options_file,
        run_name=run_name,
        is_resumed=resume or resume_with_new_data,
    )
    report = run_training(
        options,
        is_resumed=resume or resume_with_new_data,
        accepts_new_data=resume_with_new_data,
        may_overwrite=overwrite,
        stop_after=stop_after,
        show_progress=not quiet,
        run_name=run_name,
    )
    finish_run(report)
