"""The command ``pet-calc``: finds verbs, loads one, and turns errors into one line."""

import difflib
import errno
import importlib
import importlib.util
import logging
import os
import traceback
from importlib.metadata import version
from typing import Any, NamedTuple, NoReturn

import click

from pet_calc.errors import PetCalcError

EXIT_USER_ERROR = 2
EXIT_INTERRUPTED = 130


class Verb(NamedTuple):
    """Where a verb's function ``command`` is, and its line in the overview."""

    module: str
    help: str


# The overview is printed from here, without importing the verbs.
VERBS = {
    "train": Verb("train", "Train a model, or fine-tune one with -c, from options."),
    "finetune": Verb("finetune", "Fine-tune a base model on data or from options."),
    "watch": Verb("watch", "Show the page of a run while it trains."),
    "report": Verb("report", "Write the page of a run again."),
    "compare": Verb("compare", "Put runs side by side on one page."),
    "plot": Verb("plot", "Draw the figures of a run for papers, with their data."),
    "check": Verb("check", "Look for mistakes in data: units, signs, copies."),
    "eval": Verb("eval", "Compare a model with labelled frames."),
    "uncertainty": Verb(
        "uncertainty", "Give a model an uncertainty, from its training set."
    ),
    "select": Verb("select", "Take the frames that are worth labelling next."),
    "validate": Verb(
        "validate", "Check a model's physics: derivatives, walls, drift, phonons."
    ),
    "models": Verb("models", "List the models that can be used by name."),
    "info": Verb("info", "Describe a checkpoint, an adapter or an exported model."),
    "export": Verb("export", "Export a model for LAMMPS and other programs."),
    "lammps": Verb("lammps", "Write and run LAMMPS inputs; compile the plugin."),
    "doctor": Verb("doctor", "Check the chain from a model to LAMMPS and MPI."),
    "merge": Verb("merge", "Merge an adapter into its base."),
    "convert": Verb(
        "convert", "Convert between checkpoints of pet-calc and metatrain."
    ),
    "options": Verb("template", "Write an options file in which all is explained."),
}


class LazyGroup(click.Group):
    """A group that imports the module of a verb when the verb is run."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the verbs whose modules are there, in the order of the table."""
        return [name for name in VERBS if _find_module(name) is not None]

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        """Import a verb; None if there is no such verb."""
        module = _find_module(name)
        if module is None:
            return None
        command: click.Command = importlib.import_module(module).command
        if not any(param.name == "debug" for param in command.params):
            debug = _build_debug_option()
            command.params.append(debug)
            # cloup's commands know which options are in no group of their help
            getattr(command, "ungrouped_options", []).append(debug)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the verb in the arguments; a wrong one fails with the nearest."""
        name = args[0]
        known = self.list_commands(ctx)
        if name not in known and not name.startswith("-"):
            close = difflib.get_close_matches(name, known, n=1)
            hint = (
                f"did you mean {close[0]}?" if close else f"known: {', '.join(known)}"
            )
            ctx.fail(f"no verb {name!r}; {hint}")
        return super().resolve_command(ctx, args)

    def format_commands(
        self, ctx: click.Context, formatter: click.HelpFormatter
    ) -> None:
        """Write the overview from the table."""
        rows = [(name, VERBS[name].help) for name in self.list_commands(ctx)]
        with formatter.section("Verbs"):
            formatter.write_dl(rows)

    def invoke(self, ctx: click.Context) -> Any:
        """Run the verb; an error that the user can mend becomes one line."""
        try:
            return super().invoke(ctx)
        except PetCalcError as error:
            _fail(ctx, str(error))
        except OSError as error:
            # a reader of our output that has gone: click ends quietly
            if error.errno == errno.EPIPE:
                raise
            _fail(ctx, describe_os_error(error))
        except MemoryError:
            _fail(ctx, "out of memory; give smaller files, or close other programs")
        except KeyboardInterrupt:
            click.echo("interrupted", err=True)
            ctx.exit(EXIT_INTERRUPTED)


class EchoHandler(logging.Handler):
    """Prints the library's log on whatever standard error is at that time."""

    def emit(self, record: logging.LogRecord) -> None:
        """Print one line, unless a progress bar shows it."""
        if getattr(record, "is_in_bar", False):
            return
        prefix = "warning: " if record.levelno >= logging.WARNING else ""
        click.echo(prefix + self.format(record), err=True)


