"""Build the page of a run: one HTML file that needs nothing but itself."""

import logging
from dataclasses import dataclass
from functools import lru_cache
from importlib.resources import files
from pathlib import Path
from typing import Any

import jinja2

from pet_calc.evaluate.kept import KeptPredictions
from pet_calc.page import figures, parity, plots, tables, viewer
from pet_calc.page.plots import Plot
from pet_calc.page.progress import add_progress
from pet_calc.page.read import FURTHER, ReadRun, read_run
from pet_calc.page.trust import list_trust, plot_trust
from pet_calc.page.verdict import headline, judge, list_next_steps
from pet_calc.system.atomic import write_text_atomically

logger = logging.getLogger(__name__)

PAGE_NAME = "report.html"
QUANTITIES = ("energy", "forces", "stress")


@dataclass(frozen=True)
class Figure:
    """A plot as the page takes it."""

    svg: jinja2.utils.markupsafe.Markup
    title: str
    caption: str


@dataclass(frozen=True)
class Part:
    """The plots of a set and a target."""

    name: str
    title: str
    note: str
    figures: list[Figure]


def write_page(folder: str | Path) -> Path:
    """Write ``report.html`` into the folder of a run, from what it has left there.

    Args:
        folder: of a run that has ended, was interrupted, or is still going on.

    Returns:
        The page's path.

    Raises:
        ConfigError: if there is no run in the folder.
        DataError: if its predictions cannot be read.
    """
    run = read_run(folder)
    path = run.folder / PAGE_NAME
    write_text_atomically(path, render_page(run))
    return path


def render_page(run: ReadRun) -> str:
    """Return the page of a run as HTML."""
    if not run.is_ended:
        add_progress(run)
    shown = viewer.build_viewer(run.after.viewed)
    return load_template("page.html.jinja").render(
        css=read_text("page.css"),
        run=run,
        headline=headline(run),
        verdict=judge(run),
        warnings=run.facts.get("warnings", []),
        errors=tables.list_errors(run),
        curves=[to_figure(plot) for plot in plots.plot_curves(run)],
        parts=_build_parts(run),
        groups=tables.list_groups(run),
        group_figures=_build_group_figures(run),
        worst=tables.list_worst(run),
        pictures=[to_figure(p) for p in viewer.plot_worst(run.after.viewed)],
        viewer=shown,
        install=viewer.INSTALL,
        trust=list_trust(run),
        trust_figures=[to_figure(plot) for plot in plot_trust(run)],
        census=tables.list_census(run),
        model_tables=[
            table
            for table in (
                *tables.list_composition(run),
                tables.list_parameters(run),
                tables.list_origins(run),
            )
            if table is not None
        ],
        options=run.options,
        steps=list_next_steps(run),
    )


def load_template(name: str) -> jinja2.Template:
    """Return a template of the package."""
    return _build_environment().get_template(name)


def plot_run(run: ReadRun) -> list[Plot]:
    """Return every plot of a run, with the numbers behind each."""
    found = plots.plot_curves(run)
    for part, target in run.after.predictions:
        found += _plot_part(run, part, target)
    return [*found, *_plot_groups(run), *plot_trust(run)]


def _build_parts(run: ReadRun) -> list[Part]:
    found = []
    keys = sorted(run.after.predictions, key=lambda key: tables.PARTS.index(key[0]))
    several = len({target for _, target in keys}) > 1
    for part, target in keys:
        of_set = run.after.parts[part]
        n_kept = len(run.after.predictions[part, target].index)
        note = f"{n_kept:,} frame{'s' if n_kept != 1 else ''}."
        if n_kept < of_set.n_frames:
            note = (
                f"{n_kept:,} of {of_set.n_frames:,} frames, evenly spread; errors in "
                "tables of whole sets are of all frames."
            )
        if part == FURTHER:
            note += f" {describe_further(run)}"
        title = f"{part.capitalize()} set{f', {target}' if several else ''}"
        own = _plot_part(run, part, target)
        if any(plot.is_density for plot in own):
            note += " Densities have a logarithmic scale."
        shown = [to_figure(plot) for plot in own]
        found.append(Part(part, title, note, shown))
    return found


def describe_further(run: ReadRun) -> str:
    """Return where further frames are from, and why the base is not judged by them."""
    found = run.report[FURTHER]
    text = f"Read from {', '.join(found['files'])}."
    if found["why_no_base"]:
        text += f" Without the base: {found['why_no_base']}."
    return text


def _plot_part(run: ReadRun, part: str, target: str) -> list[Plot]:
    """Return the plots of a set; of the training set the parities alone."""
    after = run.after.predictions[part, target]
    before: KeptPredictions | None = run.before.predictions.get((part, target))
    name = part if target == run.target else f"{part}_{target.replace('/', '-')}"
    found = []
    for quantity in QUANTITIES:
        pairs = parity.collect_pairs(quantity, after, before)
        if pairs is None:
            continue
        found += parity.plot_parity(quantity, name, pairs, run.has_base)
        if part != "train":
            found.append(parity.plot_errors(quantity, name, pairs, run.has_base))
    by_size = parity.plot_by_size(name, after, before, run.has_base)
    return [*found, by_size] if by_size is not None and part != "train" else found


def _plot_groups(run: ReadRun) -> list[Plot]:
    found = []
    for part in tables.list_judged(run):
        for kind, title in tables.KINDS.items():
            if kind != "force":
                plot = plots.plot_groups(run.table(part), kind, title)
                found += [plot] if plot is not None else []
    return found


def _build_group_figures(run: ReadRun) -> list[Figure]:
    return [to_figure(plot) for plot in _plot_groups(run)]


def to_figure(plot: Plot) -> Figure:
    """Return a plot as a page takes it."""
    svg = figures.to_svg(plot.figure, plot.label, plot.name)
    return Figure(jinja2.utils.markupsafe.Markup(svg), plot.title, plot.label)


@lru_cache(maxsize=1)
def _build_environment() -> jinja2.Environment:
    """Return the templates of the package; all that they are given is escaped."""
    return jinja2.Environment(
        loader=jinja2.PackageLoader("pet_calc.page", "."),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def read_text(name: str) -> Any:
    """Return a file that lies beside this one."""
    return (files("pet_calc.page") / name).read_text(encoding="utf-8")
