"""The verb ``convert``: between checkpoints of pet-calc and metatrain."""

import click

from pet_calc.cli.paths import ModelFile, PathCommand, output_option, overwrite_option


@click.command("convert", cls=PathCommand)
@click.argument("checkpoint", type=ModelFile())
@output_option("checkpoint")
@overwrite_option
@click.option(
    "--to",
    "form",
    type=click.Choice(["pet-calc", "metatrain"]),
    default="pet-calc",
    show_default=True,
    help="Format to write.",
)
@click.option(
    "--last",
    is_flag=True,
    help="Of a metatrain checkpoint, take the last weights and not the best.",
)
def command(checkpoint: str, output: str, form: str, last: bool) -> None:
    """Write CHECKPOINT in the other program's format, with the same weights.

    \b
    Examples:
      pet-calc convert pet-mad-s.ckpt -o pet-mad-s.pet-calc.ckpt
      pet-calc convert best_model.ckpt --to metatrain -o for-metatrain.ckpt
    """
    from pet_calc.checkpoint import (
        load_checkpoint,
        save_checkpoint,
        save_metatrain_checkpoint,
    )

    record = load_checkpoint(checkpoint, which="last" if last else "best")
    if form == "metatrain":
        save_metatrain_checkpoint(output, record)
    else:
        save_checkpoint(output, record)
    click.echo(f"written   {output} ({form})")
