"""Direct ("non-conservative") heads of the base, trained on the forces and stress.

They answer without a derivative, from one more pass through the network a step, which
costs about a third of the pass that forces are derived in.
"""

import logging
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from pet_calc.config import LossOptions
from pet_calc.data.dataset import LabelTotals
from pet_calc.data.loader import MicroBatch
from pet_calc.evaluate.metrics import Metrics
from pet_calc.model.batch import Batch
from pet_calc.model.derivatives import Prediction
from pet_calc.model.edges import compute_edge_vectors
from pet_calc.model.hypers import (
    NON_CONSERVATIVE_FORCE,
    NON_CONSERVATIVE_FORCES,
    NON_CONSERVATIVE_STRESS,
)
from pet_calc.model.pet import PET
from pet_calc.train.loss import compute_loss
from pet_calc.train.share import compute_share

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class DirectHeads:
    """Names of the direct outputs that train with an energy output, None without."""

    forces: str | None = None
    stress: str | None = None

    @property
    def names(self) -> list[str]:
        """Those that there are."""
        return [name for name in (self.forces, self.stress) if name is not None]


def set_up_direct_heads(
    model: PET,
    source: str,
    target: str,
    *,
    has_forces: bool,
    has_stress: bool,
    keeps_others: bool,
) -> DirectHeads:
    """Return the direct heads to train for ``target``; adds them in place if need be.

    The heads of ``source`` are those of its variant (``non_conservative_force/pbe``
    for ``energy/pbe``), else those without one. They are trained under their own
    names, unless these belong to an output that stays in the model: then the forces
    get heads of their own, which start from the base's. A stress of its own is not
    possible: PET files have one direct stress only, so it stays the base's.

    Args:
        model: with ``source``, and ``target`` added already.
        source: energy output of the base that ``target`` starts from, or itself.
        target: energy output that is trained.
        has_forces: whether there are forces to train on.
        has_stress: whether there are stresses to train on.
        keeps_others: whether the base's other outputs stay.
    """
    forces = stress = None
    variant = target.partition("/")[2]
    found = _find(model, source, NON_CONSERVATIVE_FORCE, NON_CONSERVATIVE_FORCES)
    if found is not None and has_forces:
        forces = found
        own = found.partition("/")[0] + (f"/{variant}" if variant else "")
        if keeps_others and own != found:
            forces = own
            _copy_output(model, found, own)
    found = _find(model, source, NON_CONSERVATIVE_STRESS)
    if found is not None and has_stress:
        if keeps_others and found.partition("/")[2] != variant:
            logger.warning(
                "output %s stays that of %s, with the weights that it has: there is "
                "one direct stress in a model, none of its own for %s",
                found,
                source,
                target,
            )
        else:
            stress = found
    heads = DirectHeads(forces, stress)
    if heads.names:
        logger.info("direct heads that train: %s", ", ".join(heads.names))
    return heads


class DirectTask:
    """Training and measuring of direct heads."""

    def __init__(self, heads: DirectHeads, loss: LossOptions) -> None:
        """Take the loss of the energy output: its terms for forces and stress hold."""
        self.heads = heads
        # no energy is predicted: its term stays out
        self.loss = replace(loss, value=replace(loss.value, weight=0.0))
        self._metrics = Metrics()

    def compute_share(
        self, model: PET, part: MicroBatch, totals: LabelTotals
    ) -> Tensor:
        """Return what a part of a step contributes to the step's loss, in float64."""
        prediction = predict_direct(model, part.batch, self.heads, is_training=True)
        volumes = torch.det(part.batch.cells.to(torch.float64)).abs()
        parts = compute_loss(prediction, part.labels, volumes, self.loss)
        return compute_share(parts, part.labels, totals, self.loss)

    def add_errors(self, model: PET, part: MicroBatch) -> None:
        """Count the errors of a part."""
        no_energy = torch.zeros_like(part.labels.has_energy)
        self._metrics.add(
            predict_direct(model, part.batch, self.heads),
            part.labels._replace(has_energy=no_energy),
        )

    def pop_metrics(self) -> Metrics:
        """Return the errors of forces and stress that were counted, and start over."""
        metrics, self._metrics = self._metrics, Metrics()
        return metrics


def predict_direct(
    model: PET, batch: Batch, heads: DirectHeads, *, is_training: bool = False
) -> Prediction:
    """Return what the direct heads say, energies zero; no mean force is taken off."""
    with torch.set_grad_enabled(is_training):
        vectors = compute_edge_vectors(batch).to(model.edge_embedder.weight.dtype)
        values = {
            name: per_atom + model.composition(batch, name).to(per_atom.dtype)
            for name, per_atom in model(batch, vectors, heads.names).items()
        }
        forces = stress = None
        if heads.forces is not None:
            forces = values[heads.forces].view(-1, 3)
        n_systems = batch.cells.shape[0]
        if heads.stress is not None:
            per_atom = values[heads.stress]
            stress = per_atom.new_zeros((n_systems, 9))
            stress = stress.index_add(0, batch.system_of_atom, per_atom)
            stress = stress.view(-1, 3, 3)
    zeros = batch.positions.new_zeros(n_systems, dtype=torch.float64)
    return Prediction(zeros, zeros, forces, stress)


def _find(model: PET, source: str, *bases: str) -> str | None:
    """Return the first output of these names, of the variant of ``source`` or none."""
    variant = source.partition("/")[2]
    endings = [f"/{variant}", ""] if variant else [""]
    names = [base + ending for ending in endings for base in bases]
    return next((name for name in names if name in model.targets), None)


def _copy_output(model: PET, source: str, name: str) -> None:
    """Add the output ``name`` as a copy of ``source``, in place, unless it is there."""
    if name in model.targets:
        return
    spec = model.targets[source]
    block_name = spec.block_name.replace(source, name, 1)
    # fresh heads draw start values, which the copies replace at once
    with torch.random.fork_rng(devices=[]):
        model.add_target(
            replace(spec, name=name, block_name=block_name),
            inherit_from=source,
        )
