"""Draw the curves of dimers, those nearest to a hole first."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pet_calc.errors import ConfigError
from pet_calc.page.figures import AFTER, BEFORE, INK, STYLE, save
from pet_calc.validate.limits import WALL
from pet_calc.validate.walls import COMPRESSED, Curve

FORMATS = (".pdf", ".png", ".svg")
MOST_PANELS = 24
_N_COLUMNS = 4


def check_format(path: str | Path) -> None:
    """Raise ``ConfigError`` for a file that no figure can be written to."""
    if Path(path).suffix.lower() not in FORMATS:
        raise ConfigError(
            f"{path}: expected a figure that ends in {', '.join(FORMATS)}"
        )


def save_curves(curves: Sequence[Curve], path: str | Path) -> int:
    """Write a figure with a panel for each pair; return how many there are."""
    check_format(path)
    figure = plot_curves(curves)
    save(figure, path)
    return len(figure.axes)


def plot_curves(curves: Sequence[Curve]) -> Figure:
    """Return a figure with a panel for each of the first pairs."""
    shown = curves[:MOST_PANELS]
    n_columns = min(_N_COLUMNS, len(shown))
    n_rows = -(-len(shown) // n_columns)
    with rc_context(STYLE):
        size = (2.2 * n_columns + 0.3, 1.7 * n_rows + 0.3)
        figure = Figure(figsize=size, layout="constrained")
        for i, curve in enumerate(shown):
            _plot(figure.add_subplot(n_rows, n_columns, i + 1), curve)
        figure.supxlabel("distance / Å", size=9)
        figure.supylabel("energy / eV", size=9)
    return figure


def _plot(axes: Axes, curve: Curve) -> None:
    """Draw a pair; its wall is marked, and where bonds end."""
    wall = curve.wall
    axes.axvspan(
        float(curve.distances[0]), COMPRESSED * curve.bond, color=INK, alpha=0.08, lw=0
    )
    axes.axhline(0.0, color=INK, lw=0.5)
    axes.plot(curve.distances, curve.energies, color=AFTER)
    top = float(np.interp(wall.place, curve.distances, curve.energies))
    marker = "v" if wall.is_hole else "o"
    axes.plot([wall.place], [top], marker, color=BEFORE, ms=6)
    # far below, a hole is only a hole
    near = curve.energies[curve.distances >= COMPRESSED * curve.bond]
    lowest = min(0.0, float(np.nanmin(near)))
    axes.set_ylim(lowest - 3.0, max(lowest, 0.0) + 1.3 * WALL)
    height = f"{wall.height:.1f}" if wall.height < WALL else f"> {WALL:g}"
    axes.set_title(f"{curve.name}: {height} eV")
