"""Judge the result of a run, and its base, by frames that the run has not seen."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from pet_calc.calculator.supported import check_frame_state
from pet_calc.checkpoint.open import load_merged_model, load_record
from pet_calc.config.data_options import DatasetOptions
from pet_calc.data.files import iterate_atoms
from pet_calc.data.frames import (
    NO_NAME,
    LabeledFrame,
    Progress,
    check_elements,
    iterate_frames,
)
from pet_calc.data.label_options import build_label_source
from pet_calc.data.loader import MicroBatch, pack
from pet_calc.data.orientation import AS_JUDGED, turn_batch, turn_labels
from pet_calc.data.systems import System, build_system, collate, collate_labels
from pet_calc.engine.switch import ModelSwitch
from pet_calc.errors import PetCalcError
from pet_calc.evaluate.kept import (
    Indices,
    KeptPredictions,
    PredictionKeeper,
    spread_evenly,
)
from pet_calc.evaluate.kept_file import KeptPart
from pet_calc.evaluate.metrics import Metrics
from pet_calc.evaluate.predict import DEFAULT_BATCH_TOKENS
from pet_calc.lora.fingerprint import compute_fingerprint
from pet_calc.model.derivatives import compute_composition
from pet_calc.model.pet import PET
from pet_calc.model.uncertainty import sum_over_systems
from pet_calc.system.ranks import ALONE

N_WORST = 12


@dataclass
class Judged:
    """What one model says of frames, and how wrong it is."""

    errors: dict[str, float]
    """Over all frames with labels, as ``pet-calc eval`` has them; eV and Å."""
    kept: KeptPredictions | None
    """Of the chosen frames; None if none has a label."""
    worst: list[KeptPredictions] = field(default_factory=list)
    """One frame each, the worst first."""


@dataclass
class FurtherFrames:
    """Frames of files, judged by a model and by what it was made of."""

    part: KeptPart
    after: Judged
    before: Judged | None
    """None where the base cannot answer, see ``why_no_base``."""
    why_no_base: str
    frames: dict[int, LabeledFrame]
    """The kept and the worst ones, by their number."""


def judge_further(
    model: PET,
    dataset: DatasetOptions,
    target: str,
    *,
    base: PET | None = None,
    why_no_base: str = "",
    progress: Progress | None = None,
) -> FurtherFrames:
    """Return the predictions of frames in the orientations in which models are judged.

    The files are read twice, first to count; memory does not grow with them.

    Args:
        model: on its device.
        dataset: files, and where their labels lie.
        target: energy to use.
        base: with the energies per element of the model; None leaves it out.
        why_no_base: the reason.
        progress: wraps the iteration over frames.

    Raises:
        DataError: for a file that cannot be read, or an element that the model does not
            know.
    """
    sizes = [len(read.atoms) for read in iterate_atoms(dataset.read_from)]
    chosen = spread_evenly(len(sizes), float(sum(sizes)))
    models = {"after": model, **({} if base is None else {"before": base})}
    passes = {name: _Pass(each, target, chosen) for name, each in models.items()}
    held: dict[int, LabeledFrame] = {}
    is_chosen = set(chosen.tolist())

    def read() -> Iterator[tuple[int, LabeledFrame]]:
        frames = iterate_frames(
            list(dataset.read_from), {NO_NAME: build_label_source(dataset)}
        )
        for i, frame in enumerate(progress(frames) if progress else frames):
            for each in models.values():
                check_elements([frame], each.atomic_types)
                check_frame_state(each, frame)
            yield i, frame

    cutoff = model.pair_cutoff
    systems = ((i, build_system(frame, cutoff)) for i, frame in read())
    for some in pack(systems, DEFAULT_BATCH_TOKENS, lambda entry: entry[1].n_tokens):
        numbers = [i for i, _ in some]
        for each in passes.values():
            each.add(numbers, [system for _, system in some])
        held |= {i: system.frame for i, system in some}
        wanted = is_chosen | passes["after"].keeper.list_worst(target)
        held = {i: frame for i, frame in held.items() if i in wanted}
    part = KeptPart(
        len(sizes),
        chosen.tolist(),
        [held[i].source for i in chosen.tolist()],
        [held[i].config_type for i in chosen.tolist()],
    )
    found = {name: each.finish() for name, each in passes.items()}
    return FurtherFrames(part, found["after"], found.get("before"), why_no_base, held)


def load_start(
    model: PET, base: str | Path, target: str, fingerprint: str
) -> tuple[PET | None, str]:
    """Return the base of a run with the energies per element of its result, or why not.

    Args:
        model: the result.
        base: file, or name, as the run had it; may be gone.
        target: energy to use.
        fingerprint: of the base when the run began.
    """
    if not base:
        return None, "the run began with random weights"
    try:
        record = load_record(base)
        if fingerprint and compute_fingerprint(record.state) != fingerprint:
            return None, f"{base} is another model than when the run began"
        weight = model.edge_embedder.weight
        start = load_merged_model(record, dtype=weight.dtype, device=weight.device)
    except (PetCalcError, OSError) as error:
        return None, f"the base cannot be loaded ({error})"
    if target not in start.targets:
        return None, f"the base has no target {target}"
    if not set(model.atomic_types) <= set(start.atomic_types):
        return None, "the base lacks elements of the result"
    rows = [start.atomic_types.index(z) for z in model.atomic_types]
    tables: Any = [each.baseline.tables[target] for each in (start, model)]
    tables[0].composition[rows] = tables[1].composition
    return start, ""


class _Pass:
    """One model over all frames."""

    def __init__(self, model: PET, target: str, chosen: Indices) -> None:
        self._model = model
        self._target = target
        self._switch = ModelSwitch(model, target, compile="auto", precision="exact")
        self._metrics = Metrics()
        self.keeper = PredictionKeeper(chosen, N_WORST)

    def add(self, numbers: list[int], systems: list[System]) -> None:
        """Judge the frames of these numbers."""
        device = self._model.edge_embedder.weight.device
        batch = collate(systems, dtype=torch.float64, device=device)
        labels = collate_labels(systems, dtype=torch.float64, device=device)
        matrices = torch.from_numpy(AS_JUDGED.draw(0, numbers)).to(device)
        batch = turn_batch(batch, matrices)
        labels = turn_labels(labels, matrices, batch.system_of_atom)
        prediction = self._switch.predict(batch, with_stress=True)
        per_atom = compute_composition(self._model, batch, self._target)
        composition = sum_over_systems(per_atom[:, None], batch)[:, 0]
        self._metrics.add(prediction, labels)
        self.keeper.add(
            self._target,
            MicroBatch(batch, {self._target: labels}, tuple(numbers), {}),
            prediction._replace(energy=prediction.energy - composition),
            labels._replace(energy=labels.energy - composition),
        )

    def finish(self) -> Judged:
        """Return what came out."""
        found = self.keeper.collect(ALONE)
        return Judged(
            self._metrics.to_dict(),
            found.kept.get(self._target),
            found.worst.get(self._target, []),
        )
