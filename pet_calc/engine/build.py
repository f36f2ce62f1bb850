"""Compile the engine into the user's cache, once per machine and PyTorch.

It has four parts, each a library of its own: ``engine`` evaluates, ``trainer`` takes
training steps, ``probe`` has single kernels for tests and benchmarks, ``ranks`` several
ranks in one process for tests. ``python -m pet_calc.engine.build`` compiles the first
if it is not there.
"""

import logging
import os
import platform
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch

from pet_calc.engine.sources import KERNELS, compute_kernel_digest, list_kernel_flags
from pet_calc.errors import ConfigError
from pet_calc.system.compiler import (
    find_cache,
    find_compiler,
    find_openmp,
    run_compiler,
)
from pet_calc.system.locks import hold_lock

logger = logging.getLogger(__name__)

ENGINE, TRAINER, PROBE, RANKS = "engine", "trainer", "probe", "ranks"
SOURCES = {
    ENGINE: ("engine.cpp", "library.cpp"),
    TRAINER: ("trainer.cpp",),
    PROBE: ("probe.cpp",),
    RANKS: ("engine.cpp", "ranks.cpp"),
}

# a library can be loaded once in a process, also if it is compiled again
_loaded: set[str] = set()
_builds: list[subprocess.Popen[bytes]] = []


def is_built(part: str = ENGINE) -> bool:
    """Whether this part, for this machine and PyTorch, is in the cache."""
    return find_library(part).is_file()


def find_library(part: str = ENGINE) -> Path:
    """Return where the compiled part is, or would be."""
    return find_cache() / "engine" / _compute_key() / f"pet_calc_{part}.so"


def load_engine(part: str = ENGINE) -> None:
    """Make the part's classes available, compiling it if needed.

    They are ``torch.classes.pet_calc.Engine``, and ``Workspace`` and ``TrainingStep``
    of ``torch.classes.pet_calc_training``; functions of
    the others are in ``torch.ops.pet_calc_probe`` and ``torch.ops.pet_calc_ranks``.

    Raises:
        ConfigError: if there is no compiler, or it fails.
    """
    if part not in _loaded:
        torch.classes.load_library(str(build_engine(part)))
        _loaded.add(part)


def build_engine(part: str = ENGINE) -> Path:
    """Return the compiled part, compiling it first if it is not in the cache.

    Raises:
        ConfigError: if there is no compiler, it fails, or the cache cannot be written.
    """
    path = find_library(part)
    if path.is_file():
        return path
    _check_platform()
    compiler = find_compiler()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(
            f"cannot make the folder {path.parent} for the compiled engine: {error}; "
            "set XDG_CACHE_HOME to a folder that you can write to"
        ) from error
    # whoever comes second finds the work done
    with hold_lock(path.parent / f"lock-{part}"):
        if path.is_file():
            return path
        logger.info(
            "compiling the %s for this machine, about half a minute, once", part
        )
        started = time.monotonic()
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=".build-") as draft:
            _compile(compiler, part, Path(draft) / path.name)
            os.replace(Path(draft) / path.name, path)
        logger.info("compiled in %.0f s: %s", time.monotonic() - started, path)
    return path


def start_build() -> subprocess.Popen[bytes]:
    """Compile in a process of its own, at low priority, and do not wait.

    Whoever asks while it runs gets the same one.
    """
    # kept, for nobody may be left to wait for it when it ends
    if not _builds or _builds[-1].poll() is not None:
        _builds.append(
            subprocess.Popen(
                [sys.executable, "-m", "pet_calc.engine.build"],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
            )
        )
    return _builds[-1]


def find_build_obstacle() -> str | None:
    """Return why the engine cannot be compiled here, None if it can."""
    try:
        _check_platform()
        find_compiler()
    except ConfigError as error:
        return str(error)
    return None


def _check_platform() -> None:
    if sys.platform != "linux":
        raise ConfigError(
            f"the compiled engine is for Linux, this is {platform.system()}"
        )


def _compute_key() -> str:
    """Return a name that changes with whatever the compiled code depends on."""
    return f"torch-{torch.__version__}-{compute_kernel_digest()}"


def _compile(compiler: str, part: str, target: Path) -> None:
    root = Path(torch.__file__).parent
    flags = list_kernel_flags(compiler)
    flags.append(f"-D_GLIBCXX_USE_CXX11_ABI={int(torch.compiled_with_cxx11_abi())}")
    for folder in ("include", "include/torch/csrc/api/include"):
        flags += ["-isystem", str(root / folder)]

    def compile_source(name: str) -> str:
        result = str(target.with_name(f"{Path(name).stem}.o"))
        command = [compiler, *flags, "-c", str(KERNELS / name), "-o", result]
        run_compiler(command, f"the {part}")
        return result

    with ThreadPoolExecutor() as pool:
        objects = list(pool.map(compile_source, SOURCES[part]))
    command = [compiler, "-shared", *objects, "-o", str(target)]
    command += [f"-L{root / 'lib'}", f"-Wl,-rpath,{root / 'lib'}", "-Wl,--no-as-needed"]
    command += ["-ltorch", "-ltorch_cpu", "-lc10", find_openmp(root / "lib")]
    run_compiler(command, f"the {part}")


if __name__ == "__main__":
    os.nice(10)
    build_engine()
