"""The verb ``watch``: the page of a run, live."""

import click

from pet_calc.cli.paths import RunDirectory


@click.command("watch")
@click.argument("run_dir", type=RunDirectory())
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=0,
    show_default=True,
    help="To listen on; 0 takes a free one.",
)
def command(run_dir: str, port: int) -> None:
    """Serve the page of the run in RUN_DIR while it trains, to this machine alone.

    The address has a random part that is the key to it. Nothing is written, and the
    run does not notice. It ends with the run, or with Ctrl-C; a run that is interrupted
    and resumed is followed on. From another machine: ssh -L 8000:127.0.0.1:PORT HOST,
    and the address with 8000 in place of PORT.

    \b
    Examples:
      pet-calc watch water/
      pet-calc watch water/ --port 8000
    """
    from pet_calc.page import PAGE_NAME
    from pet_calc.page.watch import watch

    try:
        if not watch(run_dir, click.echo, port=port):
            click.echo("run        has ended before")
    except KeyboardInterrupt:
        click.echo("watch      ended; the run goes on")
        return
    click.echo(f"page       {run_dir.rstrip('/')}/{PAGE_NAME}")
