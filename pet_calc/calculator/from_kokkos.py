"""Evaluate a model by pet-kokkos, a PET in C++ on Kokkos, for CPUs and GPUs."""

import functools
import tempfile
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
    read_results,
    turn_atoms,
)
from pet_calc.calculator.backend import FeatureKind
from pet_calc.calculator.request import Request
from pet_calc.calculator.supported import check_charge_and_spin
from pet_calc.checkpoint import Checkpoint
from pet_calc.checkpoint.open import is_exported, load_merged_model
from pet_calc.data.labels import read_charge_and_spin
from pet_calc.data.neighbor_search import check_images, check_positions
from pet_calc.data.neighbors import check_cell, mask_cell
from pet_calc.data.pair_cache import PairCache
from pet_calc.errors import ConfigError, ModelError
from pet_calc.export.kokkos import find_kokkos_obstacle, write_pair
from pet_calc.export.kokkos_check import find_missing, run_kokkos
from pet_calc.model.derivatives import Prediction
from pet_calc.model.pet import PET

NAME = "pet-kokkos"
HOW_TO_INSTALL = (
    "for an NVIDIA GPU it comes by pip install pet-kokkos --extra-index-url "
    "https://peterspackman.github.io/pet-kokkos/cu12"
)
# what Kokkos calls its builds for GPUs; to torch both are cuda
GPU_BUILDS = ("Cuda", "HIP")
# of xx, yy, zz, xy, xz, yz, in ASE's order of a stress
TO_VOIGT = [0, 1, 2, 5, 4, 3]


class KokkosBackend:
    """A model in pet-kokkos; the same interface as ``CheckpointBackend``."""

    dtype = torch.float32

    def __init__(self, model: PET, request: Request, *, device: str | None) -> None:
        """Give the model to pet-kokkos.

        Args:
            model: in float32 on the CPU, LoRA merged.
            request: its skin says whether neighbours are kept between steps: not if
                it is 0.
            device: as for ``PETCalculator``; it must be what the installed build runs
                on.

        Raises:
            ConfigError: if pet-kokkos is not installed, runs elsewhere, or has no code
                for the model.
            ModelError: if the model lacks the target.
        """
        self._rebuild = functools.partial(KokkosBackend, model, request, device=device)
        self.model = model
        self.chosen = request.choose_targets(model.targets, model.targets)
        self.target = self.chosen.energy
        self.known = set(model.atomic_types)
        if obstacle := find_kokkos_obstacle(model, self.target):
            raise ConfigError(f"backend={NAME!r}: it has no code for this: {obstacle}")
        if missing := find_missing():
            raise ConfigError(f"backend={NAME!r}: {missing}; {HOW_TO_INSTALL}")
        found = find_device()
        assert found is not None
        self.device = found
        if device not in (None, "auto") and device.partition(":")[0] != found.type:
            raise ConfigError(
                f"device {device}: the installed build of {NAME} runs on {found} only; "
                f"{HOW_TO_INSTALL}"
            )
        self._is_conditioned = model.system_conditioning is not None
        self._state: tuple[int, int] | None = None
        self._calculator = _load(model, self.target, keep_neighbors=request.skin > 0)

    def __reduce__(self) -> tuple[Any, tuple[()]]:
        # what Kokkos holds can neither be copied nor pickled
        return self._rebuild, ()

    def find_changes(self, before: Atoms, now: Atoms) -> list[str]:
        """Return which inputs differ that ASE does not look at."""
        if not self._is_conditioned:
            return []
        return [] if read_charge_and_spin(now) == self._state else ["info"]

    def compute(
        self, atoms: Atoms, properties: Sequence[str], has_stress: bool
    ) -> dict[str, Any]:
        """Return what ``CheckpointBackend.compute`` returns.

        Raises:
            DataError: for positions and cells that are none.
            ModelError: for a charge or spin that the model does not know, and for what
                pet-kokkos refuses.
        """
        charge, spin = 0, 1
        if self._is_conditioned:
            self._state = None
            charge, spin = self._state = read_charge_and_spin(atoms)
        check_charge_and_spin(self.model, charge, spin, "atoms")
        # pet-kokkos itself would return NaN, or take an open cell for none
        box = mask_cell(atoms.cell.array, atoms.pbc)
        check_cell(box, atoms.pbc)
        check_positions(atoms.positions)
        check_images(box, atoms.pbc, self.model.pair_cutoff)
        if len(atoms) == 0:
            return _name_nothing(has_stress)
        try:
            found = run_kokkos(self._calculator, atoms, charge, spin)
        except RuntimeError as error:
            raise ModelError(f"{NAME}: {error}") from error
        energy = float(found["energy"])
        results = {
            "energy": energy,
            "free_energy": energy,
            "energies": np.array(found["energies"]),
            "forces": np.array(found["forces"]),
        }
        if has_stress:
            virial = np.array(found["virial"])[TO_VOIGT]
            results["stress"] = virial / atoms.get_volume()
        return results | self.estimate(atoms, properties)

    def estimate(self, atoms: Atoms, properties: Sequence[str]) -> dict[str, Any]:
        """Return nothing: there is no uncertainty, and no gradient for stresses."""
        if "stresses" in properties:
            raise PropertyNotImplementedError(
                f"{NAME} gives no stresses of atoms; leave backend={NAME!r} out"
            )
        return {}

    def predict_turned(
        self,
        atoms: Atoms,
        matrices: npt.NDArray[np.float64],
        properties: Sequence[str],
        is_bulk: bool,
    ) -> Prediction:
        """Return what ``CheckpointBackend.predict_turned`` does, one by one."""
        return join_predictions(
            [
                read_results(self.compute(turn_atoms(atoms, matrix), [], is_bulk))
                for matrix in matrices
            ]
        )

    def compute_features(self, atoms: Atoms, kind: FeatureKind) -> Tensor:
        """Raise ``ModelError``: there are none."""
        raise ModelError(
            f"{NAME} gives no features; leave backend={NAME!r} out for them"
        )

    def count_tokens(self, atoms: Atoms) -> int:
        """Return the pairs and atoms of a system."""
        pairs = PairCache(self.model.pair_cutoff, skin=0.0)
        return count_batch_tokens(build_single_batch(atoms, pairs, self.device))

    @contextmanager
    def apart(self) -> Iterator[None]:
        """Evaluate in the block what no step follows or is followed by."""
        before = self._state
        try:
            yield
        finally:
            self._state = before

    def list_uncertainties(self) -> list[str]:
        """Return the names of those that there are: none."""
        return []

    def explain_missing(self) -> str:
        """Return why there is no uncertainty."""
        return f"{NAME} computes no uncertainty; leave backend={NAME!r} out for it"


