"""The options of ``finetune`` that say what trains, on what, and for how long."""

from typing import TYPE_CHECKING, Any

import click

from pet_calc.cli.options import (
    COMPILE_CHOICES,
    compile_option,
    store_option,
    take_label_flags,
)

if TYPE_CHECKING:
    from pet_calc.config import RunOptions


class CountOrAuto(click.ParamType):
    """A whole number from 1, or ``auto``."""

    name = "N|auto"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> Any:
        """Return the number, or the word."""
        if value == "auto":
            return value
        return click.IntRange(min=1).convert(value, param, ctx)


# they mean nothing to the other methods
LORA_ONLY = ("rank", "alpha", "lora_targets", "head_mode")


def training_flags(command: Any) -> Any:
    """Add the options."""
    # decorators apply from the last to the first
    for decorate in reversed(_OPTIONS):
        command = decorate(command)
    return command


def build_options(
    data: tuple[str, ...],
    base: str | None,
    output: str,
    flags: dict[str, Any],
    given: list[str],
) -> "RunOptions":
    """Return the options of the run; ``given`` are the flags that the user wrote."""
    from pet_calc.config.quick import (
        FinetuneFlags,
        LabelFlags,
        build_finetune_options,
    )
    from pet_calc.errors import ConfigError

    if base is None:
        raise ConfigError("--base: name the checkpoint to start from")
    for name in LORA_ONLY:
        if name in given and flags["method"] != "lora":
            raise ConfigError(
                f"{spell(name)}: has no effect with --method {flags['method']}; "
                "leave it out, or use --method lora"
            )
    labels = {**take_label_flags(flags), "level": flags.pop("level")}
    flags["file_weights"] = tuple(map(_parse_weight, flags.pop("weight")))
    flags["lora_targets"] = tuple(flags["lora_targets"].split(","))
    flags["loss_weights"] = flags["loss_weights"] or None
    flags["compile"] = COMPILE_CHOICES[flags.pop("compile_choice")]
    flags["labels"] = LabelFlags(**labels)
    return build_finetune_options(data, base, output, FinetuneFlags(**flags))


def spell(name: str) -> str:
    """Return a flag as the user writes it."""
    short = {
        "learning_rate": "--lr",
        "validation": "--val",
        "new_elements": "--allow-new-elements",
        "compile_choice": "--compile",
    }
    return short.get(name, "--" + name.replace("_", "-"))


def _parse_weight(text: str) -> tuple[str, float]:
    """Return (file, weight) of ``file=weight``."""
    file, _, number = text.rpartition("=")
    try:
        weight = float(number)
    except ValueError:
        weight = -1.0
    if not file or not 0 < weight < float("inf"):
        raise click.BadParameter(
            f"expected FILE=NUMBER with a number above 0, got {text!r}",
            param_hint="--weight",
        )
    return file, weight


