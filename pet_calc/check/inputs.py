"""Judge charge and spin, which are inputs of models that are conditioned on them.

There is nothing to compare them with: no base predicts them. But electrons are counted
in whole numbers, so that half of all wrong multiplicities cannot exist.
"""

from collections.abc import Sequence

from pet_calc.check.finding import Finding, list_sources, name_frames
from pet_calc.check.presence import advise_on_input
from pet_calc.data.advice import spell_label_flag
from pet_calc.data.frames import LabeledFrame
from pet_calc.data.notes import MAY_HOLD, find_state_notes
from pet_calc.model.pet import PET


def check_inputs(model: PET, frames: Sequence[LabeledFrame]) -> list[Finding]:
    """Report charges and spins that no molecule has, or that the model does not get.

    Nothing for a model that does not read them. Periodic frames are not judged by
    their electrons: a cell of a metal may have an odd number, and no spin.
    """
    if model.system_conditioning is None:
        return []
    return [*_check_unread(frames), *_check_electrons(frames)]


def _check_unread(frames: Sequence[LabeledFrame]) -> list[Finding]:
    found: dict[str, list[LabeledFrame]] = {}
    for frame in frames:
        for note in find_state_notes(frame.notes):
            if MAY_HOLD in note:
                found.setdefault(note, []).append(frame)
    return [
        Finding(
            "warning",
            "input-not-read",
            f"{note}, and the model is conditioned on it: {len(those)} of "
            f"{len(frames)} frames are taken for neutral singlets, "
            f"{name_frames(those)}",
            advise_on_input(note),
            frames=list_sources(those),
        )
        for note, those in found.items()
    ]


def _check_electrons(frames: Sequence[LabeledFrame]) -> list[Finding]:
    """Report states that the number of electrons rules out."""
    molecules = [frame for frame in frames if not frame.pbc.any()]
    impossible = [f for f in molecules if _has_too_few(f)]
    odd = [
        f
        for f in molecules
        if not _has_too_few(f) and (_count(f) + f.spin_multiplicity) % 2 == 0
    ]
    findings = []
    if impossible:
        first = impossible[0]
        findings.append(
            Finding(
                "error",
                "impossible-state",
                f"{len(impossible)} of {len(frames)} frames have a charge or a spin "
                f"that takes more electrons than there are (the first: a charge of "
                f"{first.charge} and a multiplicity of {first.spin_multiplicity} with "
                f"{int(first.numbers.sum())} protons): {name_frames(impossible)}",
                "correct charge (in e, positive for cations) and spin (2S + 1) in the "
                "file",
                frames=list_sources(impossible),
            )
        )
    if odd:
        first = odd[0]
        has_spin = "spin_multiplicity" in first.origins
        known = first.origins.get("spin_multiplicity", "no spin in the file")
        findings.append(
            Finding(
                "warning",
                "spin-parity",
                f"{len(odd)} of {len(frames)} frames have a multiplicity that their "
                f"electrons rule out (the first: {_count(first)} electrons cannot have "
                f"a multiplicity of {first.spin_multiplicity}, {known}): "
                f"{name_frames(odd)}",
                "the model reads 2S + 1: one more than the unpaired electrons"
                + (
                    ""
                    if has_spin
                    else f"; name its key with {spell_label_flag('spin_key')}"
                ),
                frames=list_sources(odd),
            )
        )
    return findings


def _count(frame: LabeledFrame) -> int:
    return int(frame.numbers.sum()) - frame.charge


def _has_too_few(frame: LabeledFrame) -> bool:
    return frame.spin_multiplicity - 1 > _count(frame)
