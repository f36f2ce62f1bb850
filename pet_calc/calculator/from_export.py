"""Evaluate an exported file: by the engine, TorchScript, or metatomic-ase."""

import functools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from ase import Atoms
from ase.calculators.calculator import PropertyNotImplementedError
from torch import Tensor

from pet_calc.calculator.at_once import count_batch_tokens
from pet_calc.calculator.atoms_io import (
    build_single_batch,
    join_predictions,
    name_results,
    name_stresses,
    read_results,
    turn_atoms,
)
from pet_calc.calculator.backend import FeatureKind
from pet_calc.calculator.metatomic_file import MetatomicFile
from pet_calc.calculator.request import Request
from pet_calc.calculator.scripted_file import ScriptedFile, find_script_obstacle
from pet_calc.calculator.uncertainty import UNCERTAINTIES
from pet_calc.checkpoint.archive import verify_archive
from pet_calc.checkpoint.open import choose_device
from pet_calc.checkpoint.uncertainty import describe_missing
from pet_calc.data.labels import read_charge_and_spin
from pet_calc.data.orientation import turn_batch
from pet_calc.data.pair_cache import PairCache
from pet_calc.engine.engine import Engine
from pet_calc.engine.supported import find_exported_obstacle
from pet_calc.engine.switch import Compile, EngineSwitch
from pet_calc.errors import CheckpointError, ConfigError, ModelError
from pet_calc.model.batch import Batch
from pet_calc.model.derivatives import Prediction
from pet_calc.model.hypers import DIRECT_FORCE, DIRECT_STRESS, ENERGY, TargetSpec

DTYPES = {"float32": torch.float32, "float64": torch.float64}


