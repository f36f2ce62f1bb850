"""The C++ compiler of this machine, and the folder for what it makes.

Imports nothing heavy: LAMMPS asks for its plugin's folder at every start.
"""

import logging
import os
import shutil
import subprocess
from pathlib import Path

from pet_calc.errors import ConfigError

logger = logging.getLogger(__name__)


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
