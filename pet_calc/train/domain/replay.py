"""Replay: every step also trains on structures of the base's own domain."""

import logging

from pet_calc.config import RunOptions, replace
from pet_calc.data.dataset import SystemDataset
from pet_calc.data.frames import LabeledFrame
from pet_calc.data.orientation import REPLAY
from pet_calc.data.read_dataset import has_label
from pet_calc.system.ranks import Ranks
from pet_calc.train.direct import DirectObjective, build_direct_loss
from pet_calc.train.loaders import build_loaders
from pet_calc.train.objective import EnergyObjective, Objective, TrainedSet
from pet_calc.train.start.direct_heads import find_direct_heads
from pet_calc.train.start.model import Prepared
from pet_calc.train.task import Task

logger = logging.getLogger(__name__)

# in a step, where the options do not say. A frame of 64 water molecules is a batch of
# atoms by itself, but one small molecule of the base says little about the others
# (LoRA r=32 on water192: forces of the base's domain become 1.61 times as wrong with
# one, 1.29 with four)
FEWEST_FRAMES = 4


def build_replay(
    prepared: Prepared,
    options: RunOptions,
    task: Task,
    frames: list[LabeledFrame],
    ranks: Ranks,
) -> list[TrainedSet]:
    """Return what each step also trains on, nothing without frames; say what it is.

    The frames' energies are compared with the *base's* energies per element taken off,
    not the new ones: labels of the base's level then ask of the network what it gave
    before, and a shift between two levels of theory asks nothing of it. Which target
    learns them depends on what is kept. With one target the replayed labels are put
    to that one: forces of another level differ little beside what would be forgotten.
    With the base's head kept next to a new one, the labels belong to that head, which
    itself stays as it is: they hold the trunk that both share. Direct heads go with the
    target that learns.

    Args:
        prepared: the model of the run.
        options: of the run.
        task: what the training set is for; its loss is that of replay too.
        frames: to replay.
        ranks: the processes that share the work.
    """
    if not frames:
        return []
    model, weight = prepared.model, options.train.replay.weight
    datasets = {"train": SystemDataset(frames, model.pair_cutoff)}
    device = model.edge_embedder.weight.device
    # method heads: the base's own head would not move, nor what it says
    is_shared = prepared.keeps_source and options.finetune.method != "heads"
    heads = prepared.direct
    if is_shared:
        heads = find_direct_heads(model, prepared.source)
    # the frames have labels for them, see `label_direct`
    heads = replace(heads, own_labels=tuple(heads.names))
    own = Task(
        prepared.source if is_shared else task.target,
        task.loss.forces.weight > 0 and has_label(frames, "forces"),
        task.loss.stress.weight > 0 and has_label(frames, "stress"),
        task.loss,
    )
    objectives: list[Objective] = [
        EnergyObjective(
            own, composition=prepared.base_composition, weight=weight, is_for_all=True
        )
    ]
    if heads.names:
        loss = build_direct_loss(options, task.loss)
        objectives.append(DirectObjective(heads, loss, weight=weight))
    loader = build_loaders(
        datasets, _set_batch_size(options), device, ranks, stream=REPLAY
    )["train"]
    logger.info(
        "replay: %d frames, %s in every step beside those of the training set, for "
        "target %s with the base's energies per element, weight %g",
        len(frames),
        f"{loader.size} of them" if loader.by == "frames" else "a batch of them",
        ", ".join([own.target, *heads.names]),
        weight,
    )
    return [TrainedSet(loader, objectives)]


def _set_batch_size(options: RunOptions) -> RunOptions:
    """Return the options with batches as replay has them."""
    train = options.train
    size = train.replay.batch_size
    if size is None:
        if train.is_by_pairs:
            return options
        size = max(FEWEST_FRAMES, train.frames_per_step)
    return replace(options, train=replace(train, batch_size=size, pairs_per_batch=None))
