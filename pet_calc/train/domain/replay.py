"""Replay: every step also trains on structures of the base's own domain."""

import logging
from dataclasses import dataclass

import torch
from torch import Tensor

from pet_calc.config import RunOptions, replace
from pet_calc.data.dataset import GraphDataset, LabelTotals
from pet_calc.data.frames import LabeledFrame
from pet_calc.data.loader import BatchLoader, MicroBatch, Step
from pet_calc.data.orientation import REPLAY
from pet_calc.data.read_dataset import has_label
from pet_calc.model.pet import PET
from pet_calc.system.ranks import Ranks
from pet_calc.train.direct import DirectTask, build_direct_loss
from pet_calc.train.loaders import build_loaders
from pet_calc.train.loop import Task
from pet_calc.train.loss import compute_loss, compute_share
from pet_calc.train.start.direct_heads import find_direct_heads
from pet_calc.train.start.model import Prepared
from pet_calc.train.steps import StepPredictor

logger = logging.getLogger(__name__)

# in a step, where the options do not say. A frame of 64 water molecules is a batch of
# atoms by itself, but one small molecule of the base says little about the others
# (LoRA r=32 on water192: forces of the base's domain become 1.61 times as wrong with
# one, 1.29 with four)
FEWEST_FRAMES = 4


@dataclass
class ReplayTask:
    """The frames of the base's domain, their loss, and the output that they train.

    Their energies are compared with the *base's* energies per element taken off, not
    the new ones: labels of the base's level then ask of the network what it gave
    before, and an offset between two levels of theory asks nothing of it. Which output
    learns them depends on what is kept. With one output the replayed labels are put
    to that one: forces of another level differ little beside what would be forgotten.
    With the base's head kept next to a new one, the labels belong to that head, which
    itself stays as it is: they hold the trunk that both share. Direct heads go with the
    output that learns.
    """

    task: Task
    """With the output that learns, which labels there are, and the loss."""
    loader: BatchLoader
    """Shuffled and turned; its order depends on seed and pass only."""
    offsets: Tensor
    """[n_species] float64 in eV: the base's energies per element."""
    weight: float
    """Factor of the loss."""
    direct: DirectTask | None = None
    """The direct heads that learn likewise."""

    def find_step(self, number: int) -> Step:
        """Return the frames for a step of the training.

        They depend on nothing else, so a resumed run sees the same.
        """
        sweep, k = divmod(number, self.loader.n_steps)
        return next(self.loader.iterate_steps(sweep, start=k))

    def compute_share(
        self,
        predictor: StepPredictor,
        model: PET,
        part: MicroBatch,
        totals: LabelTotals,
    ) -> Tensor:
        """Return what a part contributes to the weighted loss of its step."""
        batch, labels = part.batch, part.labels
        prediction = predictor.predict(model, batch, self.task, is_training=True)
        species = model.species_to_species_index.index_select(0, batch.species)
        per_atom = self.offsets.to(species.device).index_select(0, species)
        energy = labels.energy.index_add(0, batch.system_of_atom, -per_atom)
        labels = labels._replace(energy=energy)
        volumes = torch.det(batch.cells.to(torch.float64)).abs()
        parts = compute_loss(prediction, labels, volumes, self.task.loss)
        share = compute_share(parts, labels, totals, self.task.loss)
        if self.direct is not None:
            share = share + self.direct.compute_share(model, part, totals)
        return self.weight * share


def build_replay(
    prepared: Prepared,
    options: RunOptions,
    task: Task,
    frames: list[LabeledFrame],
    ranks: Ranks,
) -> ReplayTask | None:
    """Return what each step also trains on, None without frames; say what it is.

    Args:
        prepared: the model of the run.
        options: of the run.
        task: what the training set is for; its loss is that of replay too.
        frames: to replay.
        ranks: the processes that share the work.
    """
    if not frames:
        return None
    model = prepared.model
    datasets = {"train": GraphDataset(frames, model.pair_cutoff)}
    device = model.edge_embedder.weight.device
    # method heads: the base's own head would not move, nor what it says
    is_shared = prepared.keeps_source and options.finetune.method != "heads"
    heads = prepared.direct
    if is_shared:
        heads = find_direct_heads(model, prepared.source)
    # the frames have labels for them, see `label_direct`
    heads = replace(heads, own_labels=tuple(heads.names))
    direct = DirectTask(heads, build_direct_loss(options, task.loss))
    replay = ReplayTask(
        Task(
            prepared.source if is_shared else task.target,
            task.loss.forces.weight > 0 and has_label(frames, "forces"),
            task.loss.stress.weight > 0 and has_label(frames, "stress"),
            task.loss,
        ),
        build_loaders(datasets, _set_batch_size(options), device, ranks, stream=REPLAY)[
            "train"
        ],
        prepared.base_offsets,
        options.train.replay.weight,
        direct if heads.names else None,
    )
    loader = replay.loader
    logger.info(
        "replay: %d frames, %s in every step beside those of the training set, for "
        "output %s with the base's energies per element, weight %g",
        len(frames),
        f"{loader.size} of them" if loader.by == "frames" else "a batch of them",
        ", ".join([replay.task.target, *heads.names]),
        replay.weight,
    )
    return replay


def _set_batch_size(options: RunOptions) -> RunOptions:
    """Return the options with batches as replay has them."""
    train = options.train
    size = train.replay.batch_size
    if size is None:
        if train.is_by_pairs:
            return options
        size = max(FEWEST_FRAMES, train.frames_per_step)
    return replace(options, train=replace(train, batch_size=size, pairs_per_batch=None))
