"""Say in words whether a run was a success, where it is bad, and what to do next."""

import shlex
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pet_calc.evaluate.metrics import DISPLAY_UNITS
from pet_calc.page.read import ReadRun

Tone = Literal["good", "bad", "note"]

# a group's error beyond the mean of its set by which it is worth a line
_NOTABLE = 1.25
# beyond this the base's domain is forgotten
_FORGOTTEN = 1.5


@dataclass(frozen=True)
class Sentence:
    """One thing to know of a run."""

    tone: Tone
    text: str


def judge(run: ReadRun) -> list[Sentence]:
    """Return the verdict, what matters most first."""
    found = [_describe_run(run)]
    found += [*_describe_end(run)]
    # that nothing was learned comes first, else what counts most
    is_unbeaten = run.report.get("best_epoch") == 0
    parts = ("validation", "test") if is_unbeaten else ("test", "validation")
    for part in parts:
        found += _compare(run, part)
    if run.is_ended and not run.report.get("test"):
        found.append(
            Sentence(
                "note",
                "There are no test errors: those of the validation set chose the best "
                "model, so they flatter it. Name frames that it has not seen with "
                "--test.",
            )
        )
    found += _find_worst_group(run)
    found += _describe_forgetting(run)
    return found + _describe_uses(run)


def headline(run: ReadRun) -> str:
    """Return the verdict in one line."""
    before, after = (_pick_errors(run, is_before=each) for each in (True, False))
    if not run.is_ended:
        return "Not ended yet"
    if run.report.get("end") == "diverged":
        return "Training diverged at every learning rate that was tried"
    if run.report.get("best_epoch") == 0:
        return "No epoch was better than the start"
    changes = _list_changes(before, after)
    if not changes:
        return "Trained; there is nothing to compare with"
    named = ", ".join(f"{name} {_say_ratio(ratio)}" for name, ratio in changes)
    of = "the base" if run.has_base else "the start"
    if all(ratio < 1 for _, ratio in changes):
        return f"Better than {of}, errors of {named}"
    if all(ratio > 1 for _, ratio in changes):
        return f"Worse than {of}, errors of {named}"
    return f"Better than {of} in part only, errors of {named}"


def list_next_steps(run: ReadRun) -> list[tuple[str, str]]:
    """Return what can be done next, and its command or code with the run's paths."""
    folder = shlex.quote(str(run.folder))
    # where the folder is now, from wherever the run was started
    best_name = Path(run.report.get("best_model") or "best_model.ckpt").name
    best = str(run.folder / best_name)
    exported = shlex.quote(str(Path(best).with_suffix(".pt")))
    frames = shlex.quote(_find_frames_file(run))
    quoted = shlex.quote(best)
    steps = [
        ("in ASE", f"atoms.calc = PETCalculator({best!r})"),
        ("errors on other frames", f"pet-calc eval {quoted} {frames}"),
        ("for LAMMPS", f"pet-calc export {quoted} -o {exported}"),
        (
            "a LAMMPS run",
            f"pet-calc lammps input {exported} --structure {frames} -o md/",
        ),
        ("this page again", f"pet-calc report {folder}"),
    ]
    next_epochs = run.report.get("next_epochs")
    is_cut = run.report.get("end") in ("interrupted", "stopped") or not run.is_ended
    if is_cut or next_epochs:
        options = shlex.quote(str(run.folder / "options_resolved.yaml"))
        command = f"pet-calc finetune {options} -o {folder} --resume"
        if is_cut:
            steps.insert(0, ("go on", command))
        else:
            command += f" --set training.num_epochs={next_epochs}"
            steps.insert(0, ("still improving: go on", command))
    return steps


def format_error(name: str, value: float) -> str:
    """Return an error with its unit, such as ``12.3 meV/Å``."""
    factor, unit = DISPLAY_UNITS[name]
    return f"{format_number(factor * value)} {unit.replace('^3', '³')}"


def format_number(value: float) -> str:
    """Return a number with three digits that count."""
    if value == 0 or not abs(value) < float("inf"):
        return f"{value:g}"
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"


