"""The verb ``eval``: errors of a model on labelled frames."""

from typing import Any

import click
import cloup

from pet_calc.cli.options import (
    FORMATTER,
    adapter_option,
    device_option,
    dtype_option,
    engine_options,
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


@cloup.command("eval", cls=PathCommand, formatter_settings=FORMATTER)
@click.argument("model", type=ModelFile())
@click.argument("data", nargs=-1, required=True, type=DataFiles())
@adapter_option()
@click.option("--target", help="Energy target to use, if there are several.")
@click.option(
    "-o",
    "--output",
    type=OutputFile("predictions", beside=(".partial", ".partial.json", ".lock")),
    help="Write the frames with predictions (pet_energy, ...), extended XYZ.",
)
@click.option(
    "--json",
    "json_file",
    type=OutputFile("report"),
    help="Write the errors, in eV and Å.",
)
@overwrite_option
@click.option(
    "--resume",
    is_flag=True,
    help="Go on where an interrupted run stopped writing OUTPUT.",
)
@click.option(
    "--orientations",
    "n_orientations",
    type=click.IntRange(min=0),
    default=1,
    show_default=True,
    help="Random orientations in which errors are measured; 0: only the file's.",
)
@device_option()
@dtype_option()
@engine_options
@label_options
@click.option("--quiet", is_flag=True, help="No progress bar.")
def command(
    model: str,
    data: tuple[str, ...],
    adapter: str | None,
    target: str | None,
    output: str | None,
    json_file: str | None,
    resume: bool,
    n_orientations: int,
    device: str,
    dtype: str | None,
    compile_choice: str | None,
    precision: str,
    quiet: bool,
    **labels: Any,
) -> None:
    """Compare MODEL with the labels in DATA, or just predict if there are none.

    Frames are read, and predictions written, as they come: memory does not grow with
    the number of frames. Errors are those of frames turned at random, for a model is
    exact in no orientation more than in another; predictions in OUTPUT are of the
    frames as they stand in the file, and beside all that the file has: pet_energy,
    pet_forces, pet_stress in eV and Å, and pet_model, whose they are. A model with an
    uncertainty adds pet_energy_uncertainty and pet_energies_uncertainty (of atoms),
    and errors are held against it. What an interrupted run has done stays in
    OUTPUT.partial.

    \b
    Examples:
      pet-calc eval best_model.ckpt test.xyz
      pet-calc eval base.ckpt test.xyz --adapter adapter.safetensors -o predicted.xyz
      torchrun --nproc-per-node 4 --no-python pet-calc eval base.ckpt test.xyz
    """
    from pet_calc.system.cores import CoreWatch

    watch = CoreWatch()  # torch takes a second to import
    import json

    import torch

    from pet_calc.checkpoint.open import choose_device
    from pet_calc.config.quick import build_dataset, find_place
    from pet_calc.evaluate.metrics import depends_on_file, format_errors, format_spread
    from pet_calc.evaluate.run import EvaluationOptions, run_evaluation
    from pet_calc.system.atomic import write_text_atomically
    from pet_calc.system.ranks import join_ranks

    if resume and output is None:
        raise click.UsageError("--resume goes on with the file of -o; name it")
    with join_ranks(device) as ranks:
        options = EvaluationOptions(
            model=model,
            dataset=build_dataset(data, labels),
            adapter=adapter,
            target=target,
            dtype=getattr(torch, dtype) if dtype else None,
            device=ranks.place(device),
            compile=find_place("compile_choice").convert(compile_choice or "auto"),
            precision=precision,
            n_orientations=n_orientations,
        )
        if ranks.size == 1 and choose_device(options.device).type == "cpu":
            watch.warn_if_shared(torch.get_num_threads())
        result = run_evaluation(
            options,
            output=output,
            is_resumed=resume,
            progress=show_progress(quiet or not ranks.is_main),
            ranks=ranks,
        )
    if not ranks.is_main:
        return
    click.echo(result.census.to_text())
    errors = result.errors
    click.echo(f"errors    {errors.judged.to_text()}")
    spread = errors.spread.to_dict()
    if n_orientations:
        click.echo(
            "rotation  errors are of frames turned at random; "
            f"spread over orientations {format_spread(spread)}"
        )
        turned, as_in_file = errors.turned.to_dict(), errors.as_in_file.to_dict()
        if depends_on_file(turned, as_in_file):
            click.echo(f"as filed  {format_errors(as_in_file)}")
    if errors.reliability.count:
        first, second = errors.reliability.to_text().splitlines()
        click.echo(f"uncertain {first}\n          {second}")
    if output:
        click.echo(f"written   {output}")
    if json_file:
        values: dict[str, Any] = {**errors.judged.to_dict()}
        if n_orientations:
            as_in_file = errors.as_in_file.to_dict()
            values |= {f"as_in_file.{name}": as_in_file[name] for name in as_in_file}
            values |= {f"spread.{name}": spread[name] for name in spread}
        if errors.reliability.count:
            values["uncertainty"] = errors.reliability.to_dict()
        text = json.dumps(values, indent=2)
        write_text_atomically(json_file, text + "\n")
