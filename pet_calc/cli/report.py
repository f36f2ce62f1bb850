"""The verb ``report``: the page of a run, made anew from what the run has left."""

from typing import Any

import click
import cloup

from pet_calc.cli.options import (
    FORMATTER,
    device_option,
    label_options,
    show_progress,
)
from pet_calc.cli.paths import DataFiles, RunDirectory
from pet_calc.cli.run_report import print_next_steps


@cloup.command("report", formatter_settings=FORMATTER)
@click.argument("run_dir", type=RunDirectory())
@click.option(
    "--data",
    multiple=True,
    metavar="FILE",
    type=DataFiles(),
    help="Further frames to judge the result, and its base, by.",
)
@device_option()
@label_options
@click.option("--quiet", is_flag=True, help="No progress bar.")
def command(
    run_dir: str, data: tuple[str, ...], device: str, quiet: bool, **labels: Any
) -> None:
    """Write RUN_DIR/report.html, the page of a run that train or finetune has left.

    It is written at the end of each run; this makes it again, also of a run that was
    killed or still goes on. It is one file that needs no network: verdict, learning
    curves, predictions over labels, errors by element and kind of frame, the worst
    frames, data, versions. With `pip install 'pet-calc[view]'` it has a viewer of
    structures, too.

    Errors on --data become a set of their own, on the page and in report.json as
    "further". Their labels lie where those of the training set do, unless an option
    says otherwise.

    \b
    Examples:
      pet-calc report water/
      pet-calc report water/ --data ice.xyz
    """
    from pet_calc.cli.from_fields import given_flags
    from pet_calc.config.quick import build_dataset
    from pet_calc.evaluate.metrics import format_errors
    from pet_calc.page import write_page
    from pet_calc.page.read import read_run

    given = given_flags(labels)
    if given and not data:
        raise click.UsageError(f"{', '.join(sorted(given))}: say where --data is")
    if data:
        from pet_calc.page.further import add_further

        found = add_further(
            run_dir,
            data,
            build_dataset(data, labels) if given else None,
            device=device,
            progress=show_progress(quiet),
        )
        if found["before"]:
            click.echo(f"before     {format_errors(found['before'])}")
        click.echo(f"further    {format_errors(found['after'])}")
        if found["why_no_base"]:
            click.echo(f"note       without the base: {found['why_no_base']}")
    page = write_page(run_dir)
    print_next_steps(page, read_run(run_dir))
