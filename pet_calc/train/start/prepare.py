"""Put a model where step 1 begins: energies per element, LoRA, what is to train."""

from pathlib import Path

from pet_calc.checkpoint import load_checkpoint
from pet_calc.config import RunOptions
from pet_calc.data.dataset import SystemDataset
from pet_calc.data.read_dataset import sample_stored, take_frames
from pet_calc.train.datasets import RunFrames, find_of_target
from pet_calc.train.start.composition import set_composition
from pet_calc.train.start.direct_heads import scale_new_heads
from pet_calc.train.start.model import Prepared, set_trainable

# of stored frames, which may be millions: the fit converges long before
MOST_COMPOSITION_FRAMES = 10_000


def prepare_model(
    prepared: Prepared,
    options: RunOptions,
    frames: RunFrames,
    training: SystemDataset,
    resumed_from: Path | None,
) -> None:
    """Set energies per element and inject LoRA, or put the resumed model in place.

    Args:
        prepared: the model of the run, changed in place.
        options: of the run.
        frames: of the run.
        training: the training set with its neighbour lists.
        resumed_from: checkpoint of the run that goes on.
    """
    if resumed_from is not None:
        checkpoint = load_checkpoint(resumed_from)
        weight = prepared.model.edge_embedder.weight
        prepared.model = checkpoint.build_model(
            dtype=weight.dtype, device=weight.device
        )
    else:
        _set_composition(prepared, options, frames, training)
    set_trainable(prepared, options)


def _set_composition(
    prepared: Prepared, options: RunOptions, frames: RunFrames, systems: SystemDataset
) -> None:
    """Set the energies per element of each target from its own frames, in place."""
    for name, target in options.energy_targets.items():
        indices = find_of_target(frames.train, name)
        own = take_frames(frames.train, indices)
        few = sample_stored(own, MOST_COMPOSITION_FRAMES)
        set_composition(
            prepared.model,
            target,
            options.train.composition,
            few,
            [frame for frame in frames.isolated if frame.target == name],
            has_base=prepared.base is not None,
            scale_targets=options.train.scale_targets,
            batch_size=options.train.frames_per_step,
            systems=systems.select(indices.tolist()) if few is own else None,
            new_elements=prepared.new_numbers if name == prepared.target else [],
        )
    if options.train.scale_targets and prepared.direct.new:
        few = sample_stored(frames.train, MOST_COMPOSITION_FRAMES)
        scale_new_heads(prepared.model, prepared.direct, few)
