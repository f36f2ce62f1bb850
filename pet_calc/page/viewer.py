"""The worst frames as pictures, and all frames to look at in chemiscope's viewer.

chemiscope (BSD-3-Clause, with 3Dmol and plotly in its one JavaScript file) is optional:
``pip install 'pet-calc[view]'``.
"""

import base64
import gzip
import importlib.util
import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from ase.visualize.plot import plot_atoms
from matplotlib.colors import LinearSegmentedColormap

from pet_calc.evaluate.viewed import ViewedFrames
from pet_calc.page import figures
from pet_calc.page.plots import Plot

INSTALL = "pip install 'pet-calc[view]'"
N_PICTURES, MOST_ATOMS = 6, 400
# Å for 1 eV/Å
_ARROW = 0.5


@dataclass(frozen=True)
class Viewer:
    """What the page needs for the viewer."""

    code: str
    """JavaScript, gzip in base64: a third of its size."""
    data: str
    """JSON in which no ``<`` is left."""
    n_frames: int
    has_map: bool
    """Whether frames are points of a map, to be clicked."""


def build_viewer(viewed: ViewedFrames | None) -> Viewer | None:
    """Return the viewer, None without frames or where chemiscope is not installed."""
    if viewed is None:
        return None
    has_forces = bool(np.isfinite(viewed.forces_label).all(axis=1).any())
    return pack_viewer(
        _to_atoms(viewed),
        _list_properties(viewed, has_forces=has_forces),
        _list_arrows(viewed) if has_forces else None,
        _choose_settings(has_forces=has_forces),
        name="frames of the run",
    )


def pack_viewer(
    frames: list[Atoms],
    properties: dict[str, Any],
    shapes: dict[str, Any] | None,
    settings: dict[str, Any],
    *,
    name: str,
    has_map: bool = True,
) -> Viewer | None:
    """Return a viewer of frames, None where chemiscope is not installed.

    Args:
        frames: to look at.
        properties: of frames and atoms, as chemiscope has them.
        shapes: that can be shown on atoms, likewise.
        settings: of the start, likewise.
        name: of what is shown.
        has_map: whether frames are points of a map, by two of the properties.
    """
    if importlib.util.find_spec("chemiscope") is None:
        return None
    import chemiscope

    script = Path(chemiscope.__file__).parent / "sphinx" / "static"
    code = gzip.compress((script / "chemiscope.min.js").read_bytes(), 9, mtime=0)
    dataset = chemiscope.create_input(
        structures=frames,
        properties=properties,
        shapes=shapes,
        # without them it knows no properties of atoms
        environments=chemiscope.all_atomic_environments(frames),
        metadata={"name": name},
        settings=settings,
    )
    text = json.dumps(dataset, allow_nan=False).replace("<", "\\u003c")
    packed = base64.b64encode(code).decode()
    return Viewer(packed, text, len(frames), has_map)


def plot_worst(viewed: ViewedFrames | None) -> list[Plot]:
    """Return pictures of each set's worst frames, atoms coloured by their error."""
    plots: list[Plot] = []
    if viewed is None:
        return plots
    colours = LinearSegmentedColormap.from_list("error", ["#f2f2f2", figures.AFTER])
    frames = _to_atoms(viewed)
    n_shown = Counter[str]()
    for i, rows in enumerate(viewed.slices()):
        if not viewed.is_worst[i] or viewed.n_atoms[i] > MOST_ATOMS:
            continue
        if n_shown[viewed.sets[i]] == N_PICTURES:
            continue
        n_shown[viewed.sets[i]] += 1
        errors = _find_errors(viewed)[rows]
        largest = max(float(np.nan_to_num(errors).max()), 1e-9)
        label = f"Atoms of {viewed.sources[i]}"
        title = f"{Path(viewed.sources[i]).name}"
        colors = None
        if np.isfinite(errors).any():
            label += ", darker where the force is wrong by more"
            colors = colours(np.nan_to_num(errors) / largest)
        name = f"worst_{len(plots)}"
        plots.append(draw_atoms(frames[i], name, title, label, colors))
    return plots


