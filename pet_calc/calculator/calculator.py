"""The ASE calculator: ``atoms.calc = PETCalculator("best_model.ckpt")``."""

import logging
from pathlib import Path
from typing import Any

import torch
from ase import Atoms
from ase.calculators.calculator import (
    Calculator,
    PropertyNotImplementedError,
    all_changes,
)

from pet_calc.calculator.from_checkpoint import CheckpointBackend
from pet_calc.calculator.from_export import DTYPES, ExportBackend
from pet_calc.calculator.from_kokkos import KokkosBackend, load_kokkos_backend
from pet_calc.calculator.supported import check_known_elements, has_stress
from pet_calc.calculator.threads import use_threads
from pet_calc.calculator.uncertainty import (
    ENERGIES_UNCERTAINTY,
    UNCERTAINTIES,
    OnUncertain,
    UncertaintyWatch,
)
from pet_calc.checkpoint import Checkpoint
from pet_calc.checkpoint.open import (
    choose_device,
    is_exported,
    load_merged_model,
    load_record,
    load_uncertainties,
)
from pet_calc.engine.switch import Compile
from pet_calc.errors import ConfigError, ModelError
from pet_calc.model.pet import PET
from pet_calc.system.cores import FreeCores
from pet_calc.system.paths import expand_path

logger = logging.getLogger(__name__)

# of this process: what others do concerns all calculators
_free_cores = FreeCores()

# the list is built again when an atom has moved half of this, Å
DEFAULT_SKIN = 0.5

BACKENDS = ("pet-calc", "pet-kokkos")


