"""What shows how far a result can be trusted: physics, uncertainty, orientations.

Each is on the page where a run, or a verb after it, has written it to the report.
"""

from typing import Any

import numpy as np
from matplotlib.ticker import LogLocator, StrMethodFormatter

from pet_calc.evaluate.metrics import DISPLAY_UNITS
from pet_calc.evaluate.reliability import format_reliability
from pet_calc.page import figures
from pet_calc.page.plots import Plot, finish
from pet_calc.page.read import ReadRun
from pet_calc.page.tables import Cell, Table, show_unit, to_cell
from pet_calc.page.words import Sentence, Tone, format_number

# of the report, the first one that is there
_PHYSICS = ("physics", "validate")
_WORDS = {"ok": "good", "warn": "look", "fail": "fails"}


def list_trust(run: ReadRun) -> list[Table]:
    """Return the tables on physics, uncertainty and orientations, none without any."""
    found = (list_physics(run), *list_uncertainty(run), list_rotation(run))
    return [table for table in found if table is not None]


def plot_trust(run: ReadRun) -> list[Plot]:
    """Return errors over predicted uncertainties, of each target that has one."""
    found = run.report.get("uncertainty") or {}
    return [
        plot_calibration(target, values["reliability"])
        for target, values in found.items()
        if len(values["reliability"]["table"]) > 1
    ]


def find_physics(run: ReadRun) -> tuple[str, dict[str, Any]]:
    """Return the key and the values of checks of the physics, both empty without."""
    for key in _PHYSICS:
        found = run.report.get(key)
        if isinstance(found, dict) and found.get("rows"):
            return key, found
    return "", {}


def has_dynamics(run: ReadRun) -> bool:
    """Return whether a drift in dynamics was measured; the short form has none."""
    return any(row["name"] == "drift" for row in find_physics(run)[1].get("rows", []))


def judge_physics(run: ReadRun) -> list[Sentence]:
    """Return what checks of the physics say on the use in dynamics, none without."""
    _, found = find_physics(run)
    if not found:
        return []
    rows = {
        verdict: [row for row in found["rows"] if row["verdict"] == verdict]
        for verdict in ("fail", "warn", "ok")
    }
    n_good = len(rows["ok"])
    where = found.get("structure") or found.get("frame") or ""
    text = f"Physics{f' ({where})' if where else ''}: {n_good} "
    text += "checks are good" if n_good != 1 else "check is good"
    for verdict, words in (("fail", "fails"), ("warn", "is doubtful")):
        for row in rows[verdict]:
            detail = row.get("detail") or row.get("meaning")
            text += f"; {row['name']} {words} ({detail})"
    tone: Tone = "bad" if rows["fail"] else "note" if rows["warn"] else "good"
    text += ". "
    if rows["fail"]:
        text += "Run no dynamics with it before you know why. "
    sentences = [Sentence(tone, f"{text}`pet-calc validate` looks closer.")]
    for row in found["rows"]:
        if row["name"] == "drift" and row["value"] is not None:
            text = f"Drift of the energy without a thermostat: {_name_value(row)}"
            detail = f" ({row['detail']})" if row.get("detail") else ""
            tone = "good" if row["verdict"] == "ok" else "bad"
            sentences.append(Sentence(tone, f"{text}{detail}."))
    return sentences


def list_physics(run: ReadRun) -> Table | None:
    """Return a row for each check of the physics, None without any."""
    key, found = find_physics(run)
    if not found:
        return None
    rows = []
    for i, row in enumerate(found["rows"]):
        value = row.get("value")
        sign = "above" if row.get("is_least") else "below"
        limit = "-" if row.get("warn") is None else f"{sign} {row['warn']:g}"
        rows.append(
            [
                Cell(row["name"]),
                Cell("none")
                if value is None
                else Cell(_name_value(row), value, f"{key}.rows.{i}.value"),
                Cell(limit),
                Cell(_WORDS.get(row["verdict"], row["verdict"])),
                Cell(row.get("meaning") or "-"),
                Cell(row.get("detail") or "-"),
            ]
        )
    rows += [
        [Cell(name), Cell("-"), Cell("-"), Cell("not made"), Cell("-"), Cell(why)]
        for name, why in (found.get("skipped") or {}).items()
    ]
    head = ["check", "found", "good", "verdict", "what it says", "detail"]
    where = found.get("frame") or found.get("structure") or ""
    note = f"Of {where}." if where else ""
    return Table("Physics of the result", head, rows, note)


