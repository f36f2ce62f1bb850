"""The verb ``check``: what is in a data set, and what is wrong with it."""

from typing import Any

import click
import cloup

from pet_calc.cli.options import (
    FORMATTER,
    adapter_option,
    device_option,
    dtype_option,
    field_option,
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


@cloup.command("check", cls=PathCommand, formatter_settings=FORMATTER)
@click.argument("data", nargs=-1, required=True, type=DataFiles())
@click.option(
    "--base",
    "-c",
    type=ModelFile(),
    help="Checkpoint to compare labels with; at most 200 frames are run.",
)
@click.option(
    "--val",
    multiple=True,
    metavar="FILE",
    type=DataFiles(),
    help="Validation set, to find leakage.",
)
@click.option(
    "--test",
    multiple=True,
    metavar="FILE",
    type=DataFiles(),
    help="Test set, likewise.",
)
@field_option("weight")
@adapter_option()
@click.option("--target", help="Energy target of the base, if there are several.")
@field_option("new_elements")
@click.option(
    "--json", "json_file", type=OutputFile("report"), help="Write the findings."
)
@click.option(
    "--html",
    "page",
    type=OutputFile("page"),
    help="Write a page with the findings and the frames they are about.",
)
@overwrite_option
@device_option()
@dtype_option()
@label_options
@click.option("--quiet", is_flag=True, help="No progress bar.")
def command(
    data: tuple[str, ...],
    val: tuple[str, ...],
    test: tuple[str, ...],
    json_file: str | None,
    page: str | None,
    **flags: Any,
) -> None:
    """Look for mistakes in DATA before training: units, signs, copies, outliers.

    Exits with 2 if there are errors. A base shows most: wrong signs, units and orders
    of components stand out against its predictions.

    \b
    Examples:
      pet-calc check train.xyz
      pet-calc check train.xyz --val val.xyz --base pet-mad-s.ckpt
      pet-calc check md.xyz --energy-unit kcal/mol --json findings.json
      pet-calc check train.xyz --html data.html
    """
    import json
    from dataclasses import asdict

    from pet_calc.check.run import check_set
    from pet_calc.cli.main import EXIT_USER_ERROR
    from pet_calc.config.quick import build_dataset, build_datasets
    from pet_calc.data.census import CensusCounter
    from pet_calc.data.label_options import build_label_source
    from pet_calc.data.read_dataset import read_for_check
    from pet_calc.system.atomic import write_text_atomically

    labels = {**flags, "target": None}
    datasets = build_datasets(data, labels)
    units = build_label_source(datasets[0]).units
    counter = CensusCounter()
    frames = [f for part in datasets for f in read_for_check(part, counter)]
    held_out: dict[str, Any] = {
        name: read_for_check(build_dataset(files, labels)) if files else []
        for name, files in (("validation", val), ("test", test))
    }
    census = counter.build()
    click.echo(census.to_text())
    if len(frames) < census.n_frames:
        click.echo(f"sample    {len(frames)} frames are looked at more closely")
    report = check_set(
        frames,
        held_out=held_out,
        units=units,
        model=_load(flags, [frames, *held_out.values()]) if flags["base"] else None,
        target=flags["target"],
        progress=show_progress(flags["quiet"]),
    )
    click.echo(report.to_text())
    if json_file:
        values = {"census": asdict(census), **report.to_dict()}
        write_text_atomically(json_file, json.dumps(values, indent=2) + "\n")
    if page:
        from pet_calc.page.data import write_check

        everything = [*frames, *(f for part in held_out.values() for f in part)]
        write_check(page, census, report, everything, data)
        click.echo(f"page      {page}")
    if report.errors:
        click.get_current_context().exit(EXIT_USER_ERROR)


def _load(flags: dict[str, Any], sets: list[Any]) -> Any:
    """Return the base, with new elements as a training would start them."""
    import torch

    from pet_calc.checkpoint.open import choose_device, load_merged_model
    from pet_calc.config.quick import read_elements
    from pet_calc.train.start.new_elements import add_new_elements

    model = load_merged_model(
        flags["base"],
        adapter=flags["adapter"],
        dtype=getattr(torch, flags["dtype"]) if flags["dtype"] else None,
        device=choose_device(flags["device"]),
    )
    if flags["new_elements"]:
        frames = [frame for part in sets for frame in part]
        add_new_elements(model, frames, read_elements(flags["new_elements"]))
    return model