_DEBUG = "pet_calc.debug"


def describe_os_error(error: OSError) -> str:
    """Return one line on what the file system, or the network, refused."""
    why = error.strerror or str(error) or type(error).__name__
    given = (error.filename, error.filename2)
    names = list(dict.fromkeys(str(name) for name in given if name))
    advice = {
        errno.ENOSPC: "free some space, or write elsewhere",
        errno.EDQUOT: "your quota is used up; free some, or write elsewhere",
        errno.EFBIG: "a limit of the size of files is reached; write elsewhere",
        errno.EACCES: "change its permissions, or name another place",
        errno.EPERM: "change its permissions, or name another place",
        errno.EROFS: "name a place that can be written to",
        errno.EMFILE: "raise the limit of open files (ulimit -n)",
        errno.ENOENT: "check the name",
    }.get(error.errno or 0, "check the place and try again")
    return (
        f"{' and '.join(names) or 'file system'}: {why[0].lower()}{why[1:]}; {advice}"
    )


def _fail(ctx: click.Context, text: str) -> NoReturn:
    """Print an error as one line, after the traceback if it was asked for; exit."""
    if ctx.meta.get(_DEBUG):
        click.echo(traceback.format_exc(), err=True)
    click.echo(f"error: {' '.join(text.splitlines())}", err=True)
    ctx.exit(EXIT_USER_ERROR)


def _set_debug(ctx: click.Context, param: click.Parameter, value: bool) -> None:
    if value:
        # meta is shared between a verb's context and the group's
        ctx.meta[_DEBUG] = True
        logging.getLogger("pet_calc").setLevel(logging.DEBUG)


def _build_debug_option() -> click.Option:
    return click.Option(
        ["--debug"],
        is_flag=True,
        expose_value=False,
        callback=_set_debug,
        help="Show where an error comes from, and more of the log.",
    )


def _print_version(ctx: click.Context, param: click.Parameter, value: bool) -> None:
    if value:
        click.echo(f"pet-calc {version('pet-calc')}")
        ctx.exit()


def _find_module(name: str) -> str | None:
    """Return the module of a verb, None if it is unknown or not there.

    The module is not imported, so that an error in it shows when it is run.
    """
    if name not in VERBS:
        return None
    module = f"pet_calc.cli.{VERBS[name].module}"
    return module if importlib.util.find_spec(module) else None


def _print_log() -> None:
    logger = logging.getLogger("pet_calc")
    if not any(isinstance(handler, EchoHandler) for handler in logger.handlers):
        logger.addHandler(EchoHandler())
    # of several processes that torchrun starts, the first one speaks
    is_first = os.environ.get("RANK", "0") == "0"
    logger.setLevel(logging.INFO if is_first else logging.ERROR)


def main() -> None:
    """Run the command line; the entry point of ``pet-calc``."""
    cli(prog_name="pet-calc")


@click.group(
    cls=LazyGroup,
    params=[
        _build_debug_option(),
        click.Option(
            ["--version"],
            is_flag=True,
            is_eager=True,
            expose_value=False,
            callback=_print_version,
            help="Show the version.",
        ),
    ],
    context_settings={"help_option_names": ["-h", "--help"]},
)
def cli() -> None:
    """Fine-tune PET interatomic potentials with LoRA, use them in ASE and LAMMPS.

    Example: pet-calc finetune train.xyz --base base.ckpt -o out/
    """
    _print_log()


if __name__ == "__main__":
    main()
