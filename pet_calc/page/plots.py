"""The plots of a run, each with the numbers behind it."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, StrMethodFormatter

from pet_calc.evaluate.kept import KeptPredictions
from pet_calc.evaluate.metrics import DISPLAY_UNITS
from pet_calc.page import figures
from pet_calc.page.read import ReadRun

Reals = npt.NDArray[np.float64]

# more points than this are shown as a density
MOST_POINTS = 1500
AXES = {
    "energy": "energy without composition, eV/atom",
    "forces": "force component, eV/Å",
    "stress": "stress component, eV/Å³",
}
NAMES = {"energy": "Energies", "forces": "Forces", "stress": "Stress"}


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


@dataclass
class Compared:
    """Labels of a quantity, and what is predicted before and after, all known."""

    label: Reals
    after: Reals
    before: Reals | None
    """None where nothing was kept."""


def collect_pairs(
    quantity: str, after: KeptPredictions, before: KeptPredictions | None
) -> Compared | None:
    """Return what is known of a quantity, [n_values] each; None without any."""
    label = getattr(after, f"{quantity}_label").astype(np.float64).ravel()
    found = getattr(after, quantity).astype(np.float64).ravel()
    is_known = np.isfinite(label) & np.isfinite(found)
    if not is_known.any():
        return None
    earlier = None
    if before is not None and before.has_same_labels(after):
        earlier = getattr(before, quantity).astype(np.float64).ravel()[is_known]
    return Compared(label[is_known], found[is_known], earlier)


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
            _finish(axes, "epoch", f"validation MAE, {unit}", is_log=_is_wide(values))
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


def plot_parity(
    quantity: str, part: str, pairs: Compared, has_base: bool
) -> list[Plot]:
    """Return predictions over labels: one plot, or where points are many two."""
    names = (_name_before(has_base), _name_after(has_base))
    series = [(names[1], figures.AFTER, pairs.after)]
    if pairs.before is not None:
        series.insert(0, (names[0], figures.BEFORE, pairs.before))
    is_dense = len(pairs.label) > MOST_POINTS
    columns = {"label": pairs.label, **{name: v for name, _, v in series}}
    bounds = np.array([pairs.label.min(), pairs.label.max()])
    for _, _, values in series:
        bounds = np.array([min(bounds[0], values.min()), max(bounds[1], values.max())])
    margin = 0.04 * max(float(np.ptp(bounds)), 1e-6)
    limits = (float(bounds[0]) - margin, float(bounds[1]) + margin)

    def draw(shown: list[tuple[str, str, Reals]], ending: str) -> Plot:
        with figures.panel() as (figure, axes):
            axes.plot(limits, limits, color=figures.INK, linewidth=0.7, zorder=0)
            for name, colour, values in shown:
                if is_dense:
                    _draw_density(axes, pairs.label, values, colour, limits)
                else:
                    _draw_points(axes, pairs.label, values, colour, name)
            axes.set(xlim=limits, ylim=limits)
            if not is_dense and len(shown) > 1:
                axes.legend(loc="upper left", handletextpad=0.2)
            _finish(axes, f"label: {AXES[quantity]}", "prediction")
        of_whom = " and ".join(name for name, _, _ in shown)
        mae = np.abs(shown[-1][2] - pairs.label).mean()
        factor, unit = DISPLAY_UNITS[quantity]
        return Plot(
            f"parity_{quantity}_{part}{ending}",
            f"{NAMES[quantity]}, {part}: {of_whom}",
            f"Predicted over labelled {quantity} of the {part} set, {of_whom}: "
            f"{len(pairs.label)} values, mean absolute error "
            f"{factor * mae:.4g} {unit} ({shown[-1][0]}).",
            figure,
            columns,
        )

    if not is_dense:
        return [draw(series, "")]
    return [draw([entry], "_" + "ab"[i]) for i, entry in enumerate(series)]


def plot_errors(quantity: str, part: str, pairs: Compared, has_base: bool) -> Plot:
    """Return how errors are distributed, before and after."""
    factor, unit = DISPLAY_UNITS[quantity]
    unit = unit.replace("^3", "³")
    name = _name_after(has_base)
    series = [(name, figures.AFTER, "-", factor * (pairs.after - pairs.label))]
    if pairs.before is not None:
        errors = factor * (pairs.before - pairs.label)
        series.insert(0, (_name_before(has_base), figures.BEFORE, "--", errors))
    largest = max(np.quantile(np.abs(errors), 0.99) for *_, errors in series)
    n_bins = int(np.clip(2 * np.sqrt(len(pairs.label)), 8, 60))
    edges = np.linspace(-1.05, 1.05, n_bins + 1) * max(float(largest), 1e-9)
    columns: dict[str, Any] = {f"from ({unit})": edges[:-1], f"to ({unit})": edges[1:]}
    highest = 1
    with figures.panel() as (figure, axes):
        for name, colour, style, errors in series:
            counts, _ = np.histogram(errors, edges)
            axes.stairs(
                counts, edges, color=colour, linestyle=style, linewidth=1.4, label=name
            )
            columns[name] = counts
            highest = max(highest, int(counts.max()))
        axes.axvline(0, color=figures.INK, linewidth=0.5)
        if highest > 30:
            axes.set_yscale("symlog", linthresh=1)
            axes.yaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
            axes.set_ylim(0, 2.5 * highest)
        else:
            axes.yaxis.set_major_locator(MaxNLocator(5, integer=True))
            axes.set_ylim(0, 1.25 * highest)
        axes.legend(loc="upper right", handlelength=1.2)
        _finish(axes, f"error of {quantity}, {unit}", "values", keeps_scale=True)
    return Plot(
        f"errors_{quantity}_{part}",
        f"{NAMES[quantity]}, {part}: distribution of errors",
        f"Histogram of the errors of {quantity} on the {part} set, before and after.",
        figure,
        columns,
    )


def plot_by_size(
    part: str,
    after: KeptPredictions,
    before: KeptPredictions | None,
    has_base: bool,
) -> Plot | None:
    """Return mean errors of forces by the size of the labelled force."""
    sizes = np.linalg.norm(after.forces_label, axis=1)
    is_known = np.isfinite(sizes)
    if not is_known.any():
        return None
    edges = np.unique(np.quantile(sizes[is_known], np.linspace(0, 1, 13)))
    if len(edges) < 3:
        return None
    bins = np.clip(np.digitize(sizes, edges) - 1, 0, len(edges) - 2)

    def measure(kept: KeptPredictions) -> list[float]:
        errors = 1000 * np.abs(kept.forces - kept.forces_label).mean(axis=1)
        return [
            float(errors[is_known & (bins == i)].mean())
            if (is_known & (bins == i)).any()
            else float("nan")
            for i in range(len(edges) - 1)
        ]

    centres = [
        float(sizes[is_known & (bins == i)].mean())
        if (is_known & (bins == i)).any()
        else float("nan")
        for i in range(len(edges) - 1)
    ]
    columns: dict[str, Any] = {"|F| (eV/Å)": centres, "after (meV/Å)": measure(after)}
    with figures.panel() as (figure, axes):
        if before is not None and before.has_same_labels(after):
            columns["before (meV/Å)"] = measure(before)
            axes.plot(
                centres,
                columns["before (meV/Å)"],
                color=figures.BEFORE,
                linestyle="--",
                marker="x",
                label=_name_before(has_base),
            )
        axes.plot(
            centres,
            columns["after (meV/Å)"],
            color=figures.AFTER,
            marker="o",
            label=_name_after(has_base),
        )
        axes.set_ylim(bottom=0)
        axes.legend(loc="upper left", handlelength=1.6)
        _finish(axes, "size of the labelled force, eV/Å", "MAE, meV/Å")
    return Plot(
        f"size_{part}",
        f"Forces, {part}: error by size of the force",
        f"Mean absolute error of forces of the {part} set over the size of the force.",
        figure,
        columns,
    )


def plot_groups(table: dict[str, Any], kind: str, title: str) -> Plot | None:
    """Return the errors of forces (or else energies) of groups, before and after."""
    groups = [group for group in table.get("groups", []) if group["kind"] == kind]
    if len(groups) < 2:
        return None
    quantity = "forces" if "forces_mae" in groups[0]["errors"] else "energy"
    key = f"{quantity}_mae"
    factor, unit = DISPLAY_UNITS[quantity]
    shown = [group for group in groups if key in group["errors"]][:20]
    names = [_shorten(group["name"]) for group in shown]
    after = [factor * group["errors"][key] for group in shown]
    before = [factor * group.get("before", {}).get(key, np.nan) for group in shown]
    rows = np.arange(len(shown))[::-1]
    size = (figures.PANEL[0], max(1.4, 0.7 + 0.22 * len(shown)))
    with figures.panel(size) as (figure, axes):
        axes.hlines(rows, before, after, color=figures.INK, linewidth=0.6)
        axes.plot(before, rows, "x", color=figures.BEFORE, label="before")
        axes.plot(after, rows, "o", color=figures.AFTER, label="after")
        # names come from files: no formulas, see `Text.set_parse_math`
        axes.set_yticks(rows, names, parse_math=False)
        axes.set_xlim(left=0)
        axes.legend(
            loc="lower right", bbox_to_anchor=(1, 1), ncols=2, handletextpad=0.1
        )
        _finish(axes, f"MAE of {quantity}, {unit}", "", keeps_scale=True)
    return Plot(
        f"groups_{kind}_{table['set']}",
        f"{title}, {table['set']}",
        f"Mean absolute error of {quantity} by {title.lower()}, before and after.",
        figure,
        {"group": [g["name"] for g in shown], "before": before, "after": after},
    )


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
        axes.legend(loc="upper right")
        _finish(axes, "epoch", "loss", is_log=_is_wide(columns["training loss"]))
    columns["learning rate"] = rates
    label = "Training and validation loss, and the learning rate, by epoch."
    return Plot("curve_loss", "Loss and learning rate", label, figure, columns)


def _draw_points(
    axes: Axes, label: Reals, values: Reals, colour: str, name: str
) -> None:
    marker = "x" if colour == figures.BEFORE else "o"
    style: dict[str, Any] = {"marker": marker, "linestyle": "", "label": name}
    alpha = 0.8 if len(label) < 200 else 0.45
    axes.plot(label, values, color=colour, markersize=3, alpha=alpha, **style)


def _draw_density(
    axes: Axes,
    label: Reals,
    values: Reals,
    colour: str,
    limits: tuple[float, float],
) -> None:
    axes.hexbin(
        label,
        values,
        gridsize=44,
        bins="log",
        mincnt=1,
        extent=(*limits, *limits),
        cmap=figures.fade(colour),
        linewidths=0,
    )


def _mark_best(
    axes: Axes, best: int | None, epochs: list[int], values: list[float], start: float
) -> None:
    if best is None:
        return
    value = start if best == 0 else dict(zip(epochs, values, strict=True)).get(best)
    if value is not None:
        axes.plot([best], [value], "D", color=figures.THIRD, markersize=6)
        axes.annotate(
            f"best: epoch {best}",
            (best, value),
            textcoords="offset points",
            xytext=(-4, 8),
            ha="right" if best > epochs[-1] / 2 else "left",
            fontsize=8,
        )


def _finish(
    axes: Axes,
    x_label: str,
    y_label: str,
    *,
    is_log: bool = False,
    keeps_scale: bool = False,
) -> None:
    axes.set_xlabel(x_label)
    axes.set_ylabel(y_label)
    axes.grid(color=figures.INK, alpha=0.12, linewidth=0.6)
    axes.set_axisbelow(True)
    if is_log:
        axes.set_yscale("log")
    if x_label == "epoch":
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    elif not keeps_scale:
        axes.xaxis.set_major_locator(MaxNLocator(5))


def _is_wide(values: list[float]) -> bool:
    known = [v for v in values if np.isfinite(v) and v > 0]
    return len(known) > 1 and max(known) > 20 * min(known)


def _name_before(has_base: bool) -> str:
    return "base" if has_base else "before training"


def _name_after(has_base: bool) -> str:
    return "fine-tuned" if has_base else "trained"


def _shorten(name: str) -> str:
    shown = "".join(c if c.isprintable() else "�" for c in name)
    return shown if len(shown) <= 28 else f"…{shown[-27:]}"
