"""The verb ``info``: what a model file holds."""

import click

from pet_calc.cli.paths import ModelFile


@click.command("info")
@click.argument("file", type=ModelFile())
@click.option("--json", "is_json", is_flag=True, help="Print JSON, for programs.")
def command(file: str, is_json: bool) -> None:
    """Describe FILE: a checkpoint, an adapter, or an exported model.

    Elements, shape, cutoff, outputs with units and level of theory, LoRA, and where
    the model came from. Checkpoints are of pet-calc or metatrain; the kind is found
    by the content. Nothing in the file is evaluated.

    \b
    Examples:
      pet-calc info best_model.ckpt
      pet-calc info adapter.safetensors
      pet-calc info water.pt --json
    """
    import json

    from pet_calc.info.describe import describe_file
    from pet_calc.info.text import format_description

    values = describe_file(file)
    if is_json:
        click.echo(json.dumps(values, indent=2, ensure_ascii=False))
    else:
        click.echo(format_description(values))
