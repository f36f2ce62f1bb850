"""The verb ``export``: a TorchScript file for LAMMPS and other simulation programs."""

from pathlib import Path

import click

from pet_calc.cli.options import adapter_option, dtype_option
from pet_calc.cli.paths import (
    ModelFile,
    Output,
    OutputFile,
    PathCommand,
    check_outputs,
    find_obstacle,
    is_overwrite_given,
    overwrite_option,
)


@click.command("export", cls=PathCommand)
@click.argument("checkpoint", type=ModelFile())
@click.option(
    "-o",
    "--output",
    type=OutputFile("export"),
    help="File to write.  [CHECKPOINT's name .pt]",
)
@overwrite_option
@adapter_option()
@dtype_option()
@click.option("--no-check", is_flag=True, help="Do not load and compare the file.")
def command(
    checkpoint: str,
    output: str | None,
    adapter: str | None,
    dtype: str | None,
    no_check: bool,
) -> None:
    """Export CHECKPOINT, LoRA merged, as a metatomic model.

    The file runs in every program that speaks metatomic: LAMMPS, ASE, i-PI, GROMACS,
    torch-sim. Before it is kept it is loaded again and compared with the model. A
    model with an uncertainty gives energy_uncertainty and energy_ensemble as well.

    \b
    Examples:
      pet-calc export best_model.ckpt -o water.pt
      pet-calc export base.ckpt --adapter adapter.safetensors --dtype float64
    """
    import torch

    from pet_calc.checkpoint.open import load_merged_checkpoint
    from pet_calc.checkpoint.uncertainty import build_uncertainties
    from pet_calc.export import export_model

    path = output or _choose_name(checkpoint)
    merged = load_merged_checkpoint(
        checkpoint, adapter=adapter, dtype=getattr(torch, dtype) if dtype else None
    )
    export_model(
        merged.build_model(),
        path,
        metadata=merged.metadata,
        length_unit=merged.length_unit,
        uncertainties=build_uncertainties(merged),
        check=not no_check,
    )
    click.echo(f"written   {path}")


def _choose_name(checkpoint: str) -> str:
    """Return where to write if the user does not say; the rule of outputs holds."""
    from pet_calc.errors import ConfigError

    path = f"{_strip_endings(Path(checkpoint).name)}.pt"
    check_outputs(
        [Output(path, "export")], [checkpoint], may_overwrite=is_overwrite_given()
    )
    if why := find_obstacle(Path(path)):
        raise ConfigError(f"{why}, with -o")
    return path


def _strip_endings(name: str) -> str:
    for ending in (".gz", ".ckpt", ".pt"):
        name = name.removesuffix(ending)
    return name
