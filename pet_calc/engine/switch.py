"""Decide when the compiled engine takes over."""

import functools
import logging
import subprocess
from collections.abc import Callable
from contextlib import nullcontext
from typing import Literal, TypeAlias

import torch

from pet_calc.engine.build import (
    find_build_obstacle,
    is_built,
    start_build,
)
from pet_calc.engine.engine import Engine
from pet_calc.engine.forks import prepare_for_forks
from pet_calc.engine.supported import find_obstacle
from pet_calc.errors import ConfigError
from pet_calc.model.batch import Batch
from pet_calc.model.derivatives import Prediction, predict
from pet_calc.model.pet import PET
from pet_calc.model.precision import Bfloat16Products
from pet_calc.system.compiler import multiplies_bfloat16

logger = logging.getLogger(__name__)

Compile: TypeAlias = bool | Literal["auto"]
PRECISIONS = ("exact", "mixed")
# a run of this many evaluations is long enough to compile for
LONG_RUN = 20


def find_mixed_obstacle(model: PET) -> str | None:
    """Return why a model gains nothing from products in bfloat16, None if it does."""
    weight = model.edge_embedder.weight
    if weight.dtype == torch.float64:
        return "the model is in float64"
    if weight.device.type == "cpu" and not multiplies_bfloat16():
        return "this processor has no products in bfloat16, it would be slower"
    if weight.device.type == "cuda" and not torch.cuda.is_bf16_supported(False):
        return f"{torch.cuda.get_device_name(weight.device)} has no bfloat16"
    return None


class EngineSwitch:
    """Serves the compiled engine as soon as it should be used."""

    def __init__(
        self,
        obstacle: str | None,
        make: Callable[[], Engine],
        *,
        compile: Compile,
        wish: str = "compile=True",
    ) -> None:
        """Decide what can be decided now.

        Args:
            obstacle: why the engine cannot run the model, None if it can.
            make: makes the engine of the model, compiling it if needed.
            compile: as for ``PETCalculator``.
            wish: what the user asked for, if True, in the user's words.

        Raises:
            ConfigError: if the engine was asked for and cannot run.
        """
        if compile not in (True, False, "auto"):
            raise ConfigError(f"compile: expected True, False or 'auto', got {compile}")
        self._make = make
        self._engine: Engine | None = None
        self._n_calls = 0
        self._build: subprocess.Popen[bytes] | None = None
        self._is_undecided = False
        if compile is True:
            if obstacle is not None:
                raise ConfigError(f"{wish} needs the compiled engine, but {obstacle}")
            self._engine = make()
        elif compile == "auto" and obstacle is None:
            if is_built():
                self._engine = make()
            else:
                self._is_undecided = True
        elif compile == "auto":
            logger.debug("no compiled engine: %s", obstacle)

    def get(self) -> Engine | None:
        """Return the engine, None while the model itself should be evaluated."""
        prepare_for_forks()
        if self._is_undecided:
            self._n_calls += 1
            if self._n_calls >= LONG_RUN:
                self._try_to_switch()
        return self._engine

    def _try_to_switch(self) -> None:
        if self._build is None:
            obstacle = find_build_obstacle()
            if obstacle is not None:
                self._is_undecided = False
                logger.info("no compiled engine: %s", obstacle)
                return
            logger.info("compiling the engine meanwhile, for the steps to come")
            self._build = start_build()
        elif self._build.poll() is not None:
            self._is_undecided = False
            if is_built():
                self._engine = self._make()
                logger.info("the compiled engine takes over")
            else:
                logger.warning(
                    "compiling the engine failed, the run goes on without it; "
                    "`python -m pet_calc.engine.build` says why"
                )


class ModelSwitch(EngineSwitch):
    """A model that predicts by the engine where it should, else by itself."""

    def __init__(
        self, model: PET, target: str, *, compile: Compile, precision: str
    ) -> None:
        """Decide what can be decided now; the arguments are ``PETCalculator``'s.

        Raises:
            ConfigError: if the engine was asked for and cannot run, or mixed precision
                was and cannot be had.
        """
        if precision not in PRECISIONS:
            raise ConfigError(
                f"precision: expected one of {', '.join(PRECISIONS)}, got {precision!r}"
            )
        self._model = model
        self._target = target
        self._precision: type[Bfloat16Products] | type[nullcontext[None]] = nullcontext
        is_mixed = precision == "mixed"
        wish = "compile=True"
        if is_mixed:
            is_on_cpu = model.edge_embedder.weight.device.type == "cpu"
            obstacle = find_mixed_obstacle(model)
            if is_on_cpu and compile is False:
                obstacle = "on the CPU it needs the compiled engine, not compile=False"
            if obstacle is not None:
                raise ConfigError(f'precision="mixed": {obstacle}')
            if is_on_cpu:
                compile, wish = True, 'precision="mixed"'
            elif compile is not True:
                compile, self._precision = False, Bfloat16Products
        super().__init__(
            find_obstacle(model, target),
            functools.partial(Engine.from_model, model, target, is_mixed),
            compile=compile,
            wish=wish,
        )

    def predict(
        self, batch: Batch, *, with_stress: bool, with_features: bool = False
    ) -> Prediction:
        """Return energies, forces and, if asked for, stress, whoever computes them.

        Features of the last layer come with the same pass.
        """
        engine = self.get()
        if engine is None:
            with self._precision():
                return predict(
                    self._model,
                    batch,
                    self._target,
                    with_stress=with_stress,
                    with_features=with_features,
                )
        return engine.predict(
            batch, with_stress=with_stress, with_features=with_features
        )