class ExportBackend:
    """An exported model; the same interface as ``CheckpointBackend``."""

    def __init__(
        self,
        path: str | Path,
        request: Request,
        *,
        device: str | torch.device | None,
        dtype: torch.dtype | None,
    ) -> None:
        """Load the file; the arguments are those of ``PETCalculator``.

        Raises:
            CheckpointError: if the file cannot be loaded.
            ConfigError: if it is in another dtype, which is fixed by the export, or the
                compiled engine was asked for and cannot run it.
            ModelError: if the model lacks an output.
        """
        self._rebuild = functools.partial(
            ExportBackend, path, request, device=device, dtype=dtype
        )
        self._path = str(path)
        self.device = choose_device(device)
        self.model = load_exported(path)
        capabilities = self.model.capabilities()
        self.dtype = DTYPES[capabilities.dtype]
        if dtype not in (None, self.dtype):
            raise ConfigError(
                f"{path}: exported in {capabilities.dtype}; export it again with "
                "--dtype to change that"
            )
        self.known = set(capabilities.atomic_types)
        outputs = list(capabilities.outputs)
        energies = [name for name in outputs if name.partition("/")[0] == ENERGY]
        # metatomic knows one spelling of the forces
        bases = (ENERGY, DIRECT_FORCE, DIRECT_STRESS)
        self.chosen = request.choose_targets(
            {name: TargetSpec.for_energy(name) for name in energies},
            [name for name in outputs if name.partition("/")[0] in bases],
        )
        self.target = self.chosen.energy
        self._switch = self._decide(request.compile)
        self._pairs = PairCache(
            self.model.requested_neighbor_lists()[0].cutoff,
            skin=request.skin,
        )
        self._state: tuple[int, int] | None = None
        # of the last evaluation by the engine, as in CheckpointBackend
        self._features: torch.Tensor | None = None
        self._file: ScriptedFile | MetatomicFile
        if find_script_obstacle(self.model, self.target) is None:
            self.model.to(self.device)
            self._file = ScriptedFile(self.model, self.target, self.dtype)
        else:
            self._file = MetatomicFile(
                self.model, device=self.device, chosen=self.chosen
            )
        self._has_uncertainty = bool(self.list_uncertainties())

    def _decide(self, compile: Compile) -> EngineSwitch:
        if self.chosen.direct:
            obstacle: str | None = "it derives forces from the energy"
        elif self.device.type != "cpu":
            obstacle = f"the model is on {self.device}, the engine is for the CPU"
        else:
            obstacle = find_exported_obstacle(self.model, self.target)
        make = functools.partial(
            Engine.from_file, self.model, self.target, dtype=self.dtype
        )
        return EngineSwitch(obstacle, make, compile=compile)

    def __reduce__(self) -> tuple[Any, tuple[()]]:
        # neither TorchScript nor vesin can be copied or pickled: load the file again
        return self._rebuild, ()

    def find_changes(self, before: Atoms, now: Atoms) -> list[str]:
        """Return which inputs in ``info`` differ, of those that the model reads."""
        if isinstance(self._file, MetatomicFile):
            return self._file.find_changes(before, now)
        if not self._file.is_conditioned:
            return []
        return [] if read_charge_and_spin(now) == self._state else ["info"]

    def compute(
        self, atoms: Atoms, properties: Sequence[str], has_stress: bool
    ) -> dict[str, Any]:
        """Return what ``CheckpointBackend.compute`` returns.

        Raises:
            ModelError: if the model refuses the system, as for an unknown charge.
        """
        with _say_what_was_raised():
            return self._compute(atoms, properties, has_stress)

    def predict_turned(
        self,
        atoms: Atoms,
        matrices: npt.NDArray[np.float64],
        properties: Sequence[str],
        is_bulk: bool,
    ) -> Prediction:
        """Return what ``CheckpointBackend.predict_turned`` does, one after the other.

        Files take one system at a time.
        """
        self._features = None
        self.chosen.check_stress(properties)
        with_stress = self.chosen.wants_stress(is_bulk, properties)
        runner = self._switch.get() or self._file
        if isinstance(runner, MetatomicFile):
            return join_predictions(
                [
                    read_results(
                        runner.compute(
                            turn_atoms(atoms, matrix), with_stress=with_stress
                        )
                    )
                    for matrix in matrices
                ]
            )
        batch = self._build_batch(atoms, runner)
        turns = torch.from_numpy(matrices).to(self.device)
        with _say_what_was_raised():
            return join_predictions(
                [
                    self._predict(runner, turn_batch(batch, matrix), with_stress)
                    for matrix in turns.split(1)
                ]
            )

    @contextmanager
    def apart(self) -> Iterator[None]:
        """Evaluate in the block what no step follows or is followed by."""
        before = self._state, self._pairs, self._features
        self._pairs = PairCache(self._pairs.cutoff, skin=0.0)
        try:
            yield
        finally:
            self._state, self._pairs, self._features = before

    def count_tokens(self, atoms: Atoms) -> int:
        """Return the pairs and atoms of a system."""
        pairs = PairCache(self._pairs.cutoff, skin=0.0)
        return count_batch_tokens(build_single_batch(atoms, pairs, self.device))

    def _compute(
        self, atoms: Atoms, properties: Sequence[str], has_stress: bool
    ) -> dict[str, Any]:
        self._features = None
        self.chosen.check_stress(properties)
        has_stress = self.chosen.wants_stress(has_stress, properties)
        # files from before evaluate_pairs may have all that the engine needs
        runner = self._switch.get() or self._file
        if isinstance(runner, MetatomicFile):
            results = runner.compute(atoms, with_stress=has_stress)
            return results | self.estimate(atoms, properties)
        batch = self._build_batch(atoms, runner)
        prediction = self._predict(runner, batch, has_stress)
        self._features = prediction.features
        return name_results(prediction) | self._estimate(batch, properties)

    def _build_batch(self, atoms: Atoms, runner: ScriptedFile | Engine) -> Batch:
        state = (0, 1)
        if runner.is_conditioned:
            self._state = None
            state = self._state = read_charge_and_spin(atoms)
        return build_single_batch(atoms, self._pairs, self.device, *state)

    def _predict(
        self, runner: ScriptedFile | Engine, batch: Batch, with_stress: bool
    ) -> Prediction:
        if isinstance(runner, ScriptedFile):
            return runner.predict_chosen(batch, self.chosen, with_stress=with_stress)
        return runner.predict(
            batch, with_stress=with_stress, with_features=self._has_uncertainty
        )

    def estimate(self, atoms: Atoms, properties: Sequence[str]) -> dict[str, Any]:
        """Return uncertainties and ``stresses`` among the properties, nothing else.

        The atoms are those of the last ``compute``.
        """
        if isinstance(self._file, MetatomicFile):
            if "stresses" in properties:
                raise PropertyNotImplementedError(self._explain_lack("atoms' stresses"))
            return {}
        with _say_what_was_raised():
            return self._estimate(self._build_batch(atoms, self._file), properties)

    def compute_features(self, atoms: Atoms, kind: FeatureKind) -> Tensor:
        """Return the features of each atom, [n_atoms, n_features]."""
        if kind != "last_layer":
            raise ModelError(
                f"{self._path}: an exported file gives features of the last layer "
                f"only; for those of the {kind} take the checkpoint"
            )
        features = None
        if isinstance(self._file, ScriptedFile):
            with _say_what_was_raised():
                batch = self._build_batch(atoms, self._file)
                features = self._file.compute_features(batch)
        if features is None:
            raise ModelError(self._explain_lack("features"))
        return features

    def _explain_lack(self, what: str) -> str:
        return (
            f"{self._path}: of this file {what} cannot be read here; export the "
            "checkpoint with this pet-calc"
        )

    def list_uncertainties(self) -> list[str]:
        """Return the names of those that there are."""
        if not isinstance(self._file, ScriptedFile):
            return []
        return self._file.list_uncertainties()

    def explain_missing(self) -> str:
        """Return why there is no uncertainty, and which command makes one."""
        if isinstance(self._file, MetatomicFile):
            return self._explain_lack("uncertainties")
        missing = describe_missing(self._path, self.target)
        return f"{missing}; then export it again"

    def _estimate(self, batch: Batch, properties: Sequence[str]) -> dict[str, Any]:
        found: dict[str, Any] = {}
        if not isinstance(self._file, ScriptedFile):
            return found
        if "stresses" in properties:
            self.chosen.check_stress(properties)
            found["stresses"] = name_stresses(self._file.predict_stresses(batch))
        names = [name for name in properties if name in UNCERTAINTIES]
        if names:
            found |= self._file.estimate(batch, names, self._features)
        return found


@contextmanager
def _say_what_was_raised() -> Iterator[None]:
    """Raise in place of a trace through TorchScript's code what that raised."""
    try:
        yield
    except torch.jit.Error as error:
        kind, _, reason = str(error).strip().splitlines()[-1].partition(": ")
        if kind != "builtins.ValueError":
            raise
        raise ModelError(reason) from error


def load_exported(path: str | Path) -> Any:
    """Return the metatomic model of an exported file, on the CPU.

    Raises:
        CheckpointError: if it is damaged, or metatomic does not accept it.
    """
    from metatomic.torch import load_atomistic_model

    verify_archive(path)
    try:
        return load_atomistic_model(str(path))
    # with bytes that no one meant, TorchScript's parser can fail in any way
    except Exception as error:
        reason = next(iter(str(error).strip().splitlines()), "")
        raise CheckpointError(
            f"{path}: not an exported metatomic model: {reason}"
        ) from error
