"""Which labels and inputs are there, under which keys, and what may be one unread."""

from collections.abc import Sequence

from pet_calc.check.finding import Finding, list_sources, name_frames
from pet_calc.data.advice import advise, explain_no_energy
from pet_calc.data.frames import LabeledFrame
from pet_calc.data.near_names import find_near
from pet_calc.data.notes import (
    COLUMNS_NOT_READ,
    LIKE_FORCES,
    MAY_HOLD,
    NOT_FINITE,
    PREDICTED,
    is_warning,
)
from pet_calc.data.places import name_of


def check_presence(frames: Sequence[LabeledFrame]) -> list[Finding]:
    """Report frames without an energy."""
    n_energies = sum(frame.energy is not None for frame in frames)
    if n_energies == 0:
        keys = {key for frame in frames for key in frame.keys}
        return [Finding("error", "no-energy", *explain_no_energy(keys))]
    if n_energies == len(frames):
        return []
    without = [frame for frame in frames if frame.energy is None]
    return [
        Finding(
            "warning",
            "missing-energy",
            f"{len(without)} of {len(frames)} frames have no energy: "
            f"{name_frames(without)}",
            "they train on their other labels only; check that this is meant",
            frames=list_sources(without),
        )
    ]


def check_origins(frames: Sequence[LabeledFrame]) -> list[Finding]:
    """Report labels from several keys, and keys that look like labels but are not."""
    findings = []
    keys = sorted({key for frame in frames for key in frame.keys})
    used = {origin for frame in frames for origin in frame.origins.values()}
    for label in ("energy", "forces", "stress"):
        origins = sorted({f.origins[label] for f in frames if label in f.origins})
        # a stress that is a virial elsewhere is the same quantity
        if len(origins) > 1:
            findings.append(
                Finding(
                    "warning",
                    "mixed-keys",
                    f"{label} comes from {' and '.join(origins)} in different frames",
                    f"set the key of {label} if these are not one level of theory",
                )
            )
        finding = _check_others(label, origins, [k for k in keys if k not in used])
        if finding is not None:
            findings.append(finding)
    return findings


def check_notes(frames: Sequence[LabeledFrame]) -> list[Finding]:
    """Report what the reader did not take as it was, such as NaN."""
    found: dict[str, list[LabeledFrame]] = {}
    for frame in frames:
        for note in frame.notes:
            found.setdefault(note, []).append(frame)
    return [
        Finding(
            "warning" if is_warning(note) else "note",
            "not-finite"
            if NOT_FINITE in note
            else "predicted-labels"
            if PREDICTED in note
            else "columns-not-read"
            if COLUMNS_NOT_READ in note
            else "read-otherwise",
            f"{note}: {len(those)} of {len(frames)} frames, {name_frames(those)}",
            _advise_on(note),
            frames=list_sources(those),
        )
        for note, those in found.items()
    ]


def _check_others(
    label: str, origins: Sequence[str], others: Sequence[str]
) -> Finding | None:
    """Return a finding on keys that look like those of a label, though not read."""
    kinds = {key: label for key in find_near(label, others)}
    if label == "stress":
        kinds |= {key: "virial" for key in find_near("virial", others)}
    # of an energy that is missing another finding speaks
    if not kinds or (label == "energy" and not origins):
        return None
    taken = f"{label} is taken from {origins[0]}" if origins else f"no {label}"
    first, kind = next(iter(kinds.items()))
    options: dict[str, str | int] = {f"{kind}_key": name_of(first)}
    # a row for each atom and the name: hardly anything else
    is_like = label == "forces" and not origins and first.startswith("arrays")
    return Finding(
        "warning" if is_like else "note",
        "other-keys",
        f"{taken}; there is also {', '.join(list(kinds)[:4])}",
        f"nothing if that is meant, else {advise(**options)}",
    )


def _advise_on(note: str) -> str:
    if NOT_FINITE in note:
        return "leave these calculations out if they failed"
    if PREDICTED in note:
        return (
            "an error against them says nothing, and training on them copies that "
            "model: name the calculated labels instead"
        )
    if COLUMNS_NOT_READ in note:
        name = "forces" if LIKE_FORCES in note else "NAME"
        return (
            f"declare them in the comment line of each frame, such as "
            f"Properties=species:S:1:pos:R:3:{name}:R:3"
        )
    if MAY_HOLD in note:
        return advise_on_input(note)
    return "check that this is meant"


def advise_on_input(note: str) -> str:
    """Return what to do where a charge, spin or weight may be under another name.

    Args:
        note: of ``pet_calc.data.state``.
    """
    what = note.partition(" ")[0]
    first = note.partition(f"{MAY_HOLD} ")[2].partition(", ")[0]
    if what == "weight":
        return "if it weighs the frame in the loss, call it config_weight"
    meaning = "the total charge" if what == "charge" else "2S + 1"
    if first.startswith("info["):
        return f"if it is {meaning}: {advise(**{f'{what}_key': name_of(first)})}"
    name = "charge" if what == "charge" else "spin"
    return f"write {meaning} of each frame as {name}=... in its comment line (info)"
