"""Runs side by side: what they cost, and how wrong they are on the same frames."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pet_calc.errors import ConfigError
from pet_calc.evaluate.metrics import DISPLAY_UNITS
from pet_calc.page import figures
from pet_calc.page.parity import Series, collect_pairs, draw_parity, find_limits
from pet_calc.page.plots import Plot, shorten
from pet_calc.page.read import FURTHER, ReadRun, read_run
from pet_calc.page.tables import Cell, Table
from pet_calc.page.words import format_number
from pet_calc.system.atomic import write_text_atomically

QUANTITIES = ("energy", "forces", "stress")
PARTS = ("test", FURTHER, "validation")
# runs, and sets of plots of predictions over labels
MOST_PARITIES = 8
_COLOURS = (figures.AFTER, figures.BEFORE, figures.THIRD, figures.INK)
_STYLES = ("-", "--", ":", "-.")


@dataclass
class RunComparison:
    """Runs and what can be said of them together."""

    runs: list[ReadRun]
    names: list[str]
    """Of the folders, made different where they are the same."""
    differences: dict[str, list[str]]
    """By set: runs that were judged by other frames, or labels, than the first that
    has such a set."""

    @property
    def notes(self) -> list[str]:
        """What forbids to compare errors."""
        return [
            f"{', '.join(names)}: judged by another {part} set than "
            f"{self.reference(part)}; errors of the {part} set must not be compared "
            "between them"
            for part, names in self.differences.items()
            if names
        ]

    def reference(self, part: str) -> str:
        """Return the first run that was judged by such a set."""
        return next(name for name, _ in self.having(part))

    def having(self, part: str) -> list[tuple[str, ReadRun]]:
        """Return the runs that were judged by such a set."""
        pairs = zip(self.names, self.runs, strict=True)
        return [(n, run) for n, run in pairs if run.errors(part, is_before=False)]

    def comparable(self, part: str) -> list[tuple[str, ReadRun]]:
        """Return the runs that were judged by the same frames as the first of them."""
        others = self.differences.get(part, [])
        return [(name, run) for name, run in self.having(part) if name not in others]


def compare_runs(folders: Sequence[str | Path]) -> RunComparison:
    """Read runs, and find out which were judged by the same frames.

    Raises:
        ConfigError: for fewer than two, or one that has not ended.
    """
    if len(folders) < 2:
        raise ConfigError(f"expected two or more runs to compare, got {len(folders)}")
    runs = [read_run(folder) for folder in folders]
    for run in runs:
        if not run.is_ended:
            raise ConfigError(f"{run.folder}: has not ended; compare it when it has")
    comparison = RunComparison(runs, name_apart([run.folder for run in runs]), {})
    for part in PARTS:
        having = comparison.having(part)
        if having:
            comparison.differences[part] = [
                name
                for name, run in having[1:]
                if not _has_same_frames(having[0][1], run, part)
            ]
    return comparison


def name_apart(folders: Sequence[Path]) -> list[str]:
    """Return the ends of paths, as many parts of each as tell all apart."""
    parts = [folder.absolute().parts for folder in folders]
    names: list[str] = []
    for n in range(1, max(len(each) for each in parts) + 1):
        names = ["/".join(each[-n:]) for each in parts]
        if len(set(names)) == len(names):
            return names
    # the same folder twice
    return [f"{name} ({i + 1})" for i, name in enumerate(names)]


def tabulate(comparison: RunComparison) -> Table:
    """Return a row for each run: method, cost, errors."""
    columns = [
        (part, name)
        for part in PARTS
        for name in QUANTITIES
        if any(
            f"{name}_mae" in run.errors(part, is_before=False)
            for run in comparison.runs
        )
    ]
    head = ["run", "method", "base", "target", "trained", "frames", "epochs", "s"]
    for part, name in columns:
        head.append(f"{part} {name} MAE, {DISPLAY_UNITS[name][1].replace('^3', '³')}")
    rows = []
    for run, run_name in zip(comparison.runs, comparison.names, strict=True):
        report = run.report
        row = [
            Cell(run_name),
            Cell(report["method"]),
            Cell(Path(run.provenance.get("base") or "-").name),
            Cell(report["target"]),
            Cell(f"{report.get('n_trainable', 0):,}"),
            Cell(str(run.provenance.get("n_frames", {}).get("train", "-"))),
            Cell(str(len(run.rows))),
            Cell(f"{report['seconds']:.0f}"),
        ]
        for part, name in columns:
            error = run.errors(part, is_before=False).get(f"{name}_mae")
            factor = DISPLAY_UNITS[name][0]
            is_other = run_name in comparison.differences.get(part, [])
            mark = " *" if is_other else ""
            if error is None:
                row.append(Cell("-"))
            else:
                row.append(Cell(format_number(factor * error) + mark, error))
        rows.append(row)
    note = "* Of other frames than those of the first run." if comparison.notes else ""
    return Table("Runs", head, rows, note)


def format_table(table: Table) -> str:
    """Return a table as text."""
    rows = [table.head, *([cell.text for cell in row] for row in table.rows)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(
            text.ljust(width) for text, width in zip(row, widths, strict=True)
        ).rstrip()
        for row in rows
    )


def plot_comparison(comparison: RunComparison) -> list[Plot]:
    """Return validation errors by epoch, and errors over cost, of comparable runs."""
    plots = [_plot_curve(comparison, name) for name in QUANTITIES]
    plots += [_plot_cost(comparison, name) for name in QUANTITIES]
    return [plot for plot in plots if plot is not None]


def plot_parities(comparison: RunComparison) -> list[Plot]:
    """Return each run's predictions over labels, on the axes of all comparable runs.

    Of the test set, or where there is none of the first other one.
    """
    part = next(part for part in PARTS if part in comparison.differences)
    plots = []
    for quantity in QUANTITIES:
        found = []
        for name, run in comparison.comparable(part)[:MOST_PARITIES]:
            kept = run.after.predictions.get((part, run.target))
            pairs = None if kept is None else collect_pairs(quantity, kept, None)
            if pairs is not None:
                found.append((name, pairs))
        if not found:
            continue
        limits = find_limits(
            [values for _, pairs in found for values in (pairs.label, pairs.after)]
        )
        for i, (name, pairs) in enumerate(found):
            series = Series(name, _COLOURS[i % len(_COLOURS)], pairs.after)
            plot_name = f"compare_parity_{quantity}_{i}"
            plots.append(
                draw_parity(quantity, part, plot_name, pairs.label, [series], limits)
            )
    return plots


def write_comparison(comparison: RunComparison, path: str | Path) -> None:
    """Write the page of a comparison."""
    from pet_calc.page.build import load_template, read_text, to_figure

    html = load_template("compare.html.jinja").render(
        css=read_text("page.css"),
        names=comparison.names,
        notes=comparison.notes,
        table=tabulate(comparison),
        figures=[to_figure(plot) for plot in plot_comparison(comparison)],
        parities=[to_figure(plot) for plot in plot_parities(comparison)],
    )
    write_text_atomically(path, html)


def _has_same_frames(one: ReadRun, other: ReadRun, part: str) -> bool:
    """Return whether two runs were judged by the same frames with the same labels."""
    mine, theirs = (
        run.after.predictions.get((part, run.target)) for run in (one, other)
    )
    if mine is None or theirs is None:
        return False
    same = ("index", "n_atoms", "numbers", "forces_label", "stress_label")
    sizes = [run.after.parts[part].n_frames for run in (one, other)]
    # energies lack each run's own energies per element
    return sizes[0] == sizes[1] and all(
        np.array_equal(a, b, equal_nan=a.dtype.kind == "f")
        for name in same
        for a, b in [(getattr(mine, name), getattr(theirs, name))]
    )


def _plot_curve(comparison: RunComparison, quantity: str) -> Plot | None:
    key = f"val_{quantity}_mae"
    shown = [
        (name, run)
        for name, run in comparison.comparable("validation")
        if run.rows and key in run.rows[0]
    ]
    if not shown:
        return None
    factor, unit = DISPLAY_UNITS[quantity]
    unit = unit.replace("^3", "³")
    columns: dict[str, Any] = {}
    with figures.panel() as (figure, axes):
        for i, (name, run) in enumerate(shown):
            epochs = [row["epoch"] for row in run.rows]
            values = [factor * row[key] for row in run.rows]
            axes.plot(
                epochs,
                values,
                _STYLES[i // len(_COLOURS) % len(_STYLES)],
                color=_COLOURS[i % len(_COLOURS)],
                marker=".",
            )
            # beside its end, so that colours need not be told apart
            axes.annotate(
                f" {shorten(name, 18)}",
                (epochs[-1], values[-1]),
                fontsize=7,
                parse_math=False,
                annotation_clip=False,
            )
            columns |= {f"{name}: epoch": epochs, f"{name}: MAE ({unit})": values}
        axes.set_yscale("log")
        axes.set_xlabel("epoch")
        axes.set_ylabel(f"validation MAE, {unit}")
    title = f"Validation error of {quantity}"
    label = f"{title} by epoch: {', '.join(name for name, _ in shown)}."
    return Plot(f"compare_curve_{quantity}", title, label, figure, columns)


def _plot_cost(comparison: RunComparison, quantity: str) -> Plot | None:
    key = f"{quantity}_mae"
    part = next(part for part in PARTS if part in comparison.differences)
    shown = [
        (name, run.report["seconds"], run.errors(part, is_before=False)[key])
        for name, run in comparison.comparable(part)
        if key in run.errors(part, is_before=False)
    ]
    if len(shown) < 2:
        return None
    factor, unit = DISPLAY_UNITS[quantity]
    unit = unit.replace("^3", "³")
    errors = [factor * error for _, _, error in shown]
    seconds = [value for _, value, _ in shown]
    with figures.panel() as (figure, axes):
        axes.plot(seconds, errors, "o", color=figures.AFTER)
        for (name, x, _), y in zip(shown, errors, strict=True):
            axes.annotate(
                f" {shorten(name, 18)}",
                (x, y),
                fontsize=7,
                parse_math=False,
                annotation_clip=False,
            )
        axes.set_xlim(left=0)
        axes.set_ylim(bottom=0)
        axes.set_xlabel("seconds of training")
        axes.set_ylabel(f"{part} MAE, {unit}")
    title = f"Cost and {part} error of {quantity}"
    columns = {
        "run": [name for name, _, _ in shown],
        "seconds": seconds,
        f"MAE ({unit})": errors,
    }
    return Plot(f"compare_cost_{quantity}", title, f"{title}.", figure, columns)
