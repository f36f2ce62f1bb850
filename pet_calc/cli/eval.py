"""The verb ``eval``: errors of a model on labelled structures."""

from typing import Any

import click

from pet_calc.cli.options import (
    COMPILE_CHOICES,
    ModelFile,
    OutputFile,
    adapter_option,
    device_option,
    dtype_option,
    engine_options,
    label_options,
    take_label_flags,
)


@click.command("eval")
@click.argument("model", type=ModelFile())
@click.argument("data", nargs=-1, required=True)
@adapter_option()
@click.option("--target", help="Energy output to use, if there are several.")
@click.option(
    "-o", "--output", type=OutputFile(), help="Write the predictions, extended XYZ."
)
@click.option(
    "--json", "json_file", type=OutputFile(), help="Write the errors, in eV and Å."
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
    device: str,
    dtype: str | None,
    compile_choice: str,
    precision: str,
    quiet: bool,
    **labels: Any,
) -> None:
    """Compare MODEL with the labels in DATA, or just predict if there are none.

    Frames are read, and predictions written, as they come: memory does not grow with
    the number of frames.

    \b
    Examples:
      pet-calc eval best_model.ckpt test.xyz
      pet-calc eval base.ckpt test.xyz --adapter adapter.safetensors -o predicted.xyz
    """
    import json
    from pathlib import Path

    import torch
    from tqdm import tqdm

    from pet_calc.config.quick import LabelFlags
    from pet_calc.data.census import CensusCounter
    from pet_calc.data.frames import iterate_frames
    from pet_calc.data.label_options import build_label_keys, build_label_units
    from pet_calc.evaluate.loading import choose_device, load_merged_model
    from pet_calc.evaluate.metrics import Metrics
    from pet_calc.evaluate.predict import predict_frames, write_predictions
    from pet_calc.model.hypers import choose_energy_target

    network = load_merged_model(
        model,
        adapter=adapter,
        dtype=getattr(torch, dtype) if dtype else None,
        device=choose_device(device),
    )
    dataset = LabelFlags(**take_label_flags(labels)).build_dataset(data)
    frames = iterate_frames(
        list(data), keys=build_label_keys(dataset), units=build_label_units(dataset)
    )
    census, metrics = CensusCounter(), Metrics()
    predictions = predict_frames(
        network,
        census.watch(frames),
        choose_energy_target(network.targets, target),
        metrics,
        compile=COMPILE_CHOICES[compile_choice],
        precision=precision,
        progress=lambda items: tqdm(items, unit="frame", disable=quiet, leave=False),
    )
    if output:
        write_predictions(output, predictions)
    else:
        for _ in predictions:
            pass
    click.echo(census.build().to_text())
    click.echo(f"errors    {metrics.to_text()}")
    if output:
        click.echo(f"written   {output}")
    if json_file:
        Path(json_file).write_text(json.dumps(metrics.to_dict(), indent=2) + "\n")