def draw_atoms(
    atoms: Atoms, name: str, title: str, label: str, colors: Any = None
) -> Plot:
    """Return a picture of atoms, in the colours of their elements if none are given."""
    with figures.panel((2.6, 2.6)) as (figure, axes):
        plot_atoms(atoms, axes, rotation="20x,30y,0z", colors=colors)
        axes.set_axis_off()
    return Plot(name, title, label, figure, {})


def _to_atoms(viewed: ViewedFrames) -> list[Atoms]:
    return [
        Atoms(
            viewed.numbers[rows],
            viewed.positions[rows],
            cell=viewed.cells[i],
            pbc=viewed.pbc[i],
        )
        for i, rows in enumerate(viewed.slices())
    ]


def _find_errors(viewed: ViewedFrames) -> Any:
    """Return the error of the force on each atom, eV/Å; NaN without a label."""
    return np.linalg.norm(viewed.forces - viewed.forces_label, axis=1)


def _list_properties(viewed: ViewedFrames, *, has_forces: bool) -> dict[str, Any]:
    places = viewed.places
    properties = {
        "component 1": of_frames(places[:, 0]),
        "component 2": of_frames(places[:, 1]),
        "energy error": of_frames(
            1000 * np.abs(viewed.energy - viewed.energy_label), "meV/atom"
        ),
        "set": of_frames(viewed.sets),
        "shown as": of_frames(
            ["worst" if is_it else "sample" for is_it in viewed.is_worst]
        ),
        "frame": of_frames([Path(source).name for source in viewed.sources]),
        "atoms": of_frames(viewed.n_atoms),
    }
    if any(viewed.config_types):
        properties["config_type"] = of_frames(viewed.config_types)
    if has_forces:
        properties["force error"] = of_frames(1000 * viewed.errors, "meV/Å")
        properties["force error of the atom"] = {
            "target": "atom",
            "values": [round_value(1000 * value) for value in _find_errors(viewed)],
            "units": "meV/Å",
        }
    return properties


def _list_arrows(viewed: ViewedFrames) -> dict[str, Any]:
    return {
        "labelled forces": build_arrows(viewed.forces_label, figures.BEFORE, 0.06),
        "predicted forces": build_arrows(viewed.forces, figures.AFTER, 0.09),
    }


def build_arrows(forces: Any, colour: str, radius: float) -> dict[str, Any]:
    """Return arrows for forces, [n_atoms of all frames, 3] in eV/Å."""
    vectors = np.round(_ARROW * np.nan_to_num(forces), 3).tolist()
    return {
        "kind": "arrow",
        "parameters": {
            "global": {
                "baseRadius": radius,
                "headRadius": 1.8 * radius,
                "headLength": 2.4 * radius,
                "color": colour,
            },
            "atom": [{"vector": vector} for vector in vectors],
        },
    }


def _choose_settings(*, has_forces: bool) -> dict[str, Any]:
    structure: dict[str, Any] = {"unitCell": True, "keepOrientation": True}
    if has_forces:
        structure |= {
            "shape": "labelled forces,predicted forces",
            "color": {"property": "force error of the atom", "palette": "viridis"},
        }
    return {
        "target": "structure",
        "map": {
            "x": {"property": "component 1"},
            "y": {"property": "component 2"},
            "color": {"property": "force error" if has_forces else "energy error"},
            "symbol": "set",
            "palette": "viridis",
        },
        "structure": [structure],
    }


def of_frames(values: Any, units: str = "") -> dict[str, Any]:
    """Return a property with one value a frame."""
    kept = [clean_text(v) if isinstance(v, str) else round_value(v) for v in values]
    found = {"target": "structure", "values": kept}
    return {**found, "units": units} if units else found


def round_value(value: Any) -> float:
    """Return a number that the viewer's JSON can hold."""
    # its JSON has no NaN
    return float(np.round(np.nan_to_num(value), 4))


def clean_text(text: str) -> str:
    """Return a text without what a viewer could take for HTML."""
    return text.translate({ord("<"): "‹", ord(">"): "›", ord("&"): "＆"}) or "-"