def _describe_run(run: ReadRun) -> Sentence:
    source, report = run.provenance, run.report
    n_frames = source.get("n_frames", {})
    base, level = Path(source.get("base") or "").name, source.get("level_of_theory")
    method = {
        "lora": "LoRA",
        "heads": "the heads alone",
        "full": "all weights",
    }.get(report.get("method") or source.get("method", ""), "a model")
    how = f"{method} of {base} trained" if base else "A network trained from scratch"
    census = run.facts.get("census", {}).get("train", {}).get(run.target, {})
    elements = _name_elements(census.get("elements", {}))
    text = (
        f"{how} on {n_frames.get('train', '?')} frames"
        f"{f' ({elements})' if elements else ''}"
        f"{f' at the level {level}' if level else ''}"
    )
    if report.get("n_steps"):
        seconds = report.get("seconds", 0)
        text += f", {report['n_steps']} steps in {seconds:.0f} s"
    return Sentence("note", f"{text[0].upper()}{text[1:]}.")


def _describe_end(run: ReadRun) -> list[Sentence]:
    end = run.report.get("end")
    if not run.is_ended:
        return [
            Sentence(
                "bad",
                f"The run has not ended: {len(run.rows)} epochs are in its log. What "
                "follows is what it has written so far.",
            )
        ]
    restarts = run.report.get("restarts") or []
    rates = ", ".join(f"{each['learning_rate']:.2g}" for each in restarts)
    if end == "diverged":
        return [
            Sentence(
                "bad",
                f"Training diverged at every learning rate that was tried ({rates}), "
                "so nothing was learned. Look for wrong labels with `pet-calc check`, "
                "or give a rate far below with --lr.",
            )
        ]
    if restarts:
        again = Sentence(
            "note",
            f"Training diverged at learning rate {rates} and began again each time at "
            f"half of it; the result is from {run.report['learning_rate']:.2g}.",
        )
        return [*_describe_length(run), again]
    return _describe_length(run)


def _describe_length(run: ReadRun) -> list[Sentence]:
    n_done, n_planned = len(run.rows), run.report.get("n_epochs")
    end = run.report.get("end")
    if end in ("interrupted", "stopped"):
        how = "interrupted" if end == "interrupted" else "stopped as asked"
        return [
            Sentence(
                "bad",
                f"The run was {how} after {n_done} of {n_planned} epochs; the numbers "
                "are those of the best model so far.",
            )
        ]
    if end == "early":
        return [
            Sentence(
                "note",
                f"It ended after {n_done} of {n_planned} epochs, since the validation "
                "error sank no more.",
            )
        ]
    if next_epochs := run.report.get("next_epochs"):
        return [
            Sentence(
                "note",
                f"The validation error was still falling in the last of {n_planned} "
                f"epochs: go on with --resume --epochs {next_epochs}.",
            )
        ]
    return []


def _compare(run: ReadRun, part: str) -> list[Sentence]:
    before, after = (run.errors(part, is_before=each) for each in (True, False))
    if not after:
        return []
    is_unbeaten = run.report.get("best_epoch") == 0
    if is_unbeaten and part == "validation" and run.report.get("end") == "diverged":
        return []  # the end says it
    n_frames = run.provenance.get("n_frames", {}).get(part)
    if is_unbeaten and part == "validation":
        what = "the base with new energies per element" if run.has_base else "untrained"
        return [
            Sentence(
                "bad",
                "No epoch beat the start on the validation set: the best model is "
                f"{what}. Lower the learning rate, or look at the data with "
                "`pet-calc check`.",
            )
        ]
    parts = []
    for name, ratio in [] if is_unbeaten else _list_changes(before, after):
        was, now = (values[f"{name}_mae"] for values in (before, after))
        parts.append(
            f"{name} {format_error(name, now)}, {format_error(name, was)} before "
            f"({_say_ratio(ratio)})"
        )
    if not parts:
        parts = [
            f"{name} {format_error(name, after[f'{name}_mae'])}"
            for name in ("energy", "forces", "stress")
            if f"{name}_mae" in after
        ]
    is_good = all(ratio < 1 for _, ratio in _list_changes(before, after))
    tone: Tone = "note" if is_unbeaten or not before else "good" if is_good else "bad"
    some = f"{n_frames} {part} frames" if n_frames != 1 else f"a single {part} frame"
    text = f"On {some} the mean absolute errors are: {'; '.join(parts)}."
    if n_frames is not None and n_frames < 10:
        text += f" So few ({n_frames}) say little."
    return [Sentence(tone, text)]


