"""Say in words whether a run was a success, where it is bad, and what to do next."""

import shlex
from collections.abc import Iterable
from pathlib import Path

from pet_calc.page.progress import describe_progress, has_replay
from pet_calc.page.read import FURTHER, ReadRun
from pet_calc.page.trust import has_dynamics, judge_physics
from pet_calc.page.words import Sentence, Tone, format_error, format_number

# a group's error beyond the mean of its set by which it is worth a line
_NOTABLE = 1.25
# of errors after over errors before: no change that counts
_SAME = (0.95, 1.05)
# beyond this the base's domain is forgotten
_FORGOTTEN = 1.5


def judge(run: ReadRun) -> list[Sentence]:
    """Return the verdict, what matters most first."""
    found = [_describe_run(run)]
    found += [*_describe_end(run)]
    # that nothing was learned comes first, else what counts most
    is_unbeaten = run.report.get("best_epoch") == 0
    parts = ("validation", "test") if is_unbeaten else ("test", "validation")
    for part in (*parts, FURTHER):
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
    return [*found, *judge_physics(run), *_describe_uses(run)]


def headline(run: ReadRun) -> str:
    """Return the verdict in one line."""
    before, after = (_pick_errors(run, is_before=each) for each in (True, False))
    if not run.is_ended:
        if not run.is_live:
            return "Not ended yet"
        n_epochs = run.report.get("n_epochs")
        of = f" of {n_epochs}" if n_epochs else ""
        return f"Training, {len(run.rows)}{of} epochs done"
    if run.report.get("end") == "diverged":
        return "Training diverged at every learning rate that was tried"
    if run.report.get("best_epoch") == 0:
        return "No epoch was better than the start"
    changes = _list_changes(before, after)
    if not changes:
        return "Trained; there is nothing to compare with"
    named = ", ".join(f"{name} {_say_ratio(ratio)}" for name, ratio in changes)
    of = "the base" if run.has_base else "the start"
    is_better, is_worse = _weigh(changes)
    if not is_better and not is_worse:
        return f"About the same as {of} in errors of {', '.join(n for n, _ in changes)}"
    if not is_worse:
        return f"Better than {of}, errors of {named}"
    if not is_better:
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
    if run.is_ended and not _has_forces(run):
        steps = [step for step in steps if "LAMMPS" not in step[0]]
    next_epochs = run.report.get("next_epochs")
    is_cut = run.report.get("end") in ("interrupted", "stopped")
    is_cut = is_cut or not (run.is_ended or run.is_live)
    if is_cut or next_epochs:
        options = shlex.quote(str(run.folder / "options_resolved.yaml"))
        command = f"pet-calc finetune {options} -o {folder} --resume"
        if is_cut:
            steps.insert(0, ("go on", command))
        else:
            command += f" --set training.num_epochs={next_epochs}"
            steps.insert(0, ("still improving: go on", command))
    return steps


def _describe_run(run: ReadRun) -> Sentence:
    source, report = run.provenance, run.report
    n_frames = source.get("n_frames", {}).get("train")
    n_train = "some frames" if n_frames is None else _count(n_frames, "frame")
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
        f"{how} on {n_train}"
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
        if run.is_live:
            return [Sentence("note", f"{describe_progress(run)}.")]
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
                f"epochs: resume the run and go on to {next_epochs}, by the first "
                "command of what to do next.",
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
    n_frames = run.n_frames(part)
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
    is_better, is_worse = _weigh(_list_changes(before, after))
    tone: Tone = "bad" if is_worse else "good" if is_better else "note"
    if is_unbeaten or not before:
        tone = "note"
    some = f"the {part} set"
    if n_frames is not None:
        single = f"a single {part} frame"
        some = single if n_frames == 1 else f"{n_frames:,} {part} frames"
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
            f"{worst['name']} ({_count(worst['n_frames'], 'frame')}): {name} {error}, "
            f"where the mean is {average}.",
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
        f"On {_count(forgetting['n_frames'], 'frame')} of the base's own domain errors "
        f"are now, over those before: {listed}."
    )
    if is_bad:
        text += " Keep to the domain of your data, or "
        text += (
            "replay more of the base's."
            if has_replay(run)
            else "train with --replay as well."
        )
    return [Sentence("bad" if is_bad else "good", text)]


def _describe_uses(run: ReadRun) -> list[Sentence]:
    if not run.is_ended:
        return []
    census = run.facts.get("census", {}).get("train", {}).get(run.target, {})
    elements, largest = census.get("elements", {}), census.get("largest_force")
    limits = [f"the elements {_name_elements(elements)}"] if elements else []
    if largest is not None:
        limits.append(f"forces up to {format_number(largest)} eV/Å")
    has_forces = _has_forces(run)
    text = f"The training set has {' and '.join(limits)}. " if limits else ""
    if not has_forces:
        text += "It was trained without forces: it is not made for dynamics."
        return [Sentence("bad", text)]
    text += (
        "Errors of forces do not show whether a simulation stays whole: try the "
        "temperature of use and above it."
        if has_dynamics(run)
        else "No dynamics was run here, and errors of forces do not show whether a "
        "simulation stays whole: try NVE first (examples/drift.py), then the "
        "temperature of use and above it."
    )
    return [Sentence("note", text)]


def _has_forces(run: ReadRun) -> bool:
    """Return whether the result was judged by forces, and so was trained on them."""
    return "forces_mae" in (run.report.get("validation") or {})


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


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'s' if number != 1 else ''}"


def _weigh(changes: list[tuple[str, float]]) -> tuple[bool, bool]:
    """Return whether anything became better, and whether anything became worse."""
    ratios = [ratio for _, ratio in changes]
    return (
        any(ratio <= _SAME[0] for ratio in ratios),
        any(ratio >= _SAME[1] for ratio in ratios),
    )


def _say_ratio(ratio: float) -> str:
    if _SAME[0] < ratio < _SAME[1]:
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
