"""The verb ``uncertainty``: a model learns how far it may be off."""

from typing import Any

import click
import cloup

from pet_calc.cli.options import (
    FORMATTER,
    adapter_option,
    device_option,
    label_options,
    show_progress,
)
from pet_calc.cli.paths import (
    DataFiles,
    ModelFile,
    OutputFile,
    PathCommand,
    overwrite_option,
)


@cloup.command("uncertainty", cls=PathCommand, formatter_settings=FORMATTER)
@click.argument("model", type=ModelFile())
@click.argument("data", nargs=-1, required=True, type=DataFiles())
@click.option(
    "--val",
    multiple=True,
    required=True,
    metavar="FILE",
    type=DataFiles(),
    help="Frames with energies that it was not trained on, to calibrate with.",
)
@click.option(
    "-o",
    "--output",
    required=True,
    type=OutputFile("checkpoint"),
    help="Checkpoint to write: the model with its uncertainty.",
)
@overwrite_option
@adapter_option()
@click.option("--target", help="Energy target to use, if there are several.")
@click.option(
    "--members",
    "n_members",
    type=click.IntRange(min=2),
    default=16,
    show_default=True,
    help="Last layers in the ensemble, which gives the forces' uncertainty.",
)
@click.option(
    "--seed", type=int, default=0, show_default=True, help="Of what is drawn."
)
@click.option("--json", "json_file", type=OutputFile("report"), help="Write the fit.")
@device_option()
@label_options
@click.option("--quiet", is_flag=True, help="No progress bar.")
def command(
    model: str,
    data: tuple[str, ...],
    val: tuple[str, ...],
    output: str,
    adapter: str | None,
    target: str | None,
    n_members: int,
    seed: int,
    json_file: str | None,
    device: str,
    quiet: bool,
    **labels: Any,
) -> None:
    """Give MODEL an uncertainty, from DATA, which it was trained on.

    One pass over DATA, one over the validation frames. The file has the same weights;
    PETCalculator, eval, export and convert then know the uncertainty of energies, and
    of forces by an ensemble of last layers. For several targets, run it once for each,
    on the file before.

    \b
    Examples:
      pet-calc uncertainty model.ckpt train.xyz --val val.xyz -o sure.ckpt
      pet-calc uncertainty base.ckpt train.xyz --val val.xyz -o sure.ckpt \\
          --adapter adapter.safetensors
    """
    import json

    from pet_calc.checkpoint import save_checkpoint
    from pet_calc.config.quick import build_dataset
    from pet_calc.evaluate.make_uncertainty import UncertaintyOptions, make_uncertainty
    from pet_calc.system.atomic import write_text_atomically

    options = UncertaintyOptions(
        model=model,
        train=build_dataset(data, labels),
        validation=build_dataset(val, labels),
        adapter=adapter,
        target=target,
        device=device,
        n_members=n_members,
        seed=seed,
    )
    record, name, calibration = make_uncertainty(options, progress=show_progress(quiet))
    save_checkpoint(output, record)
    first, second = calibration.to_text().splitlines()
    click.echo(
        f"fitted    {name}: {calibration.n_train} training frames, scale "
        f"{calibration.scale:.3g} eV, ridge {calibration.ridge:.1g}"
    )
    click.echo(f"checked   {first}")
    click.echo(f"          {second}")
    click.echo(f"written   {output}")
    if json_file:
        values = {"target": name, **calibration.to_dict()}
        write_text_atomically(json_file, json.dumps(values, indent=2) + "\n")
