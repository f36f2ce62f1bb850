"""The page of a LAMMPS run before it starts: step 0, the structure, the input."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms

from pet_calc.info.describe import describe_file
from pet_calc.info.text import format_description
from pet_calc.lammps.compare import StepComparison
from pet_calc.lammps.inputs import SimulationOptions
from pet_calc.page import viewer
from pet_calc.page.plots import Plot
from pet_calc.page.tables import Cell, Table
from pet_calc.page.viewer import Viewer, of_frames
from pet_calc.page.words import Sentence, format_number
from pet_calc.system.atomic import write_text_atomically

# drawn as a picture, and in the viewer
MOST_DRAWN, MOST_VIEWED = 400, 5000
# amu/Å^3 in g/cm^3
_DENSITY = 1.66053906660


def write_simulation(
    path: str | Path,
    atoms: Atoms,
    model: str | Path,
    script: Path,
    options: SimulationOptions,
    comparison: StepComparison | None,
    notes: Sequence[str] = (),
) -> None:
    """Write the page of a run that is about to start.

    Args:
        path: of the page.
        atoms: the structure, as its file has it.
        model: the exported file.
        script: the input that was written.
        options: what is simulated.
        comparison: of step 0 with the calculator; None if that was not asked for.
        notes: what of the structure is not in the input.
    """
    from pet_calc.page.build import load_template, read_text, to_figure

    picture = draw_structure(atoms)
    html = load_template("simulation.html.jinja").render(
        css=read_text("page.css"),
        name=str(script),
        headline=headline(comparison),
        verdict=judge(atoms, comparison, options, notes),
        step=tabulate_step(comparison) if comparison is not None else None,
        structure=tabulate_structure(atoms),
        settings=tabulate_settings(options),
        pictures=[to_figure(picture)] if picture is not None else [],
        viewer=build_viewer(atoms),
        install=viewer.INSTALL,
        most_viewed=MOST_VIEWED,
        n_atoms=len(atoms),
        model=format_description(describe_file(model)),
        script=script.read_text(),
        folder=str(script.parent),
        file=script.name,
    )
    write_text_atomically(path, html)


def headline(comparison: StepComparison | None) -> str:
    """Return in one line whether the run may start."""
    if comparison is None:
        return "Step 0 was not compared with the calculator"
    if comparison.is_same:
        return "Step 0 in LAMMPS is that of the calculator"
    return "Do not run this: LAMMPS and the calculator differ at step 0"


def judge(
    atoms: Atoms,
    comparison: StepComparison | None,
    options: SimulationOptions,
    notes: Sequence[str],
) -> list[Sentence]:
    """Return what to know before the run, what matters most first."""
    found = []
    if comparison is None:
        text = "Nothing was compared (--no-check): `pet-calc lammps check` does it."
        found.append(Sentence("note", text))
    elif comparison.is_same:
        text = (
            "Energy, forces and pressure of the structure are the same in LAMMPS and "
            f"in ASE up to rounding ({comparison.tolerance:.0e})."
        )
        found.append(Sentence("good", text))
    else:
        text = (
            "LAMMPS and the calculator differ by more than rounding "
            f"({comparison.tolerance:.0e}): report it."
        )
        found.append(Sentence("bad", text))
    if comparison is not None and comparison.turned is not None:
        energy, forces = comparison.turned
        text = (
            "LAMMPS holds the structure in another orientation than its file: there "
            f"the energy is {1000 * energy:.2f} meV/atom, forces up to "
            f"{1000 * forces:.1f} meV/Å apart, for PET is not exactly invariant."
        )
        found.append(Sentence("note", text))
    found += [Sentence("note", f"{note[:1].upper()}{note[1:]}.") for note in notes]
    if not atoms.pbc.all() and options.ensemble != "minimize":
        text = "The structure is open in some directions: it has no pressure there."
        found.append(Sentence("note", text))
    text = (
        "That step 0 is right does not show that the run stays whole: look at energies "
        "and the closest distances of its first picoseconds."
    )
    return [*found, Sentence("note", text)]


def tabulate_step(comparison: StepComparison) -> Table:
    """Return the values of step 0 and the largest differences."""
    energy, forces = comparison.energy_difference, comparison.force_difference
    rows = [
        [
            Cell("energy"),
            Cell(f"{comparison.energy:.6f} eV", comparison.energy),
            Cell(f"{energy:.1e} eV/atom", energy),
        ],
        [Cell("forces"), Cell("-"), Cell(f"{forces:.1e} eV/Å", forces)],
    ]
    if comparison.pressure is not None and comparison.pressure_difference is not None:
        difference = comparison.pressure_difference
        rows.append(
            [
                Cell("pressure"),
                Cell(f"{comparison.pressure:.6g} bar", comparison.pressure),
                Cell(f"{difference:.1e} bar", difference),
            ]
        )
    note = "Forces and pressure: the largest component."
    head = ["", "in LAMMPS", "difference to the calculator"]
    return Table("Step 0", head, rows, note)


def tabulate_structure(atoms: Atoms) -> Table:
    """Return what the structure is."""
    rows = [
        [Cell("atoms"), Cell(f"{len(atoms):,}")],
        [Cell("formula"), Cell(atoms.get_chemical_formula())],
        [Cell("periodic"), Cell("".join("FT"[int(each)] for each in atoms.pbc))],
    ]
    if atoms.cell.rank == 3:
        lengths = ", ".join(f"{value:.3f}" for value in atoms.cell.lengths())
        angles = ", ".join(f"{value:.1f}" for value in atoms.cell.angles())
        rows.append([Cell("cell, Å"), Cell(lengths)])
        rows.append([Cell("angles, °"), Cell(angles)])
        if atoms.pbc.all():
            density = _DENSITY * atoms.get_masses().sum() / atoms.get_volume()
            rows.append([Cell("density, g/cm³"), Cell(f"{density:.4g}")])
    if atoms.get_momenta().any():
        temperature = atoms.get_temperature()
        rows.append(
            [Cell("temperature of its velocities, K"), Cell(f"{temperature:.1f}")]
        )
    return Table("Structure", ["", ""], rows)


def tabulate_settings(options: SimulationOptions) -> Table:
    """Return what is simulated."""
    rows = [[Cell("ensemble"), Cell(options.ensemble)]]
    if options.ensemble != "minimize":
        rows.append([Cell("temperature, K"), Cell(format_number(options.temperature))])
    if options.ensemble == "npt":
        rows.append([Cell("pressure, bar"), Cell(format_number(options.pressure))])
    if options.timestep is not None:
        rows.append([Cell("timestep, fs"), Cell(format_number(options.timestep))])
    rows += [
        [Cell("steps"), Cell(f"{options.n_steps:,}")],
        [Cell("device"), Cell(options.device)],
    ]
    return Table("Run", ["", ""], rows)


def draw_structure(atoms: Atoms) -> Plot | None:
    """Return a picture of a small structure, None of a large one."""
    if len(atoms) > MOST_DRAWN:
        return None
    title = atoms.get_chemical_formula()
    return viewer.draw_atoms(atoms, "structure", title, f"Atoms of {title}")


def build_viewer(atoms: Atoms) -> Viewer | None:
    """Return the viewer of the structure, None of a large one or without chemiscope."""
    if len(atoms) > MOST_VIEWED:
        return None
    bare = Atoms(atoms.numbers, atoms.positions, cell=atoms.cell, pbc=atoms.pbc)
    properties: dict[str, Any] = {"atoms": of_frames(np.array([len(bare)]))}
    settings = {"structure": [{"unitCell": True, "keepOrientation": True}]}
    return viewer.pack_viewer(
        [bare], properties, None, settings, name="structure", has_map=False
    )
