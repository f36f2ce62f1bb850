"""Options that several verbs share."""

from collections.abc import Callable
from typing import Any

import click

from pet_calc.cli.paths import InputFile

Decorator = Callable[[Any], Any]

# lines as wide as the terminal, up to this
FORMATTER = {"max_width": 100}


def device_option() -> Decorator:
    """Return ``--device``."""
    return click.option(
        "--device",
        default="auto",
        show_default=True,
        help="cpu, cuda, cuda:N; auto takes a GPU if there is one.",
    )


def dtype_option() -> Decorator:
    """Return ``--dtype``."""
    return click.option(
        "--dtype",
        type=click.Choice(["float32", "float64"]),
        help="Precision; the model's own if not given.",
    )


def engine_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add ``--compile`` and ``--precision``."""
    from pet_calc.cli.from_fields import build_option
    from pet_calc.config.quick import find_place

    command = click.option(
        "--precision",
        type=click.Choice(["exact", "mixed"]),
        default="exact",
        show_default=True,
        help="mixed: matrix products in bfloat16, faster and less accurate.",
    )(command)
    return build_option(find_place("compile_choice"))(command)


def adapter_option() -> Decorator:
    """Return ``--adapter``."""
    return click.option(
        "--adapter",
        type=InputFile(),
        help="LoRA adapter (.safetensors) to put on the model first.",
    )


def session_options(command: Any) -> Any:
    """Add ``--resume`` and its like, and ``--quiet``."""
    for decorate in (
        click.option("--quiet", is_flag=True, help="No progress bars."),
        click.option(
            "--stop-after",
            type=click.IntRange(min=1),
            metavar="EPOCH",
            help="End this session after that epoch; --resume goes on.",
        ),
        click.option(
            "--overwrite", is_flag=True, help="Replace a run in the output folder."
        ),
        click.option(
            "--resume-with-new-data",
            is_flag=True,
            help="Likewise, where the files of the data have changed.",
        ),
        click.option(
            "--resume", is_flag=True, help="Go on with the run in the output folder."
        ),
    ):
        command = decorate(command)
    return command


def show_progress(is_quiet: bool) -> Any:
    """Return what wraps frames in a progress bar: never where output is redirected."""
    from tqdm import tqdm

    # tqdm's None: hidden where standard error is no terminal
    hide = True if is_quiet else None
    return lambda items: tqdm(items, unit="frame", disable=hide, leave=False)


def set_option(command: Any) -> Any:
    """Add ``--set``."""
    return click.option(
        "--set",
        "changes",
        multiple=True,
        metavar="NAME=VALUE",
        help="Any option as in an options file, such as training.grad_clip_norm=0.5; "
        "`pet-calc options` explains them.",
    )(command)


def store_option(command: Any) -> Any:
    """Add ``--store``."""
    return field_option("store")(command)


def field_option(parameter: str) -> Decorator:
    """Return the option of a field of a run's options, as ``finetune`` has it."""
    from pet_calc.cli.from_fields import build_option
    from pet_calc.config.quick import find_place

    option: Decorator = build_option(find_place(parameter))
    return option


def label_options(command: Any) -> Any:
    """Add the options that say where labels lie and in which units."""
    from pet_calc.cli.from_fields import build_group
    from pet_calc.config.quick import LABEL_PLACES

    return build_group("Labels", LABEL_PLACES)(command)
