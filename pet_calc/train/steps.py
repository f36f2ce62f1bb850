"""Who computes a training step: the compiled engine, or PyTorch."""

import logging
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import Literal

import torch

from pet_calc.data.loader import Step
from pet_calc.engine.build import TRAINER, find_build_obstacle, is_built
from pet_calc.engine.supported import find_obstacle
from pet_calc.engine.switch import find_mixed_obstacle
from pet_calc.engine.training import TrainingEngine
from pet_calc.errors import ConfigError
from pet_calc.model.batch import Batch
from pet_calc.model.derivatives import Derived, Outputs, Prediction, predict_outputs
from pet_calc.model.pet import PET
from pet_calc.model.precision import Bfloat16Products
from pet_calc.train.task import Task

logger = logging.getLogger(__name__)

# seconds by PyTorch from which a run wins back the minute that compiling takes
LONG_RUN = 150.0


class StepPredictor:
    """Predicts what a loss is made of; the same numbers either way, to rounding."""

    def __init__(
        self, engine: TrainingEngine | None = None, *, is_mixed: bool = False
    ) -> None:
        """Predict by the engine; without it by PyTorch, in bfloat16 if asked."""
        self._engine = engine
        self._is_mixed = is_mixed

    def predict(
        self,
        model: PET,
        batch: Batch,
        tasks: Sequence[Task],
        direct: Sequence[str] = (),
        *,
        is_training: bool,
    ) -> Outputs:
        """Return energies without composition, and forces and stress as in the tasks.

        PyTorch goes through the network once for all. The engine goes through it for
        each energy.

        Args:
            model: as it is at the time.
            batch: the systems.
            tasks: which energies, and what is derived from each.
            direct: names of other targets.
            is_training: attach the results to the graph of the weights.
        """
        engine = self._engine
        found: dict[str, Prediction] = {}
        rest: dict[str, Derived] = {}
        for task in tasks:
            derived = Derived(task.has_forces, task.has_stress)
            if engine is None or not any(derived):
                rest[task.target] = derived
                continue
            with torch.set_grad_enabled(is_training):
                prediction = engine.predict(
                    model, batch, task.target, with_stress=derived.stress
                )
            if not derived.forces:
                prediction = prediction._replace(forces=None)
            found[task.target] = prediction
        # errors are those of the model as it will be used
        is_mixed = self._is_mixed and is_training
        with Bfloat16Products() if is_mixed else nullcontext():
            outputs = predict_outputs(
                model,
                batch,
                rest,
                direct,
                with_composition=False,
                is_training=is_training,
            )
        return outputs._replace(energies=found | outputs.energies)

    def divide(self, step: Step) -> Step:
        """Return the step in parts that it pays to predict and differentiate at once.

        The engine's passes for several energies would share the first of at least four
        products with each weight, and keep the numbers of all in memory.
        """
        if self._engine is None:
            return step
        parts = [target for part in step.parts for target in part.divide()]
        return step._replace(parts=parts)

    @property
    def is_compiled(self) -> bool:
        """Whether the engine computes the steps."""
        return self._engine is not None

    def count_bytes(self) -> int:
        """Return the memory of the engine's steps, which PyTorch does not count."""
        return 0 if self._engine is None else self._engine.count_bytes()


def choose_predictor(
    compile: Literal["auto"] | bool,
    model: PET,
    targets: list[str],
    estimate: Callable[[], float],
    *,
    is_mixed: bool = False,
) -> StepPredictor:
    """Return the engine's predictor if it is wanted and can be had; say which it is.

    Args:
        compile: True, False or ``auto``: if the engine is compiled already, or the
            run is long enough to compile it for.
        model: to be trained.
        targets: names of the energy targets to be trained.
        estimate: returns how many seconds the run would take without the engine.
        is_mixed: multiply in bfloat16, which PyTorch does.

    Raises:
        ConfigError: if the engine was asked for and cannot run, or bfloat16 was and
            would gain nothing.
    """
    if is_mixed:
        obstacle = find_mixed_obstacle(model)
        if obstacle is not None:
            raise ConfigError(f"mixed_precision: {obstacle}; leave it out")
        logger.info("training steps by PyTorch, matrix products in bfloat16")
        return StepPredictor(is_mixed=True)
    if compile is False:
        return StepPredictor()
    found = (find_obstacle(model, target) for target in targets)
    obstacle = next((each for each in found if each is not None), None)
    if obstacle is None and not is_built(TRAINER):
        obstacle = find_build_obstacle()
        if obstacle is None and compile == "auto":
            seconds = estimate()
            if seconds < LONG_RUN:
                obstacle = f"a run of about {seconds:.0f} s is too short to compile for"
    if obstacle is None:
        try:
            predictor = StepPredictor(TrainingEngine())
        except ConfigError as error:
            obstacle = str(error)
        else:
            logger.info("training steps by the compiled engine")
            return predictor
    if compile is True:
        raise ConfigError(f"compile: true needs the compiled engine, but {obstacle}")
    logger.info("training steps by PyTorch, not by the compiled engine: %s", obstacle)
    return StepPredictor()