_OPTIONS = (
    click.option(
        "--method",
        type=click.Choice(["lora", "heads", "full"]),
        default="lora",
        show_default=True,
        help="Train low-rank corrections, only the heads, or all weights.",
    ),
    click.option(
        "--rank", default=8, show_default=True, help="Rank of the corrections."
    ),
    click.option("--alpha", type=float, help="Scale of the corrections.  [2 x rank]"),
    click.option(
        "--lora-targets",
        default="input_linear,output_linear",
        show_default=True,
        help="Layers that get corrections: also mlp, compress, center, heads, ...",
    ),
    click.option(
        "--head-mode",
        type=click.Choice(["auto", "train", "freeze", "lora"]),
        default="auto",
        show_default=True,
        help="The heads under lora; auto trains those of a new target only.",
    ),
    click.option(
        "--target",
        default="energy",
        show_default=True,
        help="Output to train; a new name such as energy/pbe0 gets heads of its own.",
    ),
    click.option(
        "--weight",
        multiple=True,
        metavar="FILE=W",
        help="Weight of a training file's frames in the loss; may be repeated.",
    ),
    click.option("--level", default="", help="Level of theory, stored in the model."),
    click.option(
        "--val", "validation", help="Validation set: file or fraction.  [0.1]"
    ),
    click.option("--test", help="Test set: file or fraction.  [none]"),
    click.option("--epochs", type=click.IntRange(min=1), help="Passes over the data."),
    click.option(
        "--batch-size",
        type=CountOrAuto(),
        default=16,
        show_default=True,
        help="Frames per step; auto: as many as have the pairs of 16 average ones.",
    ),
    click.option(
        "--pairs-per-batch",
        type=click.IntRange(min=1),
        help="Neighbour pairs per step, instead of --batch-size.",
    ),
    click.option(
        "--num-workers",
        type=click.IntRange(min=0),
        help="Processes that compute neighbour lists.  [by cores]",
    ),
    compile_option(),
    click.option(
        "--activation-checkpointing",
        is_flag=True,
        help="Compute layers again for the gradient: less memory, more time.",
    ),
    click.option(
        "--mixed-precision",
        is_flag=True,
        help="Matrix products in bfloat16, for GPUs and processors that have it.",
    ),
    click.option(
        "--augmentation",
        type=click.Choice(["O3", "rotations", "inversions", "none"]),
        default="O3",
        show_default=True,
        help="How each structure is turned at random, anew in each epoch.",
    ),
    click.option(
        "--consistency",
        type=float,
        default=0.0,
        show_default=True,
        help="Weight of what two orientations of a structure differ by, such as 2.",
    ),
    click.option("--lr", "learning_rate", type=float, help="Peak rate.  [by method]"),
    click.option(
        "--loss-weights",
        nargs=3,
        type=float,
        metavar="E F S",
        help="Weights of energy per atom, forces, virial per atom.  [10 1 1]",
    ),
    click.option(
        "--offsets",
        type=click.Choice(["fit", "keep", "isolated_atoms"]),
        default="fit",
        show_default=True,
        help="Energies per element: fitted to what the base leaves over, or kept.",
    ),
    click.option(
        "--inherit-head",
        metavar="OUTPUT",
        help="Output of the base that a new --target starts from.  [energy]",
    ),
    click.option(
        "--keep-head",
        is_flag=True,
        help="Keep the base's own output beside a new --target.",
    ),
    click.option(
        "--direct-heads",
        type=click.Choice(["train", "drop"]),
        default="train",
        show_default=True,
        help="Direct force and stress heads of the base: train along, or leave out.",
    ),
    click.option(
        "--allow-new-elements",
        "new_elements",
        is_flag=False,
        flag_value="nearest",
        metavar="[Ge=Si,...]",
        help="Elements unknown to the base start as these, or as the nearest one.",
    ),
    click.option(
        "--retain",
        multiple=True,
        metavar="FILE",
        help="Labelled frames of the base's domain: measure what is forgotten.",
    ),
    click.option(
        "--replay",
        multiple=True,
        metavar="FILE",
        help="Frames of the base's domain to train on as well, in every step.",
    ),
    click.option(
        "--replay-labels",
        type=click.Choice(["file", "base"]),
        default="file",
        show_default=True,
        help="Labels of --replay: those of the file, or what the base predicts.",
    ),
    click.option(
        "--replay-generate",
        type=click.IntRange(min=0),
        default=0,
        metavar="N",
        help="Frames to make from DATA and label by the base.  [0]",
    ),
    click.option(
        "--replay-weight",
        default=1.0,
        show_default=True,
        help="Factor of the loss on replayed frames.",
    ),
    click.option(
        "--replay-batch-size",
        type=click.IntRange(min=1),
        help="Replayed frames in each step.  [--batch-size, at least 4]",
    ),
    click.option("--ema", type=float, help="Decay of averaged weights, such as 0.99."),
    store_option("they go to OUTPUT/store"),
    click.option("--seed", default=0, show_default=True, help="Of weights and order."),
)
