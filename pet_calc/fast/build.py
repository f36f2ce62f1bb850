"""Compile the engine into the user's cache, once per machine and PyTorch.

``python -m pet_calc.fast.build`` compiles it if it is not there.
"""

import hashlib
import logging
import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

from pet_calc.data.locks import lock_file
from pet_calc.errors import ConfigError
from pet_calc.fast.compiler import find_cache, find_compiler, run_compiler

logger = logging.getLogger(__name__)

SOURCES = Path(__file__).parent / "kernels"
LIBRARY_NAME = "pet_calc_engine.so"
PRODUCT = "the engine"
# -ffast-math: the loops have no infinities, and vector exponentials need it. It must
# not reach the linker, where it would change the rounding of the whole process.
COMPILE_FLAGS = ["-std=c++17", "-O3", "-march=native", "-ffast-math", "-fPIC"]

# a library can be loaded once in a process, also if it is compiled again
_loaded: set[str] = set()


def is_built() -> bool:
    """Whether the engine for this machine and PyTorch is in the cache."""
    return find_library().is_file()


def find_library() -> Path:
    """Return where the compiled engine is, or would be."""
    return find_cache() / "engine" / _compute_key() / LIBRARY_NAME


def load_engine() -> None:
    """Make ``torch.classes.pet_calc.Engine`` available, compiling it if needed.

    Raises:
        ConfigError: if there is no compiler, or it fails.
    """
    if not _loaded:
        path = str(build_engine())
        torch.classes.load_library(path)
        _loaded.add(path)


def build_engine() -> Path:
    """Return the compiled engine, compiling it first if it is not in the cache.

    Raises:
        ConfigError: if there is no compiler, it fails, or the cache cannot be written.
    """
    path = find_library()
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
    with (path.parent / "lock").open("w") as lock:
        # whoever comes second finds the work done
        lock_file(lock, wait=True)
        if path.is_file():
            return path
        logger.info("compiling the engine for this machine, about half a minute, once")
        started = time.monotonic()
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=".build-") as draft:
            _compile(compiler, Path(draft) / LIBRARY_NAME)
            os.replace(Path(draft) / LIBRARY_NAME, path)
        logger.info("compiled in %.0f s: %s", time.monotonic() - started, path)
    return path


def start_build() -> subprocess.Popen[bytes]:
    """Compile in a process of its own, at low priority, and do not wait."""
    return subprocess.Popen(
        [sys.executable, "-m", "pet_calc.fast.build"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )


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
    digest = hashlib.sha256()
    for source in sorted(SOURCES.iterdir()):
        digest.update(source.read_bytes())
    for part in (torch.__version__, *COMPILE_FLAGS, *_read_processor()):
        digest.update(part.encode())
    return f"torch-{torch.__version__.split('+')[0]}-{digest.hexdigest()[:12]}"


def _read_processor() -> list[str]:
    """Return the machine type and what the processor can do."""
    features = ""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    for line in lines:
        if line.startswith(("flags", "Features")):
            features = " ".join(sorted(line.partition(":")[2].split()))
            break
    return [platform.machine(), features]


def _compile(compiler: str, target: Path) -> None:
    root = Path(torch.__file__).parent
    has_new_abi = int(torch.compiled_with_cxx11_abi())
    object_file = target.with_suffix(".o")
    command = [compiler, *COMPILE_FLAGS, "-fopenmp"]
    command.append(f"-D_GLIBCXX_USE_CXX11_ABI={has_new_abi}")
    if platform.machine() == "x86_64" and "clang" not in Path(compiler).name:
        command.append("-mprefer-vector-width=512")
    for folder in ("include", "include/torch/csrc/api/include"):
        command += ["-isystem", str(root / folder)]
    sources = ["-c", str(SOURCES / "engine.cpp"), "-o", str(object_file)]
    run_compiler([*command, *sources], PRODUCT)
    command = [compiler, "-shared", str(object_file), "-o", str(target)]
    command += [f"-L{root / 'lib'}", f"-Wl,-rpath,{root / 'lib'}", "-Wl,--no-as-needed"]
    command += ["-ltorch", "-ltorch_cpu", "-lc10"]
    # PyTorch's own OpenMP: a second one would bring a second set of threads
    bundled = sorted((root / "lib").glob("libgomp*.so*"))
    command.append(str(bundled[0]) if bundled else "-fopenmp")
    run_compiler(command, PRODUCT)


if __name__ == "__main__":
    os.nice(10)
    build_engine()
