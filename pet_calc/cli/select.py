"""The verb ``select``: which frames of trajectories to label next."""

from typing import Any

import click
import cloup

from pet_calc.cli.options import (
    FORMATTER,
    adapter_option,
    device_option,
    field_option,
    show_progress,
)
from pet_calc.cli.paths import (
    DataFiles,
    ModelFile,
    OutputFile,
    PathCommand,
    output_option,
    overwrite_option,
)


@cloup.command("select", cls=PathCommand, formatter_settings=FORMATTER)
@click.argument("frames", nargs=-1, required=True, type=DataFiles())
@click.option(
    "--model", "-m", required=True, type=ModelFile(), help="Checkpoint that judges."
)
@click.option(
    "-n",
    "n_frames",
    type=click.IntRange(min=1),
    default=50,
    show_default=True,
    help="Frames to take.",
)
@output_option("selection")
@overwrite_option
@click.option(
    "--by",
    type=click.Choice(["uncertainty", "atoms", "diversity"]),
    default="uncertainty",
    show_default=True,
    help="Uncertainty of the energy per atom, or of the most uncertain atom (for "
    "large systems); diversity needs no uncertainty.",
)
@click.option(
    "--exclude",
    multiple=True,
    metavar="FILE",
    type=DataFiles(),
    help="What is labelled already: near copies of it are left out, and frames far "
    "from it are taken first.",
)
@click.option(
    "--every",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    metavar="K",
    help="Read each K-th frame of a file; FILE@100:200:5 says more.",
)
@click.option(
    "--elements",
    metavar="A,B,...",
    help="Elements of the atom types 1, 2, ... in LAMMPS dumps.",
)
@click.option(
    "--pool",
    type=click.IntRange(min=1),
    metavar="K",
    help="Choose among the K most uncertain frames.  [default: 4 times N]",
)
@click.option(
    "--near",
    type=click.FloatRange(min=0),
    default=0.006,
    show_default=True,
    help="Distance below which frames are copies, about that of atoms that moved as "
    "many A.",
)
@click.option(
    "--closest",
    type=click.FloatRange(min=0),
    default=0.5,
    show_default=True,
    help="Leave out frames with atoms closer than this part of the sum of their "
    "covalent radii.",
)
@click.option(
    "--loneliest",
    type=click.FloatRange(min=0),
    default=6.0,
    show_default=True,
    help="Leave out frames with an atom farther (A) from all others; 0 takes them.",
)
@adapter_option()
@click.option("--target", help="Energy target to use, if there are several.")
@click.option(
    "--json", "json_file", type=OutputFile("report"), help="Write the table, in eV."
)
@device_option()
@field_option("length_unit")
@field_option("charge_key")
@field_option("spin_key")
@click.option("--quiet", is_flag=True, help="No progress bar.")
def command(
    frames: tuple[str, ...],
    output: str,
    json_file: str | None,
    exclude: tuple[str, ...],
    elements: str | None,
    quiet: bool,
    length_unit: str | None,
    charge_key: str | None,
    spin_key: str | None,
    **settings: Any,
) -> None:
    """Take the frames of trajectories that are worth labelling next.

    FRAMES are files that ASE reads: extended XYZ, .traj, LAMMPS dumps. Taken are the
    frames that MODEL is least certain of and that differ most from each other and from
    the training set. Left out are frames that no calculation should be spent on, and
    near copies. The output has no labels, for those of a trajectory are the model's;
    each frame says where it is from and why it was taken (select_from,
    select_uncertainty in eV, select_distance).

    \b
    Examples:
      pet-calc select md.xyz --model sure.ckpt --exclude train.xyz -n 20 -o next.xyz
      pet-calc select md/*.traj --model sure.ckpt --every 10 -o next.xyz
      pet-calc select md.lammpstrj --elements O,H --model base.ckpt --by diversity \\
          -o next.xyz
    """
    import json

    from pet_calc.config.quick import build_dataset
    from pet_calc.select.result import write_selection
    from pet_calc.select.run import SelectOptions, select_frames
    from pet_calc.system.atomic import write_text_atomically

    keys = {
        "length_unit": length_unit, "charge_key": charge_key, "spin_key": spin_key,
    }  # fmt: skip
    options = SelectOptions(
        dataset=build_dataset(frames, keys),
        exclude=build_dataset(exclude, keys) if exclude else None,
        elements=tuple((elements or "").replace(",", " ").split()),
        **settings,
    )
    selection = select_frames(options, progress=show_progress(quiet))
    write_selection(output, selection)
    click.echo(selection.to_text())
    click.echo(f"written   {output}")
    if json_file:
        text = json.dumps(selection.to_dict(), indent=2)
        write_text_atomically(json_file, text + "\n")
