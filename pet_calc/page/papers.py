"""Figures of a run for papers, and the data behind each as CSV."""

import csv
import io
from collections.abc import Sequence
from itertools import zip_longest
from pathlib import Path

from pet_calc.errors import ConfigError
from pet_calc.page import figures
from pet_calc.page.build import plot_run
from pet_calc.page.plots import Plot
from pet_calc.page.read import read_run
from pet_calc.system.atomic import write_text_atomically


def draw_figures(
    folder: str | Path,
    output: str | Path,
    formats: Sequence[str],
    *,
    style: str | Path | None = None,
) -> list[Path]:
    """Write each plot of a run in some formats; return the files.

    Args:
        folder: of the run.
        output: folder for the files, made if it is not there.
        formats: endings that matplotlib knows, such as ``pdf``.
        style: matplotlib's style file, on top of ours.

    Raises:
        ConfigError: if there is no run in the folder, or nothing to draw yet, or the
            style file makes no sense.
    """
    run, output = read_run(folder), Path(output)
    with figures.extra_style(style):
        plots = plot_run(run)
        if not plots:
            raise ConfigError(
                f"{folder}: nothing to draw yet, the run has finished no epoch"
            )
        output.mkdir(parents=True, exist_ok=True)
        written = []
        for plot in plots:
            for ending in formats:
                path = output / f"{plot.name}.{ending}"
                figures.save(plot.figure, path)
                written.append(path)
            path = output / f"{plot.name}.csv"
            write_text_atomically(path, render_csv(plot))
            written.append(path)
    return written


def render_csv(plot: Plot) -> str:
    """Return the numbers behind a plot."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(plot.columns)
    writer.writerows(zip_longest(*plot.columns.values(), fillvalue=""))
    return text.getvalue()