def _find_worst_group(run: ReadRun) -> list[Sentence]:
    """Return the group whose forces (or else energies) are far worse than the rest."""
    table = run.table("test") or run.table("validation")
    if not table:
        return []
    name = "forces" if "forces_mae" in table["after"] else "energy"
    key = f"{name}_mae"
    mean = table["after"].get(key)
    kinds = ("element", "config_type", "file")
    groups = [g for g in table["groups"] if g["kind"] in kinds and key in g["errors"]]
    if not groups or not mean:
        return []
    worst = max(groups, key=lambda group: float(group["errors"][key]))
    if worst["errors"][key] < _NOTABLE * mean:
        return []
    kind = worst["kind"].replace("_", " ")
    error, average = format_error(name, worst["errors"][key]), format_error(name, mean)
    return [
        Sentence(
            "note",
            f"The worst group of the {table['set']} set is the {kind} "
            f"{worst['name']} ({worst['n_frames']} frames): {name} {error}, where the "
            f"mean is {average}.",
        )
    ]


def _describe_forgetting(run: ReadRun) -> list[Sentence]:
    forgetting = run.report.get("forgetting")
    if not forgetting:
        if not (run.is_ended and run.has_base):
            return []
        return [
            Sentence(
                "note",
                "What was forgotten of the base's own domain was not measured: name "
                "frames of it with --retain before you use the model there.",
            )
        ]
    ratios = next(iter(forgetting["outputs"].values()))["ratio"]
    known = {name: ratio for name, ratio in ratios.items() if ratio is not None}
    if not known:
        return []
    listed = ", ".join(f"{name} x{ratio:.2g}" for name, ratio in known.items())
    is_bad = max(known.values()) > _FORGOTTEN
    text = (
        f"On {forgetting['n_frames']} frames of the base's own domain errors are now, "
        f"over those before: {listed}."
    )
    if is_bad:
        text += " Keep to the domain of your data, or train with --replay as well."
    return [Sentence("bad" if is_bad else "good", text)]


def _describe_uses(run: ReadRun) -> list[Sentence]:
    if not run.is_ended:
        return []
    census = run.facts.get("census", {}).get("train", {}).get(run.target, {})
    elements, largest = census.get("elements", {}), census.get("largest_force")
    limits = [f"the elements {_name_elements(elements)}"] if elements else []
    if largest is not None:
        limits.append(f"forces up to {format_number(largest)} eV/Å")
    has_forces = "forces_mae" in (run.report.get("validation") or {})
    text = f"The training set has {' and '.join(limits)}. " if limits else ""
    if has_forces:
        text += (
            "No dynamics was run here, and errors of forces do not show whether a "
            "simulation stays whole: try NVE first (examples/drift.py), then the "
            "temperature of use and above it."
        )
    else:
        text += "It was trained without forces: it is not made for dynamics."
    return [Sentence("note" if has_forces else "bad", text)]


def _name_elements(symbols: Iterable[str]) -> str:
    listed = list(symbols)
    more = f" and {len(listed) - 15} more" if len(listed) > 15 else ""
    return " ".join(listed[:15]) + more


def _pick_errors(run: ReadRun, *, is_before: bool) -> dict[str, float]:
    part = "test" if run.errors("test", is_before=False) else "validation"
    return run.errors(part, is_before=is_before)


def _list_changes(
    before: dict[str, float], after: dict[str, float]
) -> list[tuple[str, float]]:
    """Return MAE after over MAE before, by quantity."""
    return [
        (name, after[key] / before[key])
        for name in ("energy", "forces", "stress")
        if (key := f"{name}_mae") in after and before.get(key)
    ]


def _say_ratio(ratio: float) -> str:
    if 0.95 < ratio < 1.05:
        return "about the same"
    if ratio < 1:
        return f"{format_number(1 / ratio)} times smaller"
    return f"{format_number(ratio)} times larger"


def _find_frames_file(run: ReadRun) -> str:
    """Return a file of frames that the run has not trained on, if there is one."""
    for part in ("test", "validation", "train"):
        kept = run.after.parts.get(part) or run.before.parts.get(part)
        if kept is not None and kept.sources:
            return kept.sources[0].rpartition(", frame ")[0] or "frames.xyz"
    return "frames.xyz"
