"""The verb ``doctor``: is everything there to run models in LAMMPS?"""

import click


@click.command("doctor")
@click.pass_context
def command(ctx: click.Context) -> None:
    """Check packages, compiler, engine, plugin, LAMMPS and MPI, with two atoms.

    The engine (of the calculator) and the plugin (of LAMMPS) are compiled on the way
    if they are missing.

    \b
    Example:
      pet-calc doctor
    """
    import logging

    from pet_calc.lammps.doctor import examine

    # the calculator's and the exporter's lines would hide the findings
    logging.getLogger("pet_calc").setLevel(logging.WARNING)
    is_well = True
    for finding in examine():
        mark = "ok  " if finding.is_good else "FAIL"
        click.echo(f"{mark}  {finding.name:10}{finding.text}")
        is_well = is_well and finding.is_good
    if not is_well:
        ctx.exit(2)