def load_kokkos_backend(
    model: str | Path | Checkpoint | PET,
    request: Request,
    *,
    adapter: str | Path | None,
    device: str | torch.device | None,
    dtype: torch.dtype | None,
    precision: str,
) -> KokkosBackend:
    """Return the backend of a model; the arguments are those of ``PETCalculator``.

    Raises:
        ConfigError: for what pet-kokkos does not have: direct forces, float64, the
            engine's options, exported files; and as ``KokkosBackend`` does.
        CheckpointError: if a file cannot be read.
        LoRAError: if the adapter belongs to another base.
        ModelError: if the model lacks the target.
    """
    obstacle = None
    if isinstance(model, (str, Path)) and is_exported(model):
        obstacle = f"it takes checkpoints, and {model} is an exported file"
    elif dtype == torch.float64:
        obstacle = "it computes in float32; leave dtype out"
    elif request.direct:
        obstacle = "it derives forces from the energy and has no direct ones"
    elif request.compile is True or precision != "exact":
        obstacle = "compile and precision are options of pet-calc's own engine"
    if obstacle:
        raise ConfigError(f"backend={NAME!r}: {obstacle}")
    record = Checkpoint.from_model(model) if isinstance(model, PET) else model
    network = load_merged_model(record, adapter=adapter, dtype=torch.float32)
    return KokkosBackend(
        network, request, device=None if device is None else str(device)
    )


def find_device() -> torch.device | None:
    """Return where the installed build of pet-kokkos runs, None without one."""
    if find_missing():
        return None
    import pet_kokkos

    return torch.device("cuda" if pet_kokkos.backend() in GPU_BUILDS else "cpu")


def _load(model: PET, target: str, *, keep_neighbors: bool) -> Any:
    """Return pet-kokkos' calculator, which keeps nothing of the files."""
    import pet_kokkos

    with tempfile.TemporaryDirectory(prefix="pet-kokkos-") as folder:
        stem = Path(folder) / "model"
        write_pair(model, stem, target=target)
        return pet_kokkos.Calculator(str(stem), cache_neighbors=keep_neighbors)


def _name_nothing(has_stress: bool) -> dict[str, Any]:
    """Return the results of no atoms, as the other routes give them."""
    results = {
        "energy": 0.0,
        "free_energy": 0.0,
        "energies": np.zeros(0),
        "forces": np.zeros((0, 3)),
    }
    return results | ({"stress": np.zeros(6)} if has_stress else {})
