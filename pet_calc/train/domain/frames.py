"""Frames of the base's own domain: what is measured on, and what is replayed."""

import logging
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any, Literal

from tqdm import tqdm

from pet_calc.check.run import check_set
from pet_calc.check.structures import check_leakage
from pet_calc.config import DatasetOptions, RunOptions
from pet_calc.data.census import LabelCensus
from pet_calc.data.frames import LabeledFrame, Progress, check_elements
from pet_calc.data.label_options import build_label_units
from pet_calc.data.orientation import turn_as_judged
from pet_calc.data.read_dataset import StoreRule, read_dataset
from pet_calc.errors import ConfigError, DataError
from pet_calc.evaluate.metrics import format_errors
from pet_calc.evaluate.predict import BatchPredictor
from pet_calc.model.hypers import ENERGY
from pet_calc.model.pet import PET
from pet_calc.train.direct import label_direct
from pet_calc.train.domain.forgetting import has_own_labels, measure_retained
from pet_calc.train.domain.generate import generate_frames
from pet_calc.train.start.direct_heads import DirectHeads, find_direct_heads
from pet_calc.train.start.model import Prepared

logger = logging.getLogger(__name__)

# random ones, in which the base labels a frame besides that of the file
N_ORIENTATIONS = 7


@dataclass
class BaseDomain:
    """Frames of the base's own domain, apart by their use."""

    retained: list[LabeledFrame] = field(default_factory=list)
    """To measure what is forgotten; never trained on."""
    replayed: list[LabeledFrame] = field(default_factory=list)
    """To train on as well."""
    before: dict[str, float] = field(default_factory=dict)
    """Errors of the base on ``retained``."""


def read_base_domain(
    prepared: Prepared,
    options: RunOptions,
    training: Sequence[LabeledFrame],
    *,
    show_progress: bool,
) -> BaseDomain:
    """Return what the options ask to be measured and replayed, and measure the base.

    Args:
        prepared: with the model before offsets are fitted and LoRA is injected.
        options: of the run.
        training: the training set.
        show_progress: show progress bars.
    """
    domain = BaseDomain()
    if prepared.base is None:
        return domain

    def progress(items: Any) -> Any:
        hide = None if show_progress else True
        return tqdm(items, desc="base domain", unit="frame", leave=False, disable=hide)

    def read(name: Literal["retain_set", "replay_set"], needs_labels: bool) -> Any:
        return read_base_set(
            name, getattr(options, name), prepared, needs_labels, progress
        )

    domain.retained = read("retain_set", True)
    replay = options.train.replay
    domain.replayed = read("replay_set", replay.labels == "file")
    _warn_of_overlap(domain, training)

    heads = _find_trained_heads(prepared)

    def label(frames: Sequence[LabeledFrame]) -> list[LabeledFrame]:
        model, output = prepared.model, prepared.base_output
        labelled = label_by_model(model, output, frames, progress)
        label_direct(model, heads, labelled)
        return labelled

    if replay.labels == "base":
        domain.replayed = label(domain.replayed)
    else:
        # those of the files, whatever the base's heads say
        label_direct(prepared.model, DirectHeads(), domain.replayed)
    if replay.generate:
        made = generate_frames(
            training,
            replay.generate,
            prepared.base.atomic_types,
            label,
            seed=options.seed,
        )
        logger.info("replay frames made of the training set:\n%s", _count(made))
        domain.replayed += made
    if domain.retained:
        measure = partial(
            measure_retained,
            prepared.model,
            output=prepared.base_output,
            offsets=prepared.base_composition,
            progress=progress,
        )
        domain.before = measure(domain.retained)
        # the base's own predictions are right in the orientation they were made in
        if not has_own_labels(domain.before):
            domain.retained = turn_as_judged(domain.retained)
            domain.before = measure(domain.retained)
        logger.info("retain_set, the base: %s", format_errors(domain.before))
    return domain


