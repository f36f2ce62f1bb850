"""The verb ``plot``: the figures of a run for papers, and the numbers behind them."""

import click

from pet_calc.cli.paths import InputFile, OutputFolder, RunDirectory


@click.command("plot")
@click.argument("run_dir", type=RunDirectory())
@click.option(
    "-o",
    "--output",
    required=True,
    type=OutputFolder(),
    metavar="DIR",
    help="Folder for the figures; made if it is not there.",
)
@click.option(
    "--format",
    "formats",
    multiple=True,
    type=click.Choice(["pdf", "svg", "png"]),
    default=("pdf", "svg", "png"),
    show_default=True,
    help="Kind of file; may be given several times.",
)
@click.option(
    "--style",
    type=InputFile(),
    help="Style file of matplotlib (.mplstyle), on top of pet-calc's.",
)
def command(
    run_dir: str, output: str, formats: tuple[str, ...], style: str | None
) -> None:
    """Draw every plot of RUN_DIR's page as files, each with its numbers as CSV.

    \b
    Examples:
      pet-calc plot water/ -o figs/
      pet-calc plot water/ -o figs/ --format pdf --style journal.mplstyle
    """
    from pet_calc.page.papers import draw_figures

    for path in draw_figures(run_dir, output, formats, style=style):
        click.echo(path)
