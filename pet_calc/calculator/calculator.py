"""The ASE calculator: ``atoms.calc = PETCalculator("best_model.ckpt")``."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from ase import Atoms
from ase.calculators.calculator import (
    Calculator,
    PropertyNotImplementedError,
    all_changes,
)

from pet_calc.calculator.at_once import DEFAULT_BATCH_TOKENS
from pet_calc.calculator.averaging import SPREADS, RotationalAverage
from pet_calc.calculator.backend import Backend, FeatureKind
from pet_calc.calculator.batched import compute_many
from pet_calc.calculator.evaluator import ON_DEMAND, Evaluator
from pet_calc.calculator.open_backend import open_backend
from pet_calc.calculator.request import Request
from pet_calc.calculator.supported import check_known_elements, has_stress
from pet_calc.calculator.targets import DirectMode, Variants
from pet_calc.calculator.threads import use_threads
from pet_calc.calculator.uncertainty import UNCERTAINTIES, OnUncertain, UncertaintyWatch
from pet_calc.checkpoint import Checkpoint
from pet_calc.engine.switch import Compile
from pet_calc.errors import ConfigError, ModelError
from pet_calc.model.pet import PET
from pet_calc.system.cores import FreeCores

logger = logging.getLogger(__name__)

# of this process: what others do concerns all calculators
_free_cores = FreeCores()

# the list is built again when an atom has moved half of this, Å
DEFAULT_SKIN = 0.5


class PETCalculator(Calculator):
    """Energy, forces and stress of a PET model for ASE.

    Units are ASE's: eV, eV/Å, eV/Å^3, stress positive in tension. Every call gives
    ``energy``, ``free_energy`` (the same), ``energies`` (per atom) and ``forces``;
    ``stress`` too where the system is periodic in all three directions. There,
    ``stresses`` ([n_atoms, 6], eV/Å^3) are computed where they are asked for: each
    atom's part of the stress, half of what its pairs give. They sum to the stress;
    which atom a part belongs to is a convention.

    With ``rotational_average_order`` all of these but ``stresses`` are means over
    orientations, and ``energy_rot_std``, ``energies_rot_std``, ``forces_rot_std`` and
    ``stress_rot_std`` their standard deviations.

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
        "stresses",
    ]

    def __init__(
        self,
        model: str | Path | Checkpoint | PET,
        *,
        adapter: str | Path | None = None,
        adapters: Mapping[str, str | Path] | None = None,
        target: str | None = None,
        device: str | torch.device | None = None,
        dtype: str | torch.dtype | None = None,
        variants: Variants | None = None,
        non_conservative: DirectMode = False,
        rotational_average_order: int | None = None,
        rotational_average_batch_size: int | None = None,
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
            adapter: LoRA adapter file (``.safetensors``) to put on the model; with
                ``adapters`` the name of the one to begin with.
            adapters: adapter files by names of your choice, of which ``set_adapter``
                activates one; the base is loaded once.
            target: energy target to use, such as ``energy/pbe`` or ``pbe``; needed
                only if the model has several and none is called ``energy``.
            device: such as ``cpu`` or ``cuda``; None takes the GPU if there is one.
            dtype: ``float32`` or ``float64``; None keeps the model's own.
            variants: the same as a dictionary, as metatomic-ase and upet take it:
                ``{"energy": "pbe"}`` is ``target="pbe"``. Direct forces and stress
                are of that variant where the model has them, unless
                ``"non_conservative_forces"`` or ``"non_conservative_stress"`` says
                otherwise (None: that without a variant).
            non_conservative: True takes forces and stress from the model's direct
                heads, which is faster but does not conserve energy; ``"forces"`` and
                ``"stress"`` take the one and derive the other. The mean of direct
                forces is taken off, so that the system does not drift. A stress that
                is derived beside direct forces is computed where it is asked for.
            rotational_average_order: evaluate every system in orientations of a
                quadrature that is exact up to this degree of spherical harmonics, 0
                to 131, and return the means: metatomic-ase's ``l_max``. Order 3 is 84
                orientations, which cost 84 evaluations.
            rotational_average_batch_size: orientations evaluated at once; None takes
                as many as fit well. Fewer follow where memory runs out.
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
            ConfigError: for a wrong device, dtype, skin, compile, precision or backend
                and other arguments that make no sense, if the engine or pet-kokkos was
                asked for and cannot run, and for an adapter, another dtype or precision
                on an exported file, in which all are fixed.
            LoRAError: if an adapter belongs to another base.
            ModelError: if the model lacks the target asked for, or an uncertainty that
                is to be looked at.
        """
        super().__init__()
        _free_cores.begin()
        average = RotationalAverage.where_asked(
            rotational_average_order, rotational_average_batch_size
        )
        runner, self._adapters = open_backend(
            model,
            Request(
                target, variants, direct=non_conservative, skin=skin, compile=compile
            ),
            adapter=adapter,
            adapters=adapters,
            device=device,
            dtype=dtype,
            precision=precision,
            backend=backend,
        )
        watch: UncertaintyWatch | None = None
        if max_uncertainty is not None:
            watch = UncertaintyWatch(max_uncertainty, on_uncertain)
        self._use(Evaluator(runner, average, watch))

    def _use(self, evaluator: Evaluator) -> None:
        """Evaluate by this one from now on."""
        names = evaluator.backend.list_uncertainties()
        if evaluator.watch is not None and not names:
            raise ModelError(evaluator.backend.explain_missing())
        self._evaluator = evaluator
        self.implemented_properties = [
            *type(self).implemented_properties,
            *(SPREADS if evaluator.average is not None else ()),
            *names,
        ]
        self.reset()
        logger.info(
            "PETCalculator: target %s, %s on %s",
            self.target,
            str(self.dtype).removeprefix("torch."),
            self.device,
        )

    @property
    def _backend(self) -> Backend:
        return self._evaluator.backend

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

    @property
    def adapter(self) -> str | None:
        """Name of the active one of ``adapters``, None for the base alone."""
        return None if self._adapters is None else self._adapters.active

    def set_adapter(self, name: str | None, *, target: str | None = None) -> None:
        """Activate one of ``adapters``, or none; results are then the merged model's.

        Args:
            name: as in ``adapters``; None is the base alone.
            target: energy target to use from now on; None chooses as at the start.

        Raises:
            ConfigError: if the calculator was made without ``adapters``.
            LoRAError: if there is no adapter of that name, or it does not fit.
            ModelError: if the model lacks the target then, or an uncertainty that is
                looked at. Nothing has changed after an error.
        """
        if self._adapters is None:
            raise ConfigError(
                "set_adapter: this calculator has no adapters; make it with "
                "PETCalculator(base, adapters={'name': 'adapter.safetensors', ...})"
            )
        before, former = self._adapters.active, self.target
        backend = self._adapters.switch(name, target)
        try:
            self._use(replace(self._evaluator, backend=backend))
        except ModelError:
            self._adapters.switch(before, former)
            raise

    def get_features(
        self,
        atoms: Atoms | None = None,
        *,
        per_atom: bool = True,
        kind: FeatureKind = "last_layer",
    ) -> npt.NDArray[np.float64]:
        """Return features of a system, in the orientation in which it stands.

        Args:
            atoms: None takes the system of the last evaluation.
            per_atom: [n_atoms, n_features]; False sums them over the atoms.
            kind: ``"last_layer"``, what the energy's last layers are applied to and
                the uncertainty is made of, or ``"trunk"``, the tokens before the heads.

        Raises:
            ConfigError: for another kind, or without a system.
            ModelError: if the system or the file cannot be used.
        """
        system = atoms if atoms is not None else self.atoms
        if system is None:
            raise ConfigError("get_features: name the atoms, none were evaluated yet")
        with use_threads(self._limit_threads()):
            return self._evaluator.compute_features(system, kind, per_atom=per_atom)

    def evaluate(
        self,
        frames: Sequence[Atoms],
        properties: Sequence[str] | None = None,
        *,
        batch_tokens: int = DEFAULT_BATCH_TOKENS,
        show_progress: bool | None = None,
    ) -> list[dict[str, Any]]:
        """Return the results of many systems, as one evaluation each would give them.

        They are evaluated in batches, which is faster for small systems (of an
        exported file one by one), and agree to rounding. The frames and the
        calculator's own ``results`` stay as they are.

        Args:
            frames: the systems.
            properties: what is needed, such as ``["energy", "forces"]``; as ever, more
                is returned where it costs nothing. None is all but uncertainties and
                ``stresses``, with the stress where there is one.
            batch_tokens: pairs and atoms that are evaluated at once. Fewer follow
                where memory runs out.
            show_progress: None shows a bar on a terminal after two seconds.

        Returns:
            A dictionary of each frame, in order: ``energy`` (eV), ``forces`` (eV/Å)
            and so on, as in ``calc.results``.

        Raises:
            ModelError: for elements, charges or spins that the model does not know.
            PropertyNotImplementedError: for what the model or a frame does not have.
            TooLargeError: for a frame that does not fit in memory alone.
            UncertaintyError: as in an evaluation.
        """
        with use_threads(self._limit_threads()):
            return compute_many(
                self._evaluator,
                frames,
                properties,
                batch_tokens=batch_tokens,
                show_progress=show_progress,
            )

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
            TooLargeError: for a system that does not fit in memory; says which would.
            UncertaintyError: for atoms too uncertain, if ``on_uncertain="raise"``.
        """
        properties = list(properties or ["energy"])
        super().calculate(atoms, properties, system_changes)
        system: Any = self.atoms
        check_known_elements(system, self._backend.known)
        is_bulk = has_stress(system, properties)
        # the same atoms again, of which something more is asked
        is_known = not system_changes and "energy" in self.results
        with use_threads(self._limit_threads()):
            if is_known and ON_DEMAND.issuperset(properties):
                self.results |= self._evaluator.complete(system, properties)
                return
            results = self._evaluator.compute(system, properties, is_bulk)
        if not is_known:
            self._evaluator.look(system, results)
        self.results = results

    def _limit_threads(self) -> int:
        """Return how many of torch's threads to use."""
        n_threads = torch.get_num_threads()
        return _free_cores.limit(n_threads) if self.device.type == "cpu" else n_threads