def read_base_set(
    name: str,
    datasets: Sequence[DatasetOptions],
    prepared: Prepared,
    needs_labels: bool,
    progress: Progress,
) -> list[LabeledFrame]:
    """Return the frames of ``retain_set`` or ``replay_set``, checked with the base.

    Args:
        name: of the set, for messages.
        datasets: where the frames are.
        prepared: with the model before training.
        needs_labels: whether the labels of the files are used.
        progress: wraps the iteration over frames.

    Raises:
        ConfigError: if the labels are said to belong to another output.
        DataError: for files that cannot be read, for elements that the base does not
            know, and for labels that contradict it: they would pass for forgetting.
    """
    assert prepared.base is not None
    # they are far fewer than training sets may be
    rule = StoreRule(Path(), "never")
    frames: list[LabeledFrame] = []
    for dataset in datasets:
        names = [target.name for target in dataset.energy_targets]
        if names not in ([prepared.source], [ENERGY]):
            raise ConfigError(
                f"{name}.targets: expected {prepared.source}, the output of the base "
                f"that the training starts from, got {', '.join(names)}"
            )
        frames += read_dataset(dataset, rule, progress=progress)
    if not frames:
        return frames
    logger.info("%s:\n%s", name, _count(frames))
    try:
        check_elements(frames, prepared.base.atomic_types)
    except DataError as error:
        raise DataError(f"{name}: {error}") from error
    if needs_labels:
        _check_labels(name, datasets, frames, prepared)
    return frames


def label_by_model(
    model: PET,
    output: str,
    frames: Sequence[LabeledFrame],
    progress: Progress | None = None,
) -> list[LabeledFrame]:
    """Return the frames with the model's energy, forces and, if periodic, stress.

    They are means over orientations: what the model makes of a single one is not to be
    learned.
    """
    predictor = BatchPredictor(model, output, n_orientations=N_ORIENTATIONS)
    batches = predictor.predict(frames, progress)
    labelled = []
    for prediction in chain.from_iterable(batch.averaged for batch in batches):
        frame = prediction.frame
        labelled.append(
            LabeledFrame(
                numbers=frame.numbers,
                positions=frame.positions,
                cell=frame.cell,
                pbc=frame.pbc,
                energy=prediction.energy,
                forces=prediction.forces.copy(),
                stress=None if prediction.stress is None else prediction.stress.copy(),
                charge=frame.charge,
                spin_multiplicity=frame.spin_multiplicity,
                weight=frame.weight,
                source=frame.source,
                config_type=frame.config_type,
                origins=dict.fromkeys(("energy", "forces"), "the base's prediction"),
            )
        )
    return labelled


def _find_trained_heads(prepared: Prepared) -> DirectHeads:
    """Return the direct heads that say what the base's do; not those that are new."""
    trained = prepared.direct
    found = find_direct_heads(prepared.model, prepared.source)
    forces, stress = trained.forces or found.forces, trained.stress or found.stress
    return DirectHeads(
        None if forces in trained.new else forces,
        None if stress in trained.new else stress,
    )


def _check_labels(
    name: str,
    datasets: Sequence[DatasetOptions],
    frames: list[LabeledFrame],
    prepared: Prepared,
) -> None:
    """Raise unless the labels are of the base's level, as far as it can tell."""
    if not any(f.energy is not None or f.forces is not None for f in frames):
        hint = ", or use --replay-labels base" if name == "replay_set" else ""
        raise DataError(
            f"{name}: no frame has an energy or forces; name their keys under "
            f"`{name}:` in an options file{hint}"
        )
    report = check_set(
        frames,
        model=prepared.model,
        target=prepared.base_output,
        units=build_label_units(datasets[0]),
    )
    # one level of theory has one zero of energy: no offset is fitted to these
    wrong = [f for f in report.findings if f.code == "energy-offset"] + report.errors
    if wrong:
        raise DataError(
            f"{name}: {'; '.join(finding.what for finding in wrong)}. Its labels must "
            "be of the level of theory of the base, in eV and Å; for other keys, "
            f"units and signs describe it under `{name}:` in an options file, as a "
            "training set is"
        )
    for finding in report.findings:
        if finding.severity == "warning":
            logger.warning("%s: %s; %s", name, finding.what, finding.advice)


def _warn_of_overlap(domain: BaseDomain, training: Sequence[LabeledFrame]) -> None:
    """Warn if forgetting would be measured on what is trained on."""
    if not domain.retained:
        return
    for name, frames in (("training", training), ("replay", domain.replayed)):
        for finding in check_leakage(frames, domain.retained, "retained"):
            logger.warning(
                "%s (%s set): forgetting will look smaller than it is",
                finding.what,
                name,
            )


def _count(frames: Sequence[LabeledFrame]) -> str:
    return textwrap.indent(LabelCensus.from_frames(frames).to_text(), "  ")
