"""The tables of the page: every number is one of the report, shown with its unit."""

from dataclasses import dataclass
from typing import Any

from pet_calc.evaluate.metrics import DISPLAY_UNITS
from pet_calc.page.read import FURTHER, ReadRun
from pet_calc.page.words import format_number

PARTS = ("test", FURTHER, "validation", "train")
KINDS = {
    "config_type": "By config_type",
    "file": "By file",
    "element": "By element",
    "force": "By size of the force",
}


@dataclass(frozen=True)
class Cell:
    """A number of a table."""

    text: str
    value: float | None = None
    """As in the report, in eV and Å."""
    key: str = ""
    """Where in the report it stands, such as ``validation.forces_mae``."""


@dataclass(frozen=True)
class Table:
    """A table of the page."""

    caption: str
    head: list[str]
    rows: list[list[Cell]]
    note: str = ""


def list_errors(run: ReadRun) -> Table | None:
    """Return MAE and RMSE of each set and quantity, before and after."""
    rows = []
    for part in PARTS:
        before, after = (run.errors(part, is_before=each) for each in (True, False))
        keys = _find_keys(run, part)
        for target in _list_targets(after or before):
            for name, (factor, unit) in DISPLAY_UNITS.items():
                if f"{target}{name}_mae" not in (after or before):
                    continue
                of = f"{part}, {target[:-1]}" if target else part
                row = [Cell(of), Cell(f"{name.replace('_', ' ')}, {show_unit(unit)}")]
                for kind in ("mae", "rmse"):
                    for key, values in zip(keys, (before, after), strict=True):
                        place = f"{target}{name}_{kind}"
                        error = values.get(place)
                        # a dotted place cannot be looked up in the report
                        shown = "" if target else f"{key}.{place}"
                        row.append(to_cell(error, factor, shown))
                rows.append(row)
    if not rows:
        return None
    head = ["set", "quantity", "MAE before", "MAE after", "RMSE before", "RMSE after"]
    table = run.table("train")
    note = (
        "Of frames in an orientation of their own. Energies before have the new "
        "energies per element."
    )
    if table and table["n_frames"] < table["n_frames_of_set"]:
        note += (
            f" Of the training set {table['n_frames']:,} of "
            f"{table['n_frames_of_set']:,} "
            "frames, evenly spread."
        )
    return Table("Errors", head, rows, note)


def list_groups(run: ReadRun) -> list[Table]:
    """Return the errors of groups of the sets that the result is judged by."""
    return [
        found
        for part in list_judged(run)
        for table in run.tables(part)
        for found in _list_groups_of(table, run.target)
    ]


def list_judged(run: ReadRun) -> list[str]:
    """Return the test set, or else the validation set, and further frames."""
    own = "test" if run.table("test") else "validation"
    return [part for part in (own, FURTHER) if run.table(part)]


def _list_groups_of(table: dict[str, Any], main: str) -> list[Table]:
    """Return the tables of groups of a set and a target, by kind.

    Args:
        table: what was kept of them.
        main: the target that needs no name.
    """
    part, target = table["set"], table["target"]
    tables = []
    for kind, caption in KINDS.items():
        groups = [g for g in table.get("groups", []) if g["kind"] == kind]
        names = [
            name
            for name in ("energy", "forces", "stress")
            if any(f"{name}_mae" in group["errors"] for group in groups)
        ]
        if not names:
            continue
        groups = sort_groups(groups)
        head = ["group", "frames", "atoms"]
        for name in names:
            unit = show_unit(DISPLAY_UNITS[name][1])
            head += [f"{name} MAE before, {unit}", f"{name} MAE after, {unit}"]
        rows = []
        for group in groups:
            row = [Cell(group["name"])]
            row += [Cell(f"{group[key]:,}") for key in ("n_frames", "n_atoms")]
            for name in names:
                factor = DISPLAY_UNITS[name][0]
                for errors in (group.get("before", {}), group["errors"]):
                    row.append(to_cell(errors.get(f"{name}_mae"), factor))
            rows.append(row)
        of = f", {target}" if "/" in target or target != main else ""
        tables.append(Table(f"{caption}, {part} set{of}", head, rows))
    return tables


