"""Evaluate an exported file: by the engine, TorchScript, or metatomic-ase."""

import functools
from pathlib import Path
from typing import Any

import torch
from ase import Atoms

from pet_calc.calculator.atoms_io import build_single_batch, name_results
from pet_calc.calculator.metatomic_file import MetatomicFile
from pet_calc.calculator.scripted_file import ScriptedFile, find_script_obstacle
from pet_calc.calculator.supported import check_direct_stress, require_direct_targets
from pet_calc.calculator.uncertainty import UNCERTAINTIES
from pet_calc.checkpoint.archive import verify_archive
from pet_calc.checkpoint.open import choose_device
from pet_calc.checkpoint.uncertainty import describe_missing
from pet_calc.data.labels import read_charge_and_spin
from pet_calc.data.pair_cache import PairCache
from pet_calc.engine.engine import Engine
from pet_calc.engine.supported import find_exported_obstacle
from pet_calc.engine.switch import Compile, EngineSwitch
from pet_calc.errors import CheckpointError, ConfigError, ModelError
from pet_calc.model.batch import Batch
from pet_calc.model.hypers import (
    DIRECT_FORCE,
    DIRECT_STRESS,
    ENERGY,
    TargetSpec,
    choose_energy_target,
)

DTYPES = {"float32": torch.float32, "float64": torch.float64}


class ExportBackend:
    """An exported model; the same interface as ``CheckpointBackend``."""

    def __init__(
        self,
        path: str | Path,
        *,
        target: str | None,
        device: str | torch.device | None,
        dtype: torch.dtype | None,
        direct: bool,
        skin: float,
        compile: Compile = "auto",
    ) -> None:
        """Load the file; the arguments are those of ``PETCalculator``.

        Raises:
            CheckpointError: if the file cannot be loaded.
            ConfigError: if it is in another dtype, which is fixed by the export, or the
                compiled engine was asked for and cannot run it.
            ModelError: if the model lacks an output.
        """
        self._rebuild = functools.partial(
            ExportBackend,
            path,
            target=target,
            device=device,
            dtype=dtype,
            direct=direct,
            skin=skin,
            compile=compile,
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
        self.target = choose_energy_target(
            {name: TargetSpec.for_energy(name) for name in energies}, target
        )
        self._direct: tuple[str, str | None] | None = None
        if direct:
            # metatomic knows one spelling of the forces
            bases = (ENERGY, DIRECT_FORCE, DIRECT_STRESS)
            names = [name for name in outputs if name.partition("/")[0] in bases]
            self._direct = require_direct_targets(names, self.target)
        self._switch = self._decide(compile, direct)
        self._pairs = PairCache(
            self.model.requested_neighbor_lists()[0].cutoff,
            skin=skin,
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
                self.model,
                device=self.device,
                energy=self.target,
                direct=self._direct,
            )
        self._has_uncertainty = bool(self.list_uncertainties())

    def _decide(self, compile: Compile, direct: bool) -> EngineSwitch:
        if direct:
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
        self, atoms: Atoms, properties: list[str], has_stress: bool
    ) -> dict[str, Any]:
        """Return what ``CheckpointBackend.compute`` returns.

        Raises:
            ModelError: if the model refuses the system, as for an unknown charge.
        """
        try:
            return self._compute(atoms, properties, has_stress)
        except torch.jit.Error as error:
            # a trace through TorchScript's code, with what was raised in the end
            kind, _, reason = str(error).strip().splitlines()[-1].partition(": ")
            if kind != "builtins.ValueError":
                raise
            raise ModelError(reason) from error

    def _compute(
        self, atoms: Atoms, properties: list[str], has_stress: bool
    ) -> dict[str, Any]:
        if self._direct is not None and has_stress:
            check_direct_stress(self._direct[1], properties)
            has_stress = self._direct[1] is not None
        self._features = None
        # files from before evaluate_pairs may have all that the engine needs
        runner = self._switch.get() or self._file
        if isinstance(runner, MetatomicFile):
            return runner.compute(atoms, with_stress=has_stress)
        state = (0, 1)
        if runner.is_conditioned:
            self._state = None
            state = self._state = read_charge_and_spin(atoms)
        batch = build_single_batch(atoms, self._pairs, self.device, *state)
        if isinstance(runner, ScriptedFile) and self._direct is not None:
            forces, stress = self._direct
            prediction = runner.predict_direct(
                batch, forces, stress if has_stress else None
            )
        elif isinstance(runner, Engine):
            prediction = runner.predict(
                batch, with_stress=has_stress, with_features=self._has_uncertainty
            )
            self._features = prediction.features
        else:
            prediction = runner.predict(batch, with_stress=has_stress)
        return name_results(prediction) | self._estimate(batch, properties)

    def estimate(self, atoms: Atoms, properties: list[str]) -> dict[str, Any]:
        """Return the uncertainties among the properties, and nothing else.

        The atoms are those of the last ``compute``.
        """
        if not isinstance(self._file, ScriptedFile):
            return {}
        state = self._state if self._file.is_conditioned else (0, 1)
        batch = build_single_batch(atoms, self._pairs, self.device, *(state or (0, 1)))
        return self._estimate(batch, properties)

    def list_uncertainties(self) -> list[str]:
        """Return the names of those that there are."""
        if not isinstance(self._file, ScriptedFile):
            return []
        return self._file.list_uncertainties()

    def explain_missing(self) -> str:
        """Return why there is no uncertainty, and which command makes one."""
        if isinstance(self._file, MetatomicFile):
            return (
                f"{self._path}: of this file uncertainties cannot be read here; export "
                "the checkpoint with this pet-calc"
            )
        missing = describe_missing(self._path, self.target)
        return f"{missing}; then export it again"

    def _estimate(self, batch: Batch, properties: list[str]) -> dict[str, Any]:
        names = [name for name in properties if name in UNCERTAINTIES]
        if not names or not isinstance(self._file, ScriptedFile):
            return {}
        return self._file.estimate(batch, names, self._features)


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
