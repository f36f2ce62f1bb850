"""Give a model an uncertainty afterwards, from the files that it was trained on."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch

from pet_calc.checkpoint import Checkpoint
from pet_calc.checkpoint.open import (
    choose_device,
    load_merged_checkpoint,
    load_merged_model,
    load_record,
)
from pet_calc.checkpoint.uncertainty import count_features, set_uncertainty
from pet_calc.config.data_options import DatasetOptions
from pet_calc.data.frames import NO_NAME, Progress, iterate_frames
from pet_calc.data.label_options import build_label_source
from pet_calc.data.loader import pack
from pet_calc.data.orientation import AS_JUDGED, Orientation, turn_batch, turn_labels
from pet_calc.data.systems import Labels, build_system, collate, collate_labels
from pet_calc.evaluate.fit_uncertainty import (
    N_MEMBERS,
    Calibration,
    CovarianceSum,
    FrameFeatures,
    fit_uncertainty,
    measure_features,
)
from pet_calc.evaluate.predict import DEFAULT_BATCH_TOKENS, check_each
from pet_calc.model.batch import Batch
from pet_calc.model.hypers import choose_energy_target
from pet_calc.model.pet import PET


@dataclass(frozen=True)
class UncertaintyOptions:
    """Of which model, from which data."""

    model: str
    """Path of a checkpoint, or a model's name."""
    train: DatasetOptions
    """What it was trained on."""
    validation: DatasetOptions
    """What it was not trained on, with energies."""
    adapter: str | None = None
    """Path of an adapter to put on the model; the result has it merged."""
    target: str | None = None
    """Energy target; None where there is only one."""
    device: str = "auto"
    """Where the model runs."""
    n_members: int = N_MEMBERS
    """Of the ensemble."""
    seed: int = 0
    """Of the orientations of the training frames, and of the ensemble."""
    batch_tokens: int = DEFAULT_BATCH_TOKENS
    """Pairs and atoms evaluated at once."""


def make_uncertainty(
    options: UncertaintyOptions, *, progress: Progress | None = None
) -> tuple[Checkpoint, str, Calibration]:
    """Return the checkpoint with an uncertainty, of which target, and how it fits.

    LoRA that the checkpoint has stays unmerged. Training frames are turned at random
    as a training turns them, the others as models are judged.

    Raises:
        PetCalcError: for files that cannot be used, naming them.
    """
    record = load_record(options.model)
    if options.adapter is not None:
        record = load_merged_checkpoint(record, adapter=options.adapter)
    model = load_merged_model(record, device=choose_device(options.device))
    target = choose_energy_target(model.targets, options.target)
    covariance = CovarianceSum(count_features(record))
    as_trained = Orientation(seed=options.seed)
    for batch, labels in _read(model, options.train, as_trained, options, progress):
        found = measure_features(model, batch, labels, target, is_labelled=False)
        covariance.add(found.features)
    parts = [
        measure_features(model, batch, labels, target, is_labelled=True)
        for batch, labels in _read(
            model, options.validation, AS_JUDGED, options, progress
        )
    ]
    held_out = FrameFeatures(
        *(torch.cat(column) for column in zip(*parts, strict=True))
    )
    fitted, calibration = fit_uncertainty(
        covariance,
        held_out,
        n_members=options.n_members,
        seed=options.seed,
        what=target,
    )
    set_uncertainty(record, model, target, fitted)
    record.metadata["uncertainty"] = {
        **(record.metadata.get("uncertainty") or {}),
        target: calibration.to_dict(),
    }
    return record, target, calibration


def _read(
    model: PET,
    dataset: DatasetOptions,
    orientation: Orientation,
    options: UncertaintyOptions,
    progress: Progress | None,
) -> Iterator[tuple[Batch, Labels]]:
    """Yield the frames of files in batches, turned."""
    frames = iterate_frames(
        list(dataset.read_from),
        {NO_NAME: build_label_source(dataset)},
        index=dataset.index,
    )
    shown = check_each(model, progress(frames) if progress else frames)
    device = model.edge_embedder.weight.device
    first = 0
    all_systems = (build_system(frame, model.pair_cutoff) for frame in shown)
    for systems in pack(all_systems, options.batch_tokens, lambda s: s.n_tokens):
        numbers = range(first, first + len(systems))
        first += len(systems)
        turns = torch.from_numpy(orientation.draw(0, numbers)).to(device)
        batch = collate(systems, dtype=torch.float64, device=device)
        labels = collate_labels(systems, dtype=torch.float64, device=device)
        yield (
            turn_batch(batch, turns),
            turn_labels(labels, turns, batch.system_of_atom),
        )
