"""The engine's C++ files, and how they are compiled.

Imports nothing heavy: LAMMPS asks for its plugin's folder at every start.
"""

import hashlib
import platform
from pathlib import Path

from pet_calc.system.compiler import read_features

KERNELS = Path(__file__).parent / "kernels"
# -ffast-math: the loops have no infinities, and vector exponentials need it. It must
# not reach the linker, where it would change the rounding of the whole process.
# Hidden: the engine's library and the LAMMPS plugin may be loaded side by side.
COMPILE_FLAGS = [
    *("-std=c++17", "-O3", "-march=native", "-ffast-math", "-fopenmp"),
    *("-fPIC", "-fvisibility=hidden"),
]


def list_kernel_flags(compiler: str) -> list[str]:
    """Return the flags that the engine's kernels are compiled with."""
    flags = list(COMPILE_FLAGS)
    if platform.machine() == "x86_64" and "clang" not in Path(compiler).name:
        flags.append("-mprefer-vector-width=512")
    return flags


def list_kernel_sources() -> list[Path]:
    """Return the engine's C++ files, headers included, in a fixed order."""
    return sorted(path for path in KERNELS.iterdir() if path.suffix in (".cpp", ".h"))


def compute_kernel_digest() -> str:
    """Return a name that changes with kernels, flags and this machine's processor."""
    digest = hashlib.sha256()
    for source in list_kernel_sources():
        digest.update(source.read_bytes())
    for part in (*COMPILE_FLAGS, platform.machine(), read_features()):
        digest.update(part.encode())
    return digest.hexdigest()[:12]