def list_uncertainty(run: ReadRun) -> list[Table]:
    """Return how uncertainties hold against errors, by target."""
    tables = []
    for target, found in (run.report.get("uncertainty") or {}).items():
        reliability = found["reliability"]
        rows = [
            [
                to_cell(row["uncertainty"], 1000, f"{place}.uncertainty"),
                to_cell(row["error"], 1000, f"{place}.error"),
                Cell(f"{row['n_frames']:,}"),
            ]
            for i, row in enumerate(reliability["table"])
            for place in [f"uncertainty.{target}.reliability.table.{i}"]
        ]
        head = ["predicted, meV/atom", "found, meV/atom", "frames"]
        note = format_reliability(reliability).splitlines()[0]
        tables.append(Table(f"Uncertainty of {target}", head, rows, note))
    return tables


def list_rotation(run: ReadRun) -> Table | None:
    """Return how far predictions change when frames are turned."""
    found = run.report.get("rotation")
    if not found:
        return None
    rows = []
    for name, value in found["spread"].items():
        factor, unit = DISPLAY_UNITS[name]
        rows.append(
            [
                Cell(f"{name}, {show_unit(unit)}"),
                to_cell(found["base"].get(name), factor, f"rotation.base.{name}"),
                to_cell(value, factor, f"rotation.spread.{name}"),
            ]
        )
    note = (
        f"Standard deviation over {found['n_orientations']} orientations, mean of "
        f"{found['n_frames']} {found['set']} frames; a model that is exactly "
        "equivariant has zero."
    )
    head = ["quantity", "base", "now"]
    return Table("Spread over orientations", head, rows, note)


def plot_calibration(target: str, reliability: dict[str, Any]) -> Plot:
    """Return found errors over predicted uncertainties; on the line they agree."""
    rows = reliability["table"]
    predicted = [1000 * row["uncertainty"] for row in rows]
    found = [1000 * row["error"] for row in rows]
    low, high = 0.7 * min(*predicted, *found), 1.4 * max(*predicted, *found)
    low = max(low, 1e-4 * high)
    with figures.panel() as (figure, axes):
        axes.plot([low, high], [low, high], color=figures.INK, linewidth=0.7)
        axes.plot(predicted, found, "o-", color=figures.AFTER)
        axes.set(xscale="log", yscale="log", xlim=(low, high), ylim=(low, high))
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_formatter(StrMethodFormatter("{x:g}"))
            axis.set_minor_formatter(StrMethodFormatter("{x:g}"))
            # no more than a few numbers beside each other
            axis.set_minor_locator(LogLocator(subs=(2, 5)))
        finish(
            axes,
            "predicted uncertainty, meV/atom",
            "error found, meV/atom",
            keeps_scale=True,
        )
    one = 100 * reliability["within_one_sigma"]
    return Plot(
        f"calibration_{target.replace('/', '-')}",
        f"Uncertainty of {target}: error found over predicted",
        f"Root mean square error over predicted uncertainty of {target}; "
        f"{one:.0f} % of the errors are within one standard deviation.",
        figure,
        {
            "predicted (meV/atom)": predicted,
            "found (meV/atom)": found,
            "frames": np.array([row["n_frames"] for row in rows]),
        },
    )


def _name_value(row: dict[str, Any]) -> str:
    return f"{format_number(row['value'])} {row.get('unit') or ''}".strip()
