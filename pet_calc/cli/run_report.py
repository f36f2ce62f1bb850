"""How a training ends on the command line."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from pet_calc.page.read import ReadRun
    from pet_calc.train.report import RunReport

EXIT_DIVERGED = 1


def finish_run(report: "RunReport") -> None:
    """Print the summary; end with a status that is not 0 if there is no result.

    A shell's ``finetune ... && export ...`` must not go on with half a model, or with
    the base. The status of an interrupted run is that of the signal.
    """
    from pet_calc.system.ranks import is_main_process

    if is_main_process():
        click.echo(report.to_text())
        click.echo(f"model      {report.best_model}")
        _write_page(Path(report.best_model).parent)
    if report.end == "interrupted":
        sys.exit(128 + report.signal)
    if report.end == "diverged":
        sys.exit(EXIT_DIVERGED)


def print_next_steps(page: Path, run: "ReadRun") -> None:
    """Print where the page is, and what can be done next with the run."""
    from pet_calc.page.verdict import headline, list_next_steps

    click.echo(f"page       {page}  ({headline(run)})")
    click.echo("next")
    for name, command in list_next_steps(run):
        click.echo(f"  {name:<23} {command}")


def _write_page(folder: Path) -> None:
    """Write the page of a run; whatever happens, the run itself has ended well."""
    from pet_calc.page import write_page
    from pet_calc.page.read import read_run

    try:
        page = write_page(folder)
    except Exception as error:
        click.echo(
            f"warning: the page of the run could not be written "
            f"({type(error).__name__}: {error}); models and report are there. Try "
            f"`pet-calc report {folder} --debug`",
            err=True,
        )
        return
    print_next_steps(page, read_run(folder))
