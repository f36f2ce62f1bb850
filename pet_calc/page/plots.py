"""The plots of a run and of groups, each with the numbers behind it."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from pet_calc.evaluate.metrics import DISPLAY_UNITS
from pet_calc.page import figures
from pet_calc.page.read import ReadRun
from pet_calc.page.tables import sort_groups

NAMES = {"energy": "Energies", "forces": "Forces", "stress": "Stress"}


# in one plot
MOST_GROUPS = 20


@dataclass
class Plot:
    """A figure, and what it was drawn from."""

    name: str
    """Such as ``parity_forces_test``: of files and identifiers."""
    title: str
    label: str
    """What it shows, for those who cannot see it."""
    figure: Figure
    columns: dict[str, Any]
    """By heading: the numbers, all of one length."""
    is_density: bool = False
    """Whether colours count points."""


def plot_curves(run: ReadRun) -> list[Plot]:
    """Return how errors, loss and learning rate went, none without an epoch."""
    if not run.rows:
        return []
    epochs = [row["epoch"] for row in run.rows]
    zero, best = run.report.get("zero_step") or {}, run.report.get("best_epoch")
    plots = []
    for quantity in ("energy", "forces", "stress"):
        key = f"val_{quantity}_mae"
        if key not in run.rows[0]:
            continue
        factor, unit = DISPLAY_UNITS[quantity]
        values = [factor * row.get(key, np.nan) for row in run.rows]
        start = factor * zero.get(f"{quantity}_mae", np.nan)
        unit = unit.replace("^3", "³")
        with figures.panel() as (figure, axes):
            axes.plot([0, *epochs], [start, *values], color=figures.AFTER, marker=".")
            axes.axhline(start, color=figures.BEFORE, linestyle="--", linewidth=1)
            _mark_best(axes, best, epochs, values, start)
            finish(axes, "epoch", f"validation MAE, {unit}", is_log=_is_wide(values))
        plots.append(
            Plot(
                f"curve_{quantity}",
                f"{NAMES[quantity]}, validation",
                f"Validation error of {quantity} by epoch: {start:.4g} {unit} before, "
                f"{values[-1]:.4g} {unit} after epoch {epochs[-1]}.",
                figure,
                {"epoch": [0, *epochs], f"mae ({unit})": [start, *values]},
            )
        )
    return [*plots, _plot_loss(run, epochs)]


def plot_groups(table: dict[str, Any], kind: str, title: str) -> Plot | None:
    """Return the errors of forces (or else energies) of groups, before and after."""
    groups = [group for group in table.get("groups", []) if group["kind"] == kind]
    if len(groups) < 2:
        return None
    quantity = "forces" if "forces_mae" in groups[0]["errors"] else "energy"
    key = f"{quantity}_mae"
    factor, unit = DISPLAY_UNITS[quantity]
    shown = sort_groups([group for group in groups if key in group["errors"]])
    n_groups, shown = len(shown), shown[:MOST_GROUPS]
    names = [shorten(group["name"]) for group in shown]
    after = [factor * group["errors"][key] for group in shown]
    before = [factor * group.get("before", {}).get(key, np.nan) for group in shown]
    rows = np.arange(len(shown))[::-1]
    which = f": the {len(shown)} worst of {n_groups}" if n_groups > len(shown) else ""
    size = (figures.PANEL[0], max(1.4, 0.7 + 0.22 * len(shown)))
    with figures.panel(size) as (figure, axes):
        axes.hlines(rows, before, after, color=figures.INK, linewidth=0.6)
        axes.plot(before, rows, "x", color=figures.BEFORE, label="before")
        axes.plot(after, rows, "o", color=figures.AFTER, label="after")
        # names come from files: no formulas, see `Text.set_parse_math`
        axes.set_yticks(rows, names, parse_math=False)
        axes.set_xlim(left=0)
        axes.set_ylim(-0.6, len(shown) - 0.4)
        axes.legend(
            loc="lower right", bbox_to_anchor=(1, 1), ncols=2, handletextpad=0.1
        )
        finish(axes, f"MAE of {quantity}, {unit}", "", keeps_scale=True)
    return Plot(
        f"groups_{kind}_{table['set']}",
        f"{title}, {table['set']}{which}",
        f"Mean absolute error of {quantity} by {title.lower()}, before and after.",
        figure,
        {"group": [g["name"] for g in shown], "before": before, "after": after},
    )


def finish(
    axes: Axes,
    x_label: str,
    y_label: str,
    *,
    is_log: bool = False,
    keeps_scale: bool = False,
) -> None:
    """Label axes and give them a grid."""
    axes.set_xlabel(x_label)
    axes.set_ylabel(y_label)
    axes.grid(color=figures.INK, alpha=0.12, linewidth=0.6)
    axes.set_axisbelow(True)
    if is_log:
        axes.set_yscale("log")
    elif x_label == "epoch":
        # no differences to a number above the axis
        axes.ticklabel_format(axis="y", useOffset=False)
    if x_label == "epoch":
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    elif not keeps_scale:
        axes.xaxis.set_major_locator(MaxNLocator(5))


def name_before(has_base: bool) -> str:
    """Return what the model is called that a run begins with."""
    return "base" if has_base else "before training"


def name_after(has_base: bool) -> str:
    """Return what its result is called."""
    return "fine-tuned" if has_base else "trained"


def shorten(name: str, length: int = 28) -> str:
    """Return a name from a file as an axis can show it."""
    shown = "".join(c if c.isprintable() else "�" for c in name)
    return shown if len(shown) <= length else f"…{shown[1 - length :]}"


def _plot_loss(run: ReadRun, epochs: list[int]) -> Plot:
    losses = {"training loss": "train_loss", "validation loss": "val_loss"}
    columns: dict[str, Any] = {"epoch": epochs}
    rates = [row["learning_rate"] for row in run.rows]
    with figures.panel() as (figure, axes):
        for (name, key), (colour, style) in zip(
            losses.items(),
            ((figures.THIRD, "--"), (figures.AFTER, "-")),
            strict=True,
        ):
            columns[name] = [row.get(key, np.nan) for row in run.rows]
            axes.plot(epochs, columns[name], style, color=colour, label=name)
        twin = axes.twinx()
        twin.plot(epochs, rates, ":", color=figures.INK, linewidth=1)
        twin.set_ylim(bottom=0)
        twin.set_ylabel("learning rate (dotted)")
        twin.spines["right"].set_visible(True)
        twin.ticklabel_format(axis="y", scilimits=(0, 0))
        # above the axes: the curves of both scales may run anywhere
        axes.legend(loc="lower left", bbox_to_anchor=(-0.02, 1), ncols=2)
        finish(axes, "epoch", "loss", is_log=_is_wide(columns["training loss"]))
    columns["learning rate"] = rates
    label = "Training and validation loss, and the learning rate, by epoch."
    return Plot("curve_loss", "Loss and learning rate", label, figure, columns)


def _mark_best(
    axes: Axes, best: int | None, epochs: list[int], values: list[float], start: float
) -> None:
    if best is None:
        return
    value = start if best == 0 else dict(zip(epochs, values, strict=True)).get(best)
    if value is not None:
        axes.plot([best], [value], "D", color=figures.THIRD, markersize=6)
        # above the axes, where no curve runs through it
        axes.set_title(f"best: epoch {best}", loc="right", fontsize=8)


def _is_wide(values: list[float]) -> bool:
    known = [v for v in values if np.isfinite(v) and v > 0]
    return len(known) > 1 and max(known) > 20 * min(known)
