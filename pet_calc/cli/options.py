"""Options that several verbs share."""

from collections.abc import Callable
from typing import Any, Literal

import click

from pet_calc.cli.paths import InputFile

Decorator = Callable[[Any], Any]


def device_option(default: str = "auto") -> Decorator:
    """Return ``--device``."""
    return click.option(
        "--device",
        default=default,
        show_default=True,
        help="cpu, cuda, cuda:N; auto takes a GPU if there is one.",
    )


def dtype_option(default: str | None = None) -> Decorator:
    """Return ``--dtype``."""
    return click.option(
        "--dtype",
        type=click.Choice(["float32", "float64"]),
        default=default,
        show_default=default is not None,
        help="Precision; the model's own if not given." if default is None else
        "Precision of the training.",
    )  # fmt: skip


COMPILE_CHOICES: dict[str, Literal["auto"] | bool] = {
    "auto": "auto",
    "yes": True,
    "no": False,
}


def engine_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add ``--compile`` and ``--precision``."""
    command = click.option(
        "--precision",
        type=click.Choice(["exact", "mixed"]),
        default="exact",
        show_default=True,
        help="mixed: matrix products in bfloat16, faster and less accurate.",
    )(command)
    return compile_option()(command)


def compile_option() -> Decorator:
    """Return ``--compile``."""
    return click.option(
        "--compile",
        "compile_choice",
        type=click.Choice(list(COMPILE_CHOICES)),
        default="auto",
        show_default=True,
        help="Use the engine compiled for this machine; auto: if it is there, or "
        "once the run is long.",
    )


def adapter_option() -> Decorator:
    """Return ``--adapter``."""
    return click.option(
        "--adapter",
        type=InputFile(),
        help="LoRA adapter (.safetensors) to put on the model first.",
    )


def session_options(command: Any) -> Any:
    """Add ``--resume``, ``--overwrite``, ``--stop-after`` and ``--quiet``."""
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


def store_option(otherwise: str) -> Decorator:
    """Return ``--store``; ``otherwise`` says what is done with much data without it."""
    return click.option(
        "--store",
        metavar="DIR",
        help="Folder to store frames in that do not fit in memory, reused later; "
        f"from 1 GB on {otherwise}; `memory` never stores.",
    )


LABEL_FLAGS = (
    "energy_key",
    "forces_key",
    "stress_key",
    "virial_key",
    "charge_key",
    "spin_key",
    "energy_unit",
    "length_unit",
    "forces_unit",
    "stress_unit",
    "virial_unit",
    "stress_sign",
)


def take_label_flags(flags: dict[str, Any]) -> dict[str, Any]:
    """Take the values of ``label_options`` out of all flags, for ``LabelFlags``."""
    labels = {name: flags.pop(name) for name in LABEL_FLAGS}
    labels["stress_sign"] = int(labels["stress_sign"])
    return labels


def label_options(command: Any) -> Any:
    """Add the options that say where labels lie and in which units."""
    options = (
        click.option("--energy-key", help="Name of the energy in the file."),
        click.option("--forces-key", help="Name of the forces in the file."),
        click.option("--stress-key", help="Name of the stress in the file."),
        click.option(
            "--virial-key", help="Name of the virial, -stress x volume, in the file."
        ),
        click.option("--charge-key", help="Name of the total charge in the file."),
        click.option("--spin-key", help="Name of the multiplicity 2S+1 in the file."),
        click.option("--energy-unit", help="eV, Hartree, kcal/mol, ...  [eV]"),
        click.option(
            "--length-unit",
            default="angstrom",
            show_default=True,
            help="Unit of the positions: angstrom, bohr, nm.",
        ),
        click.option("--forces-unit", help="eV/A, Ha/bohr, ...  [energy/length]"),
        click.option("--stress-unit", help="eV/A^3, GPa, kbar, ...  [energy/length^3]"),
        click.option("--virial-unit", help="eV, kcal/mol, ...  [that of the energy]"),
        click.option(
            "--stress-sign",
            type=click.Choice(["1", "-1"]),
            default="1",
            help="-1 for files with stress positive in compression (VASP), or virial "
            "+stress x volume.",
        ),
    )
    # decorators apply from the last to the first
    for decorate in reversed(options):
        command = decorate(command)
    return command
