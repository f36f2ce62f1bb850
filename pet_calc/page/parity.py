"""The plots of predictions over labels, and of errors, of a set."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator, StrMethodFormatter

from pet_calc.evaluate.kept import KeptPredictions
from pet_calc.evaluate.metrics import DISPLAY_UNITS
from pet_calc.page import figures
from pet_calc.page.plots import NAMES, Plot, finish, name_after, name_before

Reals = npt.NDArray[np.float64]

# More points than this are shown as a density. At 1,500 the middle of a plot is ink
# already, and the model drawn last hides the other one. Nor do more fit in: with
# two models a point takes 0.13 kB, a page has nine such plots, and 20,000 points in
# each would be 22 MB of the 5 that it may have.
MOST_POINTS = 1500
# atoms, for the mean error of forces of some size
LEAST_IN_BIN = 8
AXES = {
    "energy": "energy without composition, eV/atom",
    "forces": "force component, eV/Å",
    "stress": "stress component, eV/Å³",
}


@dataclass
class Compared:
    """Labels of a quantity, and what is predicted before and after, all known."""

    label: Reals
    after: Reals
    before: Reals | None
    """None where nothing was kept."""


class Series(NamedTuple):
    """Predictions of a model, [n_values]."""

    name: str
    colour: str
    values: Reals


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


def plot_parity(
    quantity: str, part: str, pairs: Compared, has_base: bool
) -> list[Plot]:
    """Return predictions over labels: one plot, or where points are many two."""
    series = [Series(name_after(has_base), figures.AFTER, pairs.after)]
    if pairs.before is not None:
        before = Series(name_before(has_base), figures.BEFORE, pairs.before)
        series.insert(0, before)
    limits = find_limits([pairs.label, *(each.values for each in series)])
    name = f"parity_{quantity}_{part}"
    if len(pairs.label) <= MOST_POINTS:
        return [draw_parity(quantity, part, name, pairs.label, series, limits)]
    return [
        draw_parity(quantity, part, f"{name}_{'ab'[i]}", pairs.label, [entry], limits)
        for i, entry in enumerate(series)
    ]


def find_limits(values: Sequence[Reals]) -> tuple[float, float]:
    """Return limits of both axes between which all values are."""
    low = min(float(each.min()) for each in values)
    high = max(float(each.max()) for each in values)
    margin = 0.04 * max(high - low, 1e-6)
    return low - margin, high + margin


def draw_parity(
    quantity: str,
    part: str,
    name: str,
    label: Reals,
    series: Sequence[Series],
    limits: tuple[float, float],
) -> Plot:
    """Return predictions of one or more models over labels, points or a density.

    Args:
        quantity: ``energy``, ``forces`` or ``stress``.
        part: the set.
        name: of the plot.
        label: [n_values].
        series: predictions; of a density one alone can be seen.
        limits: of both axes.
    """
    is_dense = len(label) > MOST_POINTS
    with figures.panel() as (figure, axes):
        axes.plot(limits, limits, color=figures.INK, linewidth=0.7, zorder=0)
        for each in series:
            if is_dense:
                _draw_density(axes, label, each.values, each.colour, limits)
            else:
                _draw_points(axes, label, each)
        axes.set(xlim=limits, ylim=limits)
        if not is_dense and len(series) > 1:
            axes.legend(loc="upper left", handletextpad=0.2)
        finish(axes, f"label: {AXES[quantity]}", "prediction")
    of_whom = " and ".join(each.name for each in series)
    mae = np.abs(series[-1].values - label).mean()
    factor, unit = DISPLAY_UNITS[quantity]
    return Plot(
        name,
        f"{NAMES[quantity]}, {part}: {of_whom}",
        f"Predicted over labelled {quantity} of the {part} set, {of_whom}: "
        f"{len(label)} values, mean absolute error "
        f"{factor * mae:.4g} {unit} ({series[-1].name}).",
        figure,
        {"label": label, **{each.name: each.values for each in series}},
        is_dense,
    )


def plot_errors(quantity: str, part: str, pairs: Compared, has_base: bool) -> Plot:
    """Return how errors are distributed, before and after."""
    factor, unit = DISPLAY_UNITS[quantity]
    unit = unit.replace("^3", "³")
    name = name_after(has_base)
    series = [(name, figures.AFTER, "-", factor * (pairs.after - pairs.label))]
    if pairs.before is not None:
        errors = factor * (pairs.before - pairs.label)
        series.insert(0, (name_before(has_base), figures.BEFORE, "--", errors))
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
        finish(axes, f"error of {quantity}, {unit}", "values", keeps_scale=True)
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
    # fewer atoms in a bin would show chance
    n_bins = min(12, int(is_known.sum()) // LEAST_IN_BIN)
    if n_bins < 2:
        return None
    edges = np.unique(np.quantile(sizes[is_known], np.linspace(0, 1, n_bins + 1)))
    places = np.clip(np.digitize(sizes, edges) - 1, 0, max(len(edges) - 2, 0))
    bins = [is_known & (places == i) for i in range(len(edges) - 1)]
    bins = [chosen for chosen in bins if chosen.any()]
    if len(bins) < 2:
        return None

    def measure(kept: KeptPredictions) -> list[float]:
        errors = 1000 * np.abs(kept.forces - kept.forces_label).mean(axis=1)
        return [float(errors[chosen].mean()) for chosen in bins]

    centres = [float(sizes[chosen].mean()) for chosen in bins]
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
                label=name_before(has_base),
            )
        axes.plot(
            centres,
            columns["after (meV/Å)"],
            color=figures.AFTER,
            marker="o",
            label=name_after(has_base),
        )
        # room for the legend
        axes.set_ylim(0, 1.3 * axes.get_ylim()[1])
        axes.legend(loc="upper left", handlelength=1.6, ncols=2)
        finish(axes, "size of the labelled force, eV/Å", "MAE, meV/Å")
    return Plot(
        f"size_{part}",
        f"Forces, {part}: error by size of the force",
        f"Mean absolute error of forces of the {part} set over the size of the force.",
        figure,
        columns,
    )


def _draw_points(axes: Axes, label: Reals, series: Series) -> None:
    marker = "x" if series.colour == figures.BEFORE else "o"
    style: dict[str, Any] = {"marker": marker, "linestyle": "", "label": series.name}
    alpha = 0.8 if len(label) < 200 else 0.45
    axes.plot(
        label, series.values, color=series.colour, markersize=3, alpha=alpha, **style
    )


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
