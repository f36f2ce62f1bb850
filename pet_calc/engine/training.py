"""Training steps by the compiled engine: predictions that a loss can be built on.

The engine computes energies and forces, and later, with the loss's gradient in both,
the gradient in the folded weights (kernels/training.h says how). From there PyTorch
goes on to the model's own parameters, LoRA's among them.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pet_calc.engine.build import TRAINER, load_engine
from pet_calc.engine.origin import compute_atom_inputs, differentiate_repulsion
from pet_calc.model.batch import Batch
from pet_calc.model.derivatives import Prediction, assemble_prediction
from pet_calc.model.edges import compute_edge_vectors
from pet_calc.model.fold import (
    describe_numbers,
    describe_shape,
    fold_weights,
    gather_weights,
)
from pet_calc.model.hypers import PETHypers
from pet_calc.model.pet import PET


class TrainingEngine:
    """Predicts with the weights that a model has at the time, differentiably."""

    def __init__(self) -> None:
        """Compile and load the engine.

        Raises:
            ConfigError: if the engine has to be compiled and cannot be.
        """
        load_engine(TRAINER)
        self._workspace = torch.classes.pet_calc_training.Workspace()
        self._frozen: dict[tuple[str, torch.dtype], _Frozen] = {}

    def predict(
        self, model: PET, batch: Batch, target: str, *, with_stress: bool = False
    ) -> Prediction:
        """Return energy without composition, forces and stress, attached to the graph.

        The same as ``pet_calc.model.derivatives.predict`` with ``is_training``. The
        graph leads to the model's parameters; it can be differentiated once.

        Args:
            model: one for which ``find_obstacle`` finds none.
            batch: the systems.
            target: name of an energy output.
            with_stress: whether to derive the stress.
        """
        dtype = model.edge_embedder.weight.dtype
        vectors = compute_edge_vectors(batch).to(dtype).detach().contiguous()
        tensors, layouts = self._fold(model, target, dtype)
        species, scale, addition = compute_atom_inputs(model, target, batch, dtype)
        if addition is not None:
            tensors["addition"] = addition
        pairs = (batch.centers, batch.neighbors, batch.reverse)
        inputs = (species, *pairs, vectors, scale)
        energies, gradient = _Evaluate.apply(
            self, model.hypers, inputs, layouts, list(tensors), *tensors.values()
        )
        if model.has_zbl(target):
            repulsion, slope = differentiate_repulsion(
                lambda leaf: model.compute_zbl(batch, leaf, species).squeeze(1), vectors
            )
            energies, gradient = energies + repulsion, gradient + slope
        return assemble_prediction(
            None, batch, energies, vectors, gradient, with_stress=with_stress
        )

    def count_bytes(self) -> int:
        """Return the memory that steps have needed so far and next ones use again."""
        kept = sum(frozen.layouts.count_bytes() for frozen in self._frozen.values())
        return int(self._workspace.count_bytes()) + kept

    def start_step(
        self,
        hypers: PETHypers,
        inputs: tuple[Tensor, ...],
        layouts: Any,
        tensors: dict[str, Tensor],
        trained: list[str],
    ) -> Any:
        """Return the compiled step for these inputs and folded weights.

        Args:
            hypers: shape of the model.
            inputs: systems, as the engine takes them.
            layouts: of tensors that stay.
            tensors: by name.
            trained: names of those whose gradient may be asked for.
        """
        addition = tensors.pop("addition", None)
        return torch.classes.pet_calc_training.TrainingStep(
            self._workspace,
            layouts,
            tensors,
            trained,
            describe_shape(hypers),
            describe_numbers(hypers, tensors["message_table"].dtype),
            *inputs,
            addition,
        )

    def _fold(
        self, model: PET, target: str, dtype: torch.dtype
    ) -> tuple[dict[str, Tensor], Any]:
        """Return the folded weights, and layouts of those that no step changes."""
        shape = describe_shape(model.hypers)
        weights = gather_weights(model, with_factors=torch.is_grad_enabled())
        if not torch.is_grad_enabled():
            # nothing would tell what trains from what is frozen
            return fold_weights(weights, shape, target, dtype), _lay_out([])
        sources = [value for value in weights.values() if not value.requires_grad]
        marks = [(id(part), part.data_ptr(), part._version) for part in sources]
        frozen = self._frozen.get((target, dtype))
        if frozen is not None and frozen.marks == marks:
            known = frozen.tensors
            return fold_weights(weights, shape, target, dtype, known), frozen.layouts
        folded = fold_weights(weights, shape, target, dtype)
        # a weight that LoRA corrects has no gradient, and changes all the same
        known = {
            name: value
            for name, value in folded.items()
            if not value.requires_grad
            and name.removesuffix(".weight") + ".lora_A" not in folded
        }
        layouts = _lay_out(list(known.values()))
        self._frozen[target, dtype] = _Frozen(sources, marks, known, layouts)
        return folded, layouts


@dataclass
class _Frozen:
    """What stays from step to step while the frozen weights do."""

    sources: list[Tensor]
    """The model's; held, so that no other tensor gets the identity of one."""
    marks: list[tuple[int, int, int]]
    """Of each: identity, where its numbers are, and how often they were changed."""
    tensors: dict[str, Tensor]
    """Folded weights that nothing else is in."""
    layouts: Any
    """Of these, for the engine's products."""


def _lay_out(tensors: list[Tensor]) -> Any:
    return torch.classes.pet_calc_training.Layouts(tensors)


class _Evaluate(torch.autograd.Function):
    """Energies [n_atoms] and their sum's gradient [n_pairs, 3], of the weights."""

    @staticmethod
    def forward(
        ctx: Any,
        engine: TrainingEngine,
        hypers: PETHypers,
        inputs: tuple[Tensor, ...],
        layouts: Any,
        names: list[str],
        *weights: Tensor,
    ) -> tuple[Tensor, Tensor]:
        # frozen ones as they are: the layouts know them
        tensors = {
            name: weight.detach() if weight.requires_grad else weight
            for name, weight in zip(names, weights, strict=True)
        }
        ctx.names = names
        trained = [
            name
            for name, weight in zip(names, weights, strict=True)
            if weight.requires_grad
        ]
        ctx.step = engine.start_step(hypers, inputs, layouts, tensors, trained)
        return ctx.step.evaluate()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *grad_results: Tensor) -> tuple[Tensor | None, ...]:
        grad_energies, grad_gradient = (part.contiguous() for part in grad_results)
        wanted = [
            name
            for name, is_needed in zip(ctx.names, ctx.needs_input_grad[5:], strict=True)
            if is_needed
        ]
        found = ctx.step.differentiate(grad_energies, grad_gradient, wanted)
        return (None, None, None, None, None, *map(found.get, ctx.names))
