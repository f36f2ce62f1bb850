"""The verb ``validate``: does a model obey what holds for any potential?"""

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
    InputFile,
    ModelFile,
    OutputFile,
    PathCommand,
    overwrite_option,
)


@cloup.command("validate", cls=PathCommand, formatter_settings=FORMATTER)
@click.argument("model", type=ModelFile())
@click.option(
    "--structure",
    type=InputFile(),
    help="Any file ASE reads; its last structure is taken. A molecule or crystal is "
    "built if not given.",
)
@click.option("--quick", is_flag=True, help="Leave out dynamics and the minimum.")
@click.option(
    "--pairs",
    type=click.Choice(["structure", "all"]),
    help="Elements of the dimers: those of the structure (the default with "
    "--structure), or all that the model knows.",
)
@click.option(
    "--nve",
    "picoseconds",
    type=click.FloatRange(min=0.0, min_open=True),
    default=1.0,
    show_default=True,
    metavar="PS",
    help="Length of the dynamics.",
)
@click.option(
    "-o", "--output", type=OutputFile("figure"), help="Draw the dimers (.pdf .png .svg)"
)
@click.option(
    "--json", "json_file", type=OutputFile("report"), help="Write rows and curves."
)
@overwrite_option
@adapter_option()
@click.option("--target", help="Energy target to use, if there are several.")
@device_option()
@field_option("compile_choice")
@click.option("--quiet", is_flag=True, help="No progress bar.")
def command(
    model: str,
    structure: str | None,
    quick: bool,
    pairs: str | None,
    picoseconds: float,
    output: str | None,
    json_file: str | None,
    quiet: bool,
    **settings: Any,
) -> None:
    """Check the physics of MODEL, a checkpoint or an exported file; no labels needed.

    Forces and stress against differences of the energy, symmetries, jumps at the
    cutoff, walls between atoms, drift in dynamics, and the minimum: vibrations of a
    molecule; phonons and elastic constants of a crystal. Checkpoints run in float64.
    Exits with 2 if a row fails.

    \b
    Examples:
      pet-calc validate pet-gfn1-xs
      pet-calc validate run/best_model.ckpt --structure cell.cif -o dimers.pdf
      pet-calc validate water.pt --structure box.xyz --quick --json report.json
    """
    import json

    from pet_calc.cli.main import EXIT_USER_ERROR
    from pet_calc.config.quick import find_place
    from pet_calc.data.files import read_last
    from pet_calc.system.atomic import write_text_atomically
    from pet_calc.validate import LONG, SHORT, load_potential, validate
    from pet_calc.validate.plot import check_format, save_curves
    from pet_calc.validate.structures import build_structure

    if output:
        check_format(output)
    compiled = settings.pop("compile_choice") or "auto"
    settings["compile"] = find_place("compile_choice").convert(compiled)
    potential = load_potential(model, **settings)
    atoms = read_last(structure) if structure else build_structure(potential.elements)
    is_all = pairs == "all" or (pairs is None and structure is None and not quick)
    report = validate(
        potential,
        atoms,
        pairs_of=potential.elements if is_all else None,
        effort=SHORT if quick else LONG,
        picoseconds=picoseconds,
        progress=show_progress(quiet),
    )
    click.echo(report.to_text())
    if json_file:
        text = json.dumps(report.to_dict(), indent=2, ensure_ascii=False) + "\n"
        write_text_atomically(json_file, text)
    if output:
        n_shown = save_curves(report.curves, output)
        click.echo(f"drawn {output}: {n_shown} of {len(report.curves)} pairs")
    if report.verdict == "fail":
        click.get_current_context().exit(EXIT_USER_ERROR)
