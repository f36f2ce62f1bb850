"""The page of a check of data: what is odd, the frames to look at, what there is."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms

from pet_calc.check.finding import Finding
from pet_calc.check.run import CheckReport
from pet_calc.data.census import LabelCensus
from pet_calc.data.frames import LabeledFrame
from pet_calc.page import figures, viewer
from pet_calc.page.plots import Plot, finish
from pet_calc.page.tables import Cell, Table, tabulate_census
from pet_calc.page.viewer import Viewer, of_frames
from pet_calc.page.words import format_number
from pet_calc.system.atomic import write_text_atomically

N_PICTURES, MOST_ATOMS = 6, 400
# frames in the viewer, and atoms in one of them
MOST_VIEWED, MOST_VIEWED_ATOMS = 200, 1000


def write_check(
    path: str | Path,
    census: LabelCensus,
    report: CheckReport,
    frames: Sequence[LabeledFrame],
    files: Sequence[str],
) -> None:
    """Write the page of a check.

    Args:
        path: of the page.
        census: of the training set.
        report: what was found.
        frames: of all sets, as far as they were looked at.
        files: of the training set, for the title.
    """
    from pet_calc.page.build import load_template, read_text, to_figure

    concerned = pick_concerned(report.findings, frames)
    html = load_template("data.html.jinja").render(
        css=read_text("page.css"),
        files=files,
        headline=headline(report),
        findings=report.findings,
        base=[*_describe_base(report)],
        census=tabulate_census({"data": dict(vars(census))}, "Frames and labels"),
        unused=census.unused_keys,
        notes=[f"{n} x {note} (first: {at})" for note, (n, at) in census.notes.items()],
        plots=[to_figure(plot) for plot in plot_data(frames)],
        concerned=tabulate_concerned(concerned),
        pictures=[to_figure(plot) for plot in draw_concerned(concerned)],
        viewer=build_viewer(concerned),
        install=viewer.INSTALL,
    )
    write_text_atomically(path, html)


def headline(report: CheckReport) -> str:
    """Return what was found in one line."""
    counts = {"error": 0, "warning": 0, "note": 0}
    for finding in report.findings:
        counts[finding.severity] += 1
    if not report.findings:
        return "Nothing odd was found"
    listed = ", ".join(
        f"{n} {name}{'s' if n > 1 else ''}" for name, n in counts.items() if n
    )
    if counts["error"]:
        return f"Do not train on this yet: {listed}"
    return f"{'Look at this first' if counts['warning'] else 'Good to train'}: {listed}"


def pick_concerned(
    findings: Iterable[Finding], frames: Sequence[LabeledFrame]
) -> list[tuple[LabeledFrame, list[str]]]:
    """Return each frame that findings are about, and their codes, gravest first."""
    by_source = {frame.source: frame for frame in frames}
    codes: dict[str, list[str]] = {}
    for finding in findings:
        for source in finding.frames:
            if source in by_source:
                codes.setdefault(source, []).append(finding.code)
    return [(by_source[source], found) for source, found in codes.items()]


def tabulate_concerned(
    concerned: Sequence[tuple[LabeledFrame, list[str]]],
) -> Table | None:
    """Return a row for each frame that is to be looked at."""
    if not concerned:
        return None
    rows = []
    for frame, codes in concerned:
        largest = find_largest_force(frame)
        energy = None if frame.energy is None else frame.energy / frame.n_atoms
        rows.append(
            [
                Cell(frame.source),
                Cell(", ".join(codes)),
                Cell(frame.config_type or "-"),
                Cell(str(frame.n_atoms)),
                Cell("-") if energy is None else Cell(f"{energy:.4f}", energy),
                Cell("-") if largest is None else Cell(format_number(largest), largest),
            ]
        )
    head = [
        "frame",
        "findings",
        "config_type",
        "atoms",
        "energy, eV/atom",
        "largest force, eV/Å",
    ]
    note = "Of each finding the first frames; the findings say how many there are."
    return Table("Frames to look at", head, rows, note)


def draw_concerned(
    concerned: Sequence[tuple[LabeledFrame, list[str]]],
) -> list[Plot]:
    """Return pictures of the first frames, small ones only."""
    small = [entry for entry in concerned if entry[0].n_atoms <= MOST_ATOMS]
    plots = []
    for i, (frame, codes) in enumerate(small[:N_PICTURES]):
        title = f"{Path(frame.source).name}: {', '.join(codes)}"
        label = f"Atoms of {frame.source}"
        atoms = _bare_atoms(frame)
        plots.append(viewer.draw_atoms(atoms, f"frame_{i}", title, label))
    return plots


def build_viewer(
    concerned: Sequence[tuple[LabeledFrame, list[str]]],
) -> Viewer | None:
    """Return the viewer of the frames, None without any or without chemiscope."""
    shown = [entry for entry in concerned if entry[0].n_atoms <= MOST_VIEWED_ATOMS]
    shown = shown[:MOST_VIEWED]
    if not shown:
        return None
    frames = [frame for frame, _ in shown]
    forces = [
        np.full((f.n_atoms, 3), np.nan) if f.forces is None else np.asarray(f.forces)
        for f in frames
    ]
    sizes = np.linalg.norm(np.concatenate(forces), axis=1)
    has_forces = bool(np.isfinite(sizes).any())
    properties = {
        "number": of_frames(range(1, len(frames) + 1)),
        "energy": of_frames(
            [np.nan if f.energy is None else f.energy / f.n_atoms for f in frames],
            "eV/atom",
        ),
        "atoms": of_frames([f.n_atoms for f in frames]),
        "finding": of_frames([codes[0] for _, codes in shown]),
        "frame": of_frames([Path(f.source).name for f in frames]),
    }
    structure: dict[str, Any] = {"unitCell": True, "keepOrientation": True}
    shapes = None
    if has_forces:
        largest = [find_largest_force(f) or 0.0 for f in frames]
        properties["largest force"] = of_frames(largest, "eV/Å")
        properties["force on the atom"] = {
            "target": "atom",
            "values": [viewer.round_value(size) for size in sizes],
            "units": "eV/Å",
        }
        arrows = viewer.build_arrows(np.concatenate(forces), figures.AFTER, 0.08)
        shapes = {"labelled forces": arrows}
        structure["shape"] = "labelled forces"
    settings = {
        "target": "structure",
        "map": {
            "x": {"property": "number"},
            "y": {"property": "largest force" if has_forces else "energy"},
            "color": {"property": "atoms"},
            "symbol": "finding",
            "palette": "viridis",
        },
        "structure": [structure],
    }
    bare = [_bare_atoms(frame) for frame in frames]
    return viewer.pack_viewer(
        bare, properties, shapes, settings, name="frames of findings"
    )


def plot_data(frames: Sequence[LabeledFrame]) -> list[Plot]:
    """Return how large forces are, and the energies of the frames in their order."""
    plots = []
    norms = [
        np.linalg.norm(np.asarray(f.forces), axis=1)
        for f in frames
        if f.forces is not None
    ]
    if norms:
        plots.append(_plot_forces(np.concatenate(norms)))
    known = [
        (i, f.energy / f.n_atoms) for i, f in enumerate(frames) if f.energy is not None
    ]
    if len(known) > 1:
        plots.append(_plot_energies(known))
    return plots


def find_largest_force(frame: LabeledFrame) -> float | None:
    """Return the largest norm of a force, eV/Å, None without forces."""
    if frame.forces is None:
        return None
    return float(np.linalg.norm(np.asarray(frame.forces), axis=1).max())


def _plot_forces(norms: Any) -> Plot:
    largest = max(float(norms.max()), 1e-6)
    edges = np.linspace(0, largest, 41)
    counts, _ = np.histogram(norms, edges)
    with figures.panel() as (figure, axes):
        axes.stairs(counts, edges, color=figures.AFTER, fill=True, alpha=0.6)
        axes.set_yscale("symlog", linthresh=1)
        finish(axes, "size of the labelled force, eV/Å", "atoms", keeps_scale=True)
    columns = {"from (eV/Å)": edges[:-1], "to (eV/Å)": edges[1:], "atoms": counts}
    label = f"Histogram of {len(norms)} forces, the largest {largest:.3g} eV/Å."
    return Plot("data_forces", "Sizes of forces", label, figure, columns)


def _plot_energies(known: Sequence[tuple[int, float]]) -> Plot:
    places, energies = (list(values) for values in zip(*known, strict=True))
    with figures.panel() as (figure, axes):
        # thousands of vectors in a page would take seconds to draw
        axes.plot(
            places,
            energies,
            ".",
            color=figures.AFTER,
            markersize=3,
            rasterized=len(places) > 2000,
        )
        finish(axes, "frame, in the order of the files", "energy, eV/atom")
    label = f"Energies per atom of {len(places)} frames in the order of the files."
    columns = {"frame": places, "energy (eV/atom)": energies}
    return Plot(
        "data_energies", "Energies, in the order of frames", label, figure, columns
    )


def _describe_base(report: CheckReport) -> Iterable[str]:
    if report.work is not None:
        yield f"Energy against the work of forces: {report.work.to_text()}"
    for file, comparison in report.comparisons.items():
        where = f"{file}: " if len(report.comparisons) > 1 else ""
        for line in comparison.to_text().splitlines():
            yield where + " ".join(line.split())


def _bare_atoms(frame: LabeledFrame) -> Atoms:
    return Atoms(frame.numbers, frame.positions, cell=frame.cell, pbc=frame.pbc)