def sort_groups(groups: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return groups with the worst first; those by size of the force as they are."""
    if not groups or groups[0]["kind"] == "force":
        return groups
    name = "forces" if any("forces_mae" in g["errors"] for g in groups) else "energy"
    return sorted(groups, key=lambda group: -group["errors"].get(f"{name}_mae", 0.0))


def list_worst(run: ReadRun) -> list[Table]:
    """Return the frames with the largest errors, by set."""
    further = run.report.get(FURTHER) or {}
    found = (run.report.get("worst"), further.get("worst"))
    return [_list_worst_of(worst) for worst in found if worst]


def _list_worst_of(worst: list[dict[str, Any]]) -> Table:
    rows = []
    for entry in worst:
        atom = entry["atom"]
        rows.append(
            [
                Cell(entry["source"]),
                Cell(entry["config_type"] or "-"),
                Cell(str(entry["n_atoms"])),
                to_cell(entry["forces_rmse"], 1000),
                to_cell(entry["largest_force_error"], 1000),
                Cell("-" if atom is None else str(atom)),
                to_cell(entry["energy_error"], 1000),
            ]
        )
    head = [
        "frame",
        "config_type",
        "atoms",
        "RMSE of forces, meV/Å",
        "largest error of a force, meV/Å",
        "of atom",
        "error of energy, meV/atom",
    ]
    # of a set without forces, or without names, nothing would stand there
    shown = [
        i for i in range(len(head)) if any(row[i].text != "-" for row in rows) or i == 0
    ]
    return Table(
        f"The worst frames of the {worst[0]['set']} set",
        [head[i] for i in shown],
        [[row[i] for i in shown] for row in rows],
    )


def list_census(run: ReadRun) -> list[Table]:
    """Return what the sets hold, by target."""
    tables = []
    census = run.facts.get("census", {})
    targets = list(dict.fromkeys(t for part in census.values() for t in part))
    for target in targets:
        parts = {
            part: found[target] for part, found in census.items() if target in found
        }
        of = f" of {target}" if len(targets) > 1 else ""
        tables.append(tabulate_census(parts, f"Frames and labels{of}"))
    return tables


def tabulate_census(parts: dict[str, dict[str, Any]], caption: str) -> Table:
    """Return what sets hold, a column each.

    Args:
        parts: by set, the fields of a ``LabelCensus``.
        caption: of the table.
    """
    rows = []
    labels = list(dict.fromkeys(n for c in parts.values() for n in c["n_labeled"]))
    for name, read in (
        ("frames", lambda c: f"{c['n_frames']:,}"),
        ("atoms", lambda c: f"{c['n_atoms']:,}"),
        ("atoms in a frame", lambda c: " to ".join(map(str, c["atoms_range"]))),
        ("elements", lambda c: _join(c["elements"])),
        ("periodic", lambda c: _join(c["periodicity"])),
        ("config_type", lambda c: _join(c["config_types"]) or "-"),
        ("energy, eV/atom", lambda c: _join_range(c["energy_per_atom_range"])),
        (
            "largest force, eV/Å",
            lambda c: (
                "-" if c["largest_force"] is None else format_number(c["largest_force"])
            ),
        ),
    ):
        rows.append([Cell(name), *(Cell(read(c)) for c in parts.values())])
    for label in labels:
        cells = [
            Cell(
                f"{c['n_labeled'].get(label, 0):,} of {c['n_frames']:,} frames"
                f"{_name_origins(c, label)}"
            )
            for c in parts.values()
        ]
        rows.append([Cell(f"labels: {label}"), *cells])
    return Table(caption, ["", *parts], rows)


def list_composition(run: ReadRun) -> list[Table]:
    """Return the energies per element, in eV."""
    tables = []
    for target, found in run.facts.get("composition", {}).items():
        has_before = any(len(values) > 1 for values in found.values())
        head = ["element", *(["base, eV"] if has_before else []), "now, eV"]
        rows = [
            [
                Cell(symbol),
                *(
                    Cell(f"{value:.4f}", value, f"facts.composition.{target}.{symbol}")
                    for value in values
                ),
            ]
            for symbol, values in found.items()
        ]
        tables.append(Table(f"Energies per element, {target}", head, rows))
    return tables


def list_parameters(run: ReadRun) -> Table | None:
    """Return what trained of the model."""
    found = run.facts.get("trainable", [])
    rows = [
        [
            Cell(row["group"]),
            Cell(f"{row['n_parameters']:,}"),
            Cell(f"{row['n_trainable']:,}"),
        ]
        for row in found
    ]
    if not rows:
        return None
    sums = [sum(r[key] for r in found) for key in ("n_parameters", "n_trainable")]
    rows.append([Cell("total"), *(Cell(f"{value:,}") for value in sums)])
    head = ["part", "parameters", "of these trained"]
    return Table("Parameters", head, rows)


def list_origins(run: ReadRun) -> Table:
    """Return versions, machine, times and checksums."""
    source, machine, report = run.provenance, run.facts.get("machine", {}), run.report
    rows = []
    for caption, value in (
        ("base", source.get("base") or "none"),
        ("fingerprint of the base", source.get("base_fingerprint") or "-"),
        ("target", source.get("target")),
        ("level of theory", source.get("level_of_theory") or "not named"),
        ("pet-calc", source.get("pet_calc")),
        ("torch", source.get("torch")),
        ("ASE", source.get("ase")),
        ("Python", machine.get("python")),
        ("system", machine.get("system")),
        ("device", machine.get("device")),
        ("processes x threads", _join_threads(machine)),
        ("training, s", report.get("seconds")),
        ("s an epoch", _find_pace(run)),
        ("memory at most, GB", _find_memory(report)),
        ("steps", report.get("n_steps")),
        ("epochs planned", report.get("n_epochs")),
        ("best epoch", report.get("best_epoch")),
        ("ended", report.get("end")),
        ("best model", report.get("best_model")),
    ):
        if value is not None:
            rows.append([Cell(caption), Cell(str(value))])
    further = (run.report.get(FURTHER) or {}).get("files", {})
    for name, digest in {**source.get("files", {}), **further}.items():
        rows.append([Cell(f"SHA-256 of {name}"), Cell(digest)])
    return Table("Where it comes from", ["", ""], rows)


def _find_memory(report: dict[str, Any]) -> str | None:
    """Return the most memory that a run took; older ones do not say."""
    n_bytes = report.get("peak_memory")
    return None if n_bytes is None else f"{n_bytes / 1e9:.2f}"


def to_cell(value: float | None, factor: float, key: str = "") -> Cell:
    """Return a number of the report times a factor, a dash where there is none."""
    if value is None:
        return Cell("-")
    return Cell(format_number(factor * value), value, key)


def show_unit(unit: str) -> str:
    """Return a unit as a page writes it."""
    return unit.replace("^3", "³")


def _list_targets(errors: dict[str, float]) -> list[str]:
    """Return what the names of errors begin with: nothing, and each of more targets."""
    found = (key.rpartition(".")[0] for key in errors if key.endswith("_mae"))
    return [f"{name}." if name else "" for name in dict.fromkeys(["", *found])]


def _find_keys(run: ReadRun, part: str) -> tuple[str, str]:
    """Return where in the report errors before and after stand."""
    if part == "validation":
        return "zero_step", "validation"
    if part == "test":
        return "test_before", "test"
    if part == FURTHER:
        return "further.before", "further.after"
    for i, table in enumerate(run.report.get("kept", [])):
        if (table["set"], table["target"]) == (part, run.target):
            return f"kept.{i}.before", f"kept.{i}.after"
    return "", ""


def _join(counts: dict[str, int]) -> str:
    listed = list(counts.items())
    more = f" and {len(listed) - 12} more" if len(listed) > 12 else ""
    return ", ".join(f"{key} {count:,}" for key, count in listed[:12]) + more


def _join_range(found: list[float] | None) -> str:
    return "-" if found is None else " to ".join(f"{value:.4f}" for value in found)


def _name_origins(census: dict[str, Any], label: str) -> str:
    found = census["origins"].get(label, {})
    return f", from {', '.join(found)}" if found else ""


def _join_threads(machine: dict[str, Any]) -> str | None:
    if not machine:
        return None
    return f"{machine['processes']} x {machine['threads']}"


def _find_pace(run: ReadRun) -> str | None:
    if not run.rows:
        return None
    return format_number(run.rows[-1]["seconds"] / len(run.rows))
