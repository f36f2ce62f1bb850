"""One TorchScript file with a PET model, for every program that speaks metatomic.

The file is a ``metatomic.torch.AtomisticModel``: LAMMPS, i-PI, GROMACS, torch-sim,
ASE and others load it without pet-calc.

Move a loaded file with ``.to(device)`` only. Its composition energies survive
Python's ``.to(dtype)`` as well, but the C++ call of that name casts index tables too,
after which the model stops with an error.

``export_to_kokkos`` writes the two files of pet-kokkos instead.
"""

from pet_calc.export.kokkos import export_to_kokkos
from pet_calc.export.save import build_atomistic_model, export_model

__all__ = ["build_atomistic_model", "export_model", "export_to_kokkos"]
