"""The C++ compiler of this machine, and the folder for what it makes.

Imports nothing heavy: LAMMPS asks for its plugin's folder at every start.
"""

import hashlib
import logging
import os
import platform
import shutil
import subprocess
from pathlib import Path

from pet_calc.errors import ConfigError

logger = logging.getLogger(__name__)

KERNELS = Path(__file__).parent / "kernels"
# -ffast-math: the loops have no infinities, and vector exponentials need it. It must
# not reach the linker, where it would change the rounding of the whole process.
# Hidden: the engine's library and the LAMMPS plugin may be loaded side by side.
COMPILE_FLAGS = [
    *("-std=c++17", "-O3", "-march=native", "-ffast-math", "-fopenmp"),
    *("-fPIC", "-fvisibility=hidden"),
]


def find_cache() -> Path:
    """Return the user's folder for compiled code; it may not be there yet."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "pet-calc"


def find_compiler() -> str:
    """Return the C++ compiler: ``$CXX``, or ``g++``, ``c++`` or ``clang++``.

    Raises:
        ConfigError: if there is none.
    """
    given = os.environ.get("CXX")
    for name in [given] if given else ["g++", "c++", "clang++"]:
        path = shutil.which(name)
        if path is not None:
            return path
    raise ConfigError(
        f"no C++ compiler found ({given or 'g++, c++, clang++'}); install one, for "
        "example with `apt-get install g++` or `conda install cxx-compiler`, or name "
        "yours in CXX"
    )


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


def find_openmp(libraries: Path) -> str:
    """Return what to link for OpenMP: PyTorch's own, if it has brought one.

    A second one would bring a second set of threads.

    Args:
        libraries: PyTorch's folder of libraries.
    """
    bundled = sorted(libraries.glob("libgomp*.so*"))
    return str(bundled[0]) if bundled else "-fopenmp"


def describe_compiler(compiler: str) -> str:
    """Return the first line of the compiler's ``--version``."""
    answer = subprocess.run([compiler, "--version"], capture_output=True, text=True)
    return next(iter(answer.stdout.splitlines()), compiler)


def run_compiler(command: list[str], product: str) -> None:
    """Run a compiler or linker.

    Args:
        command: with all arguments.
        product: what is made, for the message.

    Raises:
        ConfigError: with the first error, if it fails.
    """
    answer = subprocess.run(command, capture_output=True, text=True)
    if answer.returncode != 0:
        logger.debug("%s\n%s", " ".join(command), answer.stderr)
        lines = answer.stderr.splitlines()
        first = next((line for line in lines if " error: " in line), "no message")
        raise ConfigError(
            f"compiling {product} failed: {first} (see all of it with --debug)"
        )


def multiplies_bfloat16() -> bool:
    """Whether the processor has instructions for products in bfloat16.

    Without them such a product takes about fifty times as long as one in float32.
    """
    return not {"amx_bf16", "avx512_bf16", "bf16"}.isdisjoint(read_features().split())


def read_features() -> str:
    """Return what the processor can do, as Linux lists it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return ""
    for line in lines:
        if line.startswith(("flags", "Features")):
            return " ".join(sorted(line.partition(":")[2].split()))
    return ""
