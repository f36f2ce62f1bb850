"""The verb ``options``: writes a commented options file."""

import click

from pet_calc.cli.paths import OutputFile


@click.command("options")
@click.option(
    "-o",
    "--output",
    type=OutputFile("options"),
    help="File to write; without it the text is printed.",
)
@click.option("--overwrite", is_flag=True, help="Replace the file if it exists.")
def command(output: str | None, overwrite: bool) -> None:
    """Write an options file in which every option is explained.

    Example: pet-calc options -o options.yaml
    """
    from pet_calc.config import render_template, write_template

    if output is None:
        click.echo(render_template(), nl=False)
        return
    write_template(output, overwrite=overwrite)
    click.echo(f"wrote {output}; name your data and base in it, then run")
    click.echo(f"    pet-calc finetune {output}")