class PETCalculator(Calculator):
    """Energy, forces and stress of a PET model for ASE.

    Units are ASE's: eV, eV/Å, eV/Å^3, stress positive in tension. Every call gives
    ``energy``, ``free_energy`` (the same), ``energies`` (per atom) and ``forces``;
    ``stress`` too where the system is periodic in all three directions.

    Models with an uncertainty (``pet-calc uncertainty`` makes it) give the standard
    deviations ``energy_uncertainty`` (eV), ``energies_uncertainty`` ([n_atoms], eV) and
    ``forces_uncertainty`` ([n_atoms, 3], eV/Å): ``get_property("energy_uncertainty")``.

    Models conditioned on charge and spin read ``atoms.info["charge"]`` (default 0)
    and ``atoms.info["spin"]`` (multiplicity 2S + 1, default 1).
    """

    implemented_properties = [  # noqa: RUF012 - ASE declares it as a plain list
        "energy",
        "free_energy",
        "energies",
        "forces",
        "stress",
    ]

    def __init__(
        self,
        model: str | Path | Checkpoint | PET,
        *,
        adapter: str | Path | None = None,
        target: str | None = None,
        device: str | torch.device | None = None,
        dtype: str | torch.dtype | None = None,
        non_conservative: bool = False,
        skin: float = DEFAULT_SKIN,
        compile: Compile = "auto",
        precision: str = "exact",
        backend: str = "pet-calc",
        max_uncertainty: float | None = None,
        on_uncertain: OnUncertain = "warn",
    ) -> None:
        """Load the model.

        Args:
            model: path of a pet-calc or metatrain checkpoint or of an exported
                ``.pt`` file, or a model in memory (which is left unchanged).
            adapter: LoRA adapter file (``.safetensors``) to put on the model.
            target: energy target to use, such as ``energy/pbe`` or ``pbe``; needed
                only if the model has several and none is called ``energy``.
            device: such as ``cpu`` or ``cuda``; None takes the GPU if there is one.
            dtype: ``float32`` or ``float64``; None keeps the model's own.
            non_conservative: take forces and stress from the model's direct heads,
                which is faster but does not conserve energy. The mean force is
                taken off, so that the system does not drift.
            skin: extra distance, Å, in the neighbour list, which is kept until an
                atom has moved half of it. It changes speed, not results.
            compile: whether to use the engine that is compiled for this machine, on
                the CPU. ``"auto"`` takes it if it is there, and has it compiled in
                the background (half a minute, once) where a run has lasted for 20
                evaluations; True waits for it; False does without. Results agree to
                rounding.
            precision: ``"exact"``, or ``"mixed"`` for matrix products in bfloat16,
                which newer processors and GPUs do several times faster. The page on
                accuracy in the documentation has the size of the error.
            backend: ``"pet-kokkos"`` runs a checkpoint by the program of that name, if
                it is installed: in float32, on the GPU that its build is for. Results
                agree to rounding; uncertainties and direct forces it does not have.
            max_uncertainty: how uncertain the energy of an atom may be, eV; None does
                not look. Every evaluation then estimates it.
            on_uncertain: what happens if one is more uncertain: ``"warn"`` logs a line
                once, ``"raise"`` stops with ``UncertaintyError``, a function is called
                with an ``UncertainStep`` each time.

        Raises:
            CheckpointError: if the file cannot be read.
            ConfigError: for a wrong device, dtype, skin, compile, precision or
                backend, if the engine or pet-kokkos was asked for and cannot run, and
                for an adapter, another dtype or precision on an exported file, in
                which all are fixed.
            LoRAError: if the adapter belongs to another base.
            ModelError: if the model lacks the target asked for, or an uncertainty that
                is to be looked at.
        """
        super().__init__()
        _free_cores.begin()
        wanted = _resolve_dtype(dtype)
        if not skin >= 0.0:
            raise ConfigError(f"skin: expected a distance of at least 0 Å, got {skin}")
        if backend not in BACKENDS:
            raise ConfigError(f"backend {backend!r}: expected {' or '.join(BACKENDS)}")
        self._backend: CheckpointBackend | ExportBackend | KokkosBackend
        if isinstance(model, (str, Path)):
            model = expand_path(model)
        if backend == "pet-kokkos":
            self._backend = load_kokkos_backend(
                model,
                adapter=adapter,
                target=target,
                device=device,
                dtype=wanted,
                direct=non_conservative,
                skin=skin,
                compile=compile,
                precision=precision,
            )
        elif isinstance(model, str) and is_exported(model):
            if adapter is not None:
                raise ConfigError(
                    f"{model}: an exported file cannot take an adapter; export the "
                    "checkpoint with the adapter instead (pet-calc export --adapter)"
                )
            if precision != "exact":
                raise ConfigError(
                    f"{model}: an exported file runs in its own precision; for another "
                    "one take the checkpoint"
                )
            self._backend = ExportBackend(
                model,
                target=target,
                device=device,
                dtype=wanted,
                direct=non_conservative,
                skin=skin,
                compile=compile,
            )
        else:
            source = Checkpoint.from_model(model) if isinstance(model, PET) else model
            place = choose_device(device)
            record = load_record(source)
            network = load_merged_model(
                record, adapter=adapter, dtype=wanted, device=place
            )
            self._backend = CheckpointBackend(
                network,
                target=target,
                direct=non_conservative,
                skin=skin,
                compile=compile,
                precision=precision,
                uncertainties=load_uncertainties(record, adapter=adapter, device=place),
                source=_name_source(model, adapter),
            )
        names = self._backend.list_uncertainties()
        self.implemented_properties = [*self.implemented_properties, *names]
        self._watch: UncertaintyWatch | None = None
        if max_uncertainty is not None:
            if not names:
                raise ModelError(self._backend.explain_missing())
            self._watch = UncertaintyWatch(max_uncertainty, on_uncertain)
        logger.info(
            "PETCalculator: target %s, %s on %s",
            self.target,
            str(self.dtype).removeprefix("torch."),
            self.device,
        )

    @property
    def model(self) -> Any:
        """The network, LoRA merged, or the exported file's metatomic model."""
        return self._backend.model

    @property
    def target(self) -> str:
        """Name of the energy target in use."""
        return self._backend.target

    @property
    def device(self) -> torch.device:
        """Where the model runs."""
        return self._backend.device

    @property
    def dtype(self) -> torch.dtype:
        """Of the weights."""
        return self._backend.dtype

    def check_state(self, atoms: Atoms, tol: float = 1e-15) -> list[str]:
        """Return what changed, charge and spin in ``atoms.info`` included."""
        changes: list[str] = super().check_state(atoms, tol=tol)
        if self.atoms is not None:
            changes.extend(self._backend.find_changes(self.atoms, atoms))
        return changes

    def get_property(
        self, name: str, atoms: Atoms | None = None, allow_calculation: bool = True
    ) -> Any:
        """Return a result; called by ASE.

        Raises:
            PropertyNotImplementedError: for an uncertainty that the model lacks, saying
                which command makes it.
        """
        if name in UNCERTAINTIES and name not in self.implemented_properties:
            raise PropertyNotImplementedError(self._backend.explain_missing())
        return super().get_property(name, atoms, allow_calculation)

    def calculate(
        self,
        atoms: Atoms | None = None,
        properties: list[str] | None = None,
        system_changes: list[str] = all_changes,
    ) -> None:
        """Fill ``results``; called by ASE.

        Raises:
            ModelError: for elements, charges or spins that the model does not know.
            PropertyNotImplementedError: for the stress of a molecule or a slab.
            UncertaintyError: for atoms too uncertain, if ``on_uncertain="raise"``.
        """
        properties = list(properties or ["energy"])
        super().calculate(atoms, properties, system_changes)
        system: Any = self.atoms
        check_known_elements(system, self._backend.known)
        is_bulk = has_stress(system, properties)
        n_used = n_threads = torch.get_num_threads()
        if self.device.type == "cpu":
            n_used = _free_cores.limit(n_threads)
        # the same atoms again, of which something more is asked
        is_known = not system_changes and "energy" in self.results
        with use_threads(n_used):
            if is_known and set(properties) <= set(UNCERTAINTIES):
                self.results |= self._backend.estimate(system, properties)
                return
            if self._watch is not None:
                properties.append(ENERGIES_UNCERTAINTY)
            results = self._backend.compute(system, properties, is_bulk)
        if self._watch is not None and not is_known:
            self._watch.look(system, results[ENERGIES_UNCERTAINTY])
        self.results = results


def _name_source(model: str | Checkpoint | PET, adapter: str | Path | None) -> str:
    """Return what messages call the model."""
    name = model if isinstance(model, str) else "the model"
    return f"{name} with {adapter}" if adapter is not None else name


def _resolve_dtype(dtype: str | torch.dtype | None) -> torch.dtype | None:
    if dtype is None or dtype in DTYPES.values():
        return dtype  # type: ignore[return-value]
    if isinstance(dtype, str) and dtype in DTYPES:
        return DTYPES[dtype]
    raise ConfigError(f"dtype {dtype}: expected float32 or float64")
