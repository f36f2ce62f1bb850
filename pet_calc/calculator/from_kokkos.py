"""Evaluate a model by pet-kokkos, a PET in C++ on Kokkos, for CPUs and GPUs."""

import functools
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ase import Atoms

from pet_calc.calculator.supported import check_charge_and_spin
from pet_calc.checkpoint import Checkpoint
from pet_calc.checkpoint.open import is_exported, load_merged_model
from pet_calc.data.labels import read_charge_and_spin
from pet_calc.data.neighbor_search import check_images, check_positions
from pet_calc.data.neighbors import check_cell, mask_cell
from pet_calc.engine.switch import Compile
from pet_calc.errors import ConfigError, ModelError
from pet_calc.export.kokkos import find_kokkos_obstacle, write_pair
from pet_calc.export.kokkos_check import find_missing, run_kokkos
from pet_calc.model.hypers import choose_energy_target
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

    def __init__(
        self, model: PET, *, target: str | None, device: str | None, skin: float
    ) -> None:
        """Give the model to pet-kokkos.

        Args:
            model: in float32 on the CPU, LoRA merged.
            target: as for ``PETCalculator``.
            device: likewise; it must be what the installed build runs on.
            skin: whether neighbours are kept between steps: not if it is 0.

        Raises:
            ConfigError: if pet-kokkos is not installed, runs elsewhere, or has no code
                for the model.
            ModelError: if the model lacks the target.
        """
        self._rebuild = functools.partial(
            KokkosBackend, model, target=target, device=device, skin=skin
        )
        self.model = model
        self.target = choose_energy_target(model.targets, target)
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
        self._calculator = _load(model, self.target, keep_neighbors=skin > 0)

    def __reduce__(self) -> tuple[Any, tuple[()]]:
        # what Kokkos holds can neither be copied nor pickled
        return self._rebuild, ()

    def find_changes(self, before: Atoms, now: Atoms) -> list[str]:
        """Return which inputs differ that ASE does not look at."""
        if not self._is_conditioned:
            return []
        return [] if read_charge_and_spin(now) == self._state else ["info"]

    def compute(
        self, atoms: Atoms, properties: list[str], has_stress: bool
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
        return results

    def estimate(self, atoms: Atoms, properties: list[str]) -> dict[str, Any]:
        """Return nothing: there is no uncertainty."""
        return {}

    def list_uncertainties(self) -> list[str]:
        """Return the names of those that there are: none."""
        return []

    def explain_missing(self) -> str:
        """Return why there is no uncertainty."""
        return f"{NAME} computes no uncertainty; leave backend={NAME!r} out for it"


def load_kokkos_backend(
    model: str | Path | Checkpoint | PET,
    *,
    adapter: str | Path | None,
    target: str | None,
    device: str | torch.device | None,
    dtype: torch.dtype | None,
    direct: bool,
    skin: float,
    compile: Compile,
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
    elif direct:
        obstacle = "it derives forces from the energy and has no direct ones"
    elif compile is True or precision != "exact":
        obstacle = "compile and precision are options of pet-calc's own engine"
    if obstacle:
        raise ConfigError(f"backend={NAME!r}: {obstacle}")
    record = Checkpoint.from_model(model) if isinstance(model, PET) else model
    network = load_merged_model(record, adapter=adapter, dtype=torch.float32)
    return KokkosBackend(
        network,
        target=target,
        device=None if device is None else str(device),
        skin=skin,
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
