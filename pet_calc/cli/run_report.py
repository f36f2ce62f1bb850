"""How a training ends on the command line."""

import sys
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from pet_calc.train.report import RunReport


def finish_run(report: "RunReport") -> None:
    """Print the summary; end with the status of the signal that interrupted the run.

    A shell's ``finetune ... && export ...`` must not go on with half a model.
    """
    from pet_calc.system.ranks import is_main_process

    if is_main_process():
        click.echo(report.to_text())
        click.echo(f"model      {report.best_model}")
    if report.end == "interrupted":
        sys.exit(128 + report.signal)
