"""The verb ``merge``: LoRA becomes part of the weights."""

import click

from pet_calc.cli.options import adapter_option
from pet_calc.cli.paths import ModelFile, PathCommand, output_option, overwrite_option


@click.command("merge", cls=PathCommand)
@click.argument("checkpoint", type=ModelFile())
@adapter_option()
@output_option("checkpoint")
@overwrite_option
def command(checkpoint: str, adapter: str | None, output: str) -> None:
    """Merge the LoRA of CHECKPOINT, or an adapter, into a plain checkpoint.

    \b
    Examples:
      pet-calc merge best_model.ckpt -o merged.ckpt
      pet-calc merge base.ckpt --adapter adapter.safetensors -o merged.ckpt
    """
    from pet_calc.checkpoint import load_checkpoint, save_checkpoint
    from pet_calc.checkpoint.open import load_merged_checkpoint
    from pet_calc.errors import LoRAError

    record = load_checkpoint(checkpoint)
    if record.lora is None and adapter is None:
        raise LoRAError(f"{checkpoint}: has no LoRA to merge; name one with --adapter")
    merged = load_merged_checkpoint(record, adapter=adapter)
    save_checkpoint(output, merged)
    if set(record.extras) - set(merged.extras):
        click.echo("left out  the uncertainty of the base: it does not fit the adapter")
    click.echo(f"written   {output}")
