"""The verb ``export``: files for LAMMPS and other simulation programs."""

from pathlib import Path
from typing import TYPE_CHECKING

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

if TYPE_CHECKING:
    from pet_calc.checkpoint import Checkpoint


@click.command("export", cls=PathCommand)
@click.argument("checkpoint", type=ModelFile())
@click.option(
    "-o",
    "--output",
    type=OutputFile("export"),
    help="File to write.  [CHECKPOINT's name .pt]  Of pet-kokkos' two files the name "
    "without ending.",
)
@overwrite_option
@adapter_option()
@dtype_option()
@click.option(
    "--to",
    "form",
    type=click.Choice(["metatomic", "pet-kokkos"]),
    default="metatomic",
    show_default=True,
    help="Programs that are to read it.",
)
@click.option("--target", help="The energy to write for pet-kokkos, if several.")
@click.option("--no-check", is_flag=True, help="Do not load and compare the file.")
def command(
    checkpoint: str,
    output: str | None,
    adapter: str | None,
    dtype: str | None,
    form: str,
    target: str | None,
    no_check: bool,
) -> None:
    """Export CHECKPOINT, LoRA merged, as a metatomic model.

    The file runs in every program that speaks metatomic: LAMMPS, ASE, i-PI, GROMACS,
    torch-sim. Before it is kept it is loaded again and compared with the model. A
    model with an uncertainty gives energy_uncertainty and energy_ensemble as well.

    With --to pet-kokkos it writes NAME.json and NAME.safetensors for pet-kokkos, a PET
    for GPUs, which is asked to compare them if it is installed.

    \b
    Examples:
      pet-calc export best_model.ckpt -o water.pt
      pet-calc export base.ckpt --adapter adapter.safetensors --dtype float64
      pet-calc export best_model.ckpt --to pet-kokkos -o water
    """
    import torch

    from pet_calc.checkpoint.open import load_merged_checkpoint
    from pet_calc.errors import ConfigError

    if form == "pet-kokkos" and dtype == "float64":
        raise ConfigError("pet-kokkos computes in float32; leave --dtype out")
    if form == "metatomic" and target is not None:
        raise ConfigError(
            "a metatomic file holds all targets; --target goes with --to pet-kokkos"
        )
    if form == "pet-kokkos":
        stem = _choose_stem(checkpoint, adapter, output)
    else:
        path = output or _choose_name(checkpoint)
    merged = load_merged_checkpoint(
        checkpoint, adapter=adapter, dtype=getattr(torch, dtype) if dtype else None
    )
    if form == "pet-kokkos":
        _write_for_kokkos(merged, stem, target, check=not no_check)
    else:
        _write_for_metatomic(merged, path, check=not no_check)


def _write_for_metatomic(merged: "Checkpoint", path: str, *, check: bool) -> None:
    from pet_calc.checkpoint.uncertainty import build_uncertainties
    from pet_calc.export import export_model

    export_model(
        merged.build_model(),
        path,
        metadata=merged.metadata,
        length_unit=merged.length_unit,
        uncertainties=build_uncertainties(merged),
        check=check,
    )
    click.echo(f"written   {path}")


def _write_for_kokkos(
    merged: "Checkpoint", stem: str, target: str | None, *, check: bool
) -> None:
    from pet_calc.checkpoint.uncertainty import build_uncertainties
    from pet_calc.export import export_to_kokkos

    if build_uncertainties(merged):
        click.echo("left out  uncertainty, which pet-kokkos does not know", err=True)
    files = export_to_kokkos(
        merged.build_model(),
        stem,
        target=target,
        source=Path(merged.source or "").name,
        length_unit=merged.length_unit,
        check=check,
    )
    click.echo(f"written   {files[0]} and {files[1]}")


def _choose_stem(checkpoint: str, adapter: str | None, output: str | None) -> str:
    """Return the name of pet-kokkos' files; the rule of outputs holds for both."""
    from pet_calc.errors import ConfigError
    from pet_calc.export.kokkos import ENDINGS, strip_ending

    stem = str(strip_ending(output or _strip_endings(Path(checkpoint).name)))
    files = [stem + ending for ending in ENDINGS]
    check_outputs(
        [Output(file, "export") for file in files],
        [name for name in (checkpoint, adapter) if name],
        may_overwrite=is_overwrite_given(),
    )
    for file in files:
        if why := find_obstacle(Path(file)):
            raise ConfigError(f"{why}, with -o")
    return stem


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
