"""The verb ``convert``: between checkpoints of pet-calc and metatrain."""

from typing import TYPE_CHECKING

import click

from pet_calc.cli.paths import ModelFile, PathCommand, output_option, overwrite_option

if TYPE_CHECKING:
    from pet_calc.checkpoint import Checkpoint

PASTE = (
    "metatrain trains this checkpoint only with the same unit and description; add to "
    "training_set, and to validation_set and test_set where they name files:"
)


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
    if form == "metatrain" and any(t.description for t in record.targets.values()):
        click.echo(f"options   {PASTE}\n{_write_targets(record)}", nl=False)


def _write_targets(record: "Checkpoint") -> str:
    """Return what metatrain compares with an options file, as lines of one.

    A training that goes on with a target refuses a description that is not the
    checkpoint's, word by word.
    """
    import yaml

    targets = {
        name: {"unit": spec.unit, "description": spec.description}
        for name, spec in record.targets.items()
    }
    text: str = yaml.safe_dump(
        {"targets": targets}, sort_keys=False, allow_unicode=True, width=1000
    )
    return text
