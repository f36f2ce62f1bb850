"""The verb ``compare``: runs side by side."""

import click
import cloup

from pet_calc.cli.paths import (
    OutputFile,
    PathCommand,
    RunDirectory,
    overwrite_option,
)


@cloup.command("compare", cls=PathCommand)
@cloup.argument("run_dirs", nargs=-1, required=True, type=RunDirectory())
@click.option(
    "-o", "--output", type=OutputFile("page"), help="Page to write; none without it."
)
@overwrite_option
def command(run_dirs: tuple[str, ...], output: str | None) -> None:
    """Put RUN_DIRS side by side: method, cost, and errors on the same frames.

    Errors on other frames than those of the first run are marked, and are in no plot.

    \b
    Examples:
      pet-calc compare lora/ full/
      pet-calc compare rank4/ rank8/ rank16/ -o ranks.html
    """
    from pet_calc.page.compare import (
        compare_runs,
        format_table,
        tabulate,
        write_comparison,
    )

    comparison = compare_runs(run_dirs)
    table = tabulate(comparison)
    click.echo(format_table(table))
    if table.note:
        click.echo(table.note)
    for note in comparison.notes:
        click.echo(f"warning: {note}", err=True)
    if output is not None:
        write_comparison(comparison, output)
        click.echo(f"page       {output}")
