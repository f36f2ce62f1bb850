"""Fine-tune PET interatomic potentials with LoRA; use them in ASE and in LAMMPS."""

from importlib.metadata import version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pet_calc.calculator import PETCalculator

__version__ = version("pet-calc")

__all__ = ["PETCalculator", "__version__"]


def __getattr__(name: str) -> Any:
    # torch takes seconds to import; `pet-calc --help` should not wait for it
    if name == "PETCalculator":
        from pet_calc.calculator import PETCalculator

        return PETCalculator
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
