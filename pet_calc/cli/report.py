"""The verb ``report``: the page of a run, made anew from what the run has left."""

import click

from pet_calc.cli.paths import RunDirectory
from pet_calc.cli.run_report import print_next_steps


@click.command("report")
@click.argument("run_dir", type=RunDirectory())
def command(run_dir: str) -> None:
    """Write RUN_DIR/report.html, the page of a run that train or finetune has left.

    It is written at the end of each run; this makes it again, also of a run that was
    killed or still goes on. It is one file that needs no network: verdict, learning
    curves, predictions over labels, errors by element and kind of frame, the worst
    frames, data, versions. With `pip install 'pet-calc[view]'` it has a viewer of
    structures, too.

    \b
    Example:
      pet-calc report water/
    """
    from pet_calc.page import write_page
    from pet_calc.page.read import read_run

    page = write_page(run_dir)
    print_next_steps(page, read_run(run_dir))
