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


def build_viewer(viewed: ViewedFrames | None) -> Viewer | None:
    """Return the viewer, None without frames or where chemiscope is not installed."""
    if viewed is None or importlib.util.find_spec("chemiscope") is None:
        return None
    import chemiscope

    script = Path(chemiscope.__file__).parent / "sphinx" / "static"
    code = gzip.compress((script / "chemiscope.min.js").read_bytes(), 9, mtime=0)
    frames = _to_atoms(viewed)
    has_forces = bool(np.isfinite(viewed.forces_label).all(axis=1).any())
    dataset = chemiscope.create_input(
        structures=frames,
        properties=_list_properties(viewed, has_forces=has_forces),
        shapes=_list_arrows(viewed) if has_forces else None,
        # without them it knows no properties of atoms
        environments=chemiscope.all_atomic_environments(frames),
        metadata={"name": "frames of the run"},
        settings=_choose_settings(has_forces=has_forces),
    )
    text = json.dumps(dataset, allow_nan=False).replace("<", "\\u003c")
    return Viewer(base64.b64encode(code).decode(), text, len(frames))


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
        with figures.panel((2.6, 2.6)) as (figure, axes):
            plot_atoms(
                frames[i],
                axes,
                rotation="20x,30y,0z",
                colors=colours(np.nan_to_num(errors) / largest),
            )
            axes.set_axis_off()
        label = f"Atoms of {viewed.sources[i]}, darker where the force is wrong by more"
        title = f"{Path(viewed.sources[i]).name}"
        plots.append(Plot(f"worst_{len(plots)}", title, label, figure, {}))
    return plots


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
    def of_frames(values: Any, units: str = "") -> dict[str, Any]:
        kept = [_clean(v) if isinstance(v, str) else _round(v) for v in values]
        found = {"target": "structure", "values": kept}
        return {**found, "units": units} if units else found

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
            "values": [_round(1000 * value) for value in _find_errors(viewed)],
            "units": "meV/Å",
        }
    return properties


def _list_arrows(viewed: ViewedFrames) -> dict[str, Any]:
    def build(forces: Any, colour: str, radius: float) -> dict[str, Any]:
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

    return {
        "labelled forces": build(viewed.forces_label, figures.BEFORE, 0.06),
        "predicted forces": build(viewed.forces, figures.AFTER, 0.09),
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


def _round(value: Any) -> float:
    # its JSON has no NaN
    return float(np.round(np.nan_to_num(value), 4))


def _clean(text: str) -> str:
    """Return a text without what a viewer could take for HTML."""
    return text.translate({ord("<"): "‹", ord(">"): "›", ord("&"): "＆"}) or "-"
