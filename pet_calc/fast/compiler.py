"""The C++ compiler of this machine, and the folder for what it makes."""

import os
import shutil
import subprocess
from pathlib import Path

from pet_calc.errors import ConfigError


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


def describe_compiler(compiler: str) -> str:
    """Return the first line of the compiler's ``--version``."""
    answer = subprocess.run([compiler, "--version"], capture_output=True, text=True)
    return next(iter(answer.stdout.splitlines()), compiler)
