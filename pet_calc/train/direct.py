"""Training and measuring of direct force and stress heads.

They answer without a derivative. A step by PyTorch has them from the pass through the
network that it makes for the energies. Beside the engine it is a pass more, about a
third of one that forces are derived in.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from pet_calc.config import LossOptions, RunOptions, replace
from pet_calc.data.dataset import LabelTotals, SystemDataset
from pet_calc.data.frames import LabeledFrame
from pet_calc.data.loader import BatchLoader, MicroBatch
from pet_calc.data.systems import Labels
from pet_calc.evaluate.predict import DEFAULT_BATCH_TOKENS
from pet_calc.model.batch import Batch
from pet_calc.model.derivatives import Outputs, Prediction, predict_outputs
from pet_calc.model.pet import PET
from pet_calc.train.loss import compute_deviation, compute_loss, compute_share
from pet_calc.train.objective import Outcome
from pet_calc.train.start.direct_heads import DirectHeads


def build_direct_loss(options: RunOptions, energy_loss: LossOptions) -> LossOptions:
    """Return the loss of direct heads: their targets' own, else that of the energy."""
    loss = energy_loss
    for kind, target in options.direct_targets.items():
        term = options.train.loss_of(target.name).value
        name = "forces" if kind == "force" else "stress"
        loss = replace(loss, **{name: term})
    # no energy is predicted: its term stays out
    return replace(loss, weight=0.0)


class DirectObjective:
    """Direct heads, on the energy's forces and stress or on labels of their own."""

    prefix = "direct_"
    task = None

    def __init__(
        self,
        heads: DirectHeads,
        loss: LossOptions,
        *,
        target: str,
        weight: float = 1.0,
    ) -> None:
        """Say what is learned.

        Args:
            heads: that train.
            loss: of ``build_direct_loss``.
            target: energy with whose labels they go.
            weight: factor of the loss.
        """
        self.heads = heads
        self.loss = loss
        self.name = target
        kinds = {"forces": heads.forces, "stress": heads.stress}
        self.quantities = tuple(
            quantity for quantity, name in kinds.items() if name in heads.own_labels
        )
        self.direct = heads.names
        self._weight = weight

    def concerns(self, part: MicroBatch) -> bool:
        """Return whether the frames go with the energy that the heads go with."""
        return self.name in part.labels

    def compute(
        self,
        outputs: Outputs,
        model: PET,
        part: MicroBatch,
        volumes: Tensor,
        totals: LabelTotals,
        *,
        progress: float = 1.0,
    ) -> Outcome:
        """Return what a part of a step contributes to the step's loss, in float64."""
        prediction = _assemble(model, part.batch, self.heads, outputs.direct)
        labels = self._choose_labels(part)
        parts = compute_loss(prediction, labels, volumes, self.loss)
        share = compute_share(parts, labels, self._choose_totals(totals), self.loss)
        share = self._weight * share
        return Outcome(share, share.detach(), prediction, labels)

    def measure(self, outcome: Outcome, volumes: Tensor, totals: LabelTotals) -> float:
        """Return what the part adds to the sum of absolute errors of the step."""
        prediction, labels = outcome.prediction, outcome.labels
        totals = self._choose_totals(totals)
        return self._weight * compute_deviation(
            prediction, labels, volumes, totals, self.loss
        )

    def _choose_labels(self, part: MicroBatch) -> Labels:
        """Return each head's labels: its own, or the energy's forces and stress."""
        labels, own = part.labels[self.name], part.direct.get(self.name)
        labels = labels._replace(has_energy=torch.zeros_like(labels.has_energy))
        kinds = (("forces", self.heads.forces), ("stress", self.heads.stress))
        for kind, head in kinds:
            if head not in self.heads.own_labels:
                continue
            mask = f"has_{kind}"
            if own is None:
                chosen = {mask: torch.zeros_like(getattr(labels, mask))}
            else:
                chosen = {name: getattr(own, name) for name in (kind, mask)}
            labels = labels._replace(**chosen)
        return labels

    def _choose_totals(self, totals: LabelTotals) -> LabelTotals:
        """Return what the losses are averaged over: that of the labels chosen."""
        if self.heads.forces in self.heads.own_labels:
            totals = totals._replace(forces=totals.direct_forces)
        if self.heads.stress in self.heads.own_labels:
            totals = totals._replace(stress=totals.direct_stress)
        return totals


def predict_direct(
    model: PET, batch: Batch, heads: DirectHeads, *, is_training: bool = False
) -> Prediction:
    """Return what the direct heads say, energies zero; no mean force is taken off."""
    outputs = predict_outputs(model, batch, {}, heads.names, is_training=is_training)
    return _assemble(model, batch, heads, outputs.direct)


def _assemble(
    model: PET, batch: Batch, heads: DirectHeads, per_atom: Mapping[str, Tensor]
) -> Prediction:
    """Return forces and stress from the outputs of direct heads."""
    values = {
        name: per_atom[name] + model.composition(batch, name).to(per_atom[name].dtype)
        for name in heads.names
    }
    forces = stress = None
    if heads.forces is not None:
        forces = values[heads.forces].view(-1, 3)
    n_systems = batch.cells.shape[0]
    if heads.stress is not None:
        of_atoms = values[heads.stress]
        stress = of_atoms.new_zeros((n_systems, 9))
        stress = stress.index_add(0, batch.system_of_atom, of_atoms)
        stress = stress.view(-1, 3, 3)
    zeros = batch.positions.new_zeros(n_systems, dtype=torch.float64)
    return Prediction(zeros, zeros, forces, stress)


def label_direct(
    model: PET, heads: DirectHeads, frames: Sequence[LabeledFrame]
) -> None:
    """Give frames the labels that the direct heads predict, in place.

    Where no head predicts them and there are none, they are the forces and stress.
    """
    for frame in frames:
        if frame.direct_forces is None:
            frame.direct_forces = frame.forces
        if frame.direct_stress is None:
            frame.direct_stress = frame.stress
    if not heads.names or not frames:
        return
    weight = model.edge_embedder.weight
    dataset = SystemDataset(frames, model.pair_cutoff)
    size = DEFAULT_BATCH_TOKENS
    loader = BatchLoader(
        dataset, size, by="tokens", dtype=torch.float64, device=weight.device
    )
    for step in loader.iterate_steps():
        for part in step.parts:
            prediction = predict_direct(model, part.batch, heads)
            sizes = torch.bincount(part.batch.system_of_atom).tolist()
            if prediction.forces is not None:
                forces = _to_numpy(prediction.forces)
                ends = np.cumsum(sizes)[:-1]
                for i, own in zip(part.indices, np.split(forces, ends), strict=True):
                    frames[i].direct_forces = own
            if prediction.stress is not None:
                stress = _to_numpy(prediction.stress)
                for i, tensor in zip(part.indices, stress, strict=True):
                    if frames[i].pbc.all():
                        frames[i].direct_stress = tensor


def _to_numpy(values: Tensor) -> np.ndarray:
    return values.detach().cpu().to(torch.float64).numpy()
