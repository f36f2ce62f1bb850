"""The verb ``options``: writes a commented options file."""

from pathlib import Path

import click


@click.command("options")
@click.option(
    "-o",
    "--output",
    type=click.Path(dir_okay=False, path_type=Path),
    help="File to write; without it the text is printed.",
)
@click.option("--overwrite", is_flag=True, help="Replace the file if it exists.")
def command(output: Path | None, overwrite: bool) -> None:
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
