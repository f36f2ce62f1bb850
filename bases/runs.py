"""What the data scripts share: seeded draws, dynamics, unit files, split files."""

import hashlib
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Iterator
from pathlib import Path

import numpy as np
from ase import Atoms, units
from ase.io import read, write
from ase.md.langevin import Langevin
from ase.md.velocitydistribution import MaxwellBoltzmannDistribution


def generator(*words: object) -> np.random.Generator:
    """Return a generator seeded by words, the same in every process."""
    digest = hashlib.sha256("/".join(map(str, words)).encode()).digest()
    return np.random.default_rng(int.from_bytes(digest[:8], "little"))


def unit_file(folder: Path, index: int) -> Path:
    """Return where a unit's frames are kept; empty file = nothing survived."""
    return folder / f"{index:05d}.xyz"


def write_frames(path: Path, frames: list[Atoms]) -> None:
    """Write an extended xyz file in one step (tmp, then rename); may be empty."""
    temporary = path.with_suffix(".tmp")
    if frames:
        write(temporary, frames, format="extxyz")
    else:
        temporary.write_text("")
    temporary.rename(path)


def filter_frames(
    files: list[Path],
    find_fault: Callable[[Atoms], str | None],
    identify: Callable[[Atoms], Hashable],
    unit: str,
) -> tuple[list[Atoms], Counter]:
    """Return the frames to keep, in order, and how many were dropped for which reason.

    Args:
        files: unit files; empty ones had no frame left.
        find_fault: returns why a frame is dropped, None for one to keep.
        identify: returns what no two frames may share.
        unit: what a file is of, for the count of empty ones.
    """
    frames: list[Atoms] = []
    dropped: Counter = Counter()
    seen = set()
    for path in files:
        if not path.stat().st_size:
            dropped[f"failed {unit}"] += 1
            continue
        for frame in read(path, ":"):
            fault = find_fault(frame)
            if fault is None and identify(frame) in seen:
                fault = "duplicate"
            if fault is not None:
                dropped[fault] += 1
                continue
            seen.add(identify(frame))
            frames.append(frame)
    return frames, dropped


def draw_split(
    names: Iterable[str], rng: np.random.Generator, test_part: float, val_part: float
) -> dict[str, str]:
    """Return ``train``, ``val`` or ``test`` for each name.

    Args:
        names: in any order, each once.
        rng: seeded, so that the same names are split the same way.
        test_part: of the names, between 0 and 1.
        val_part: likewise.
    """
    names = sorted(names)
    n_test, n_val = round(test_part * len(names)), round(val_part * len(names))
    split_of = {}
    for place, i in enumerate(rng.permutation(len(names))):
        split = "test" if place < n_test else "val"
        split_of[names[i]] = split if place < n_test + n_val else "train"
    return split_of


def start_langevin(
    atoms: Atoms,
    temperature: float,
    rng: np.random.Generator,
    *,
    timestep_fs: float,
    friction_per_fs: float,
) -> Langevin:
    """Return Langevin dynamics of ``atoms``, which get velocities, in place.

    Args:
        atoms: with a calculator.
        temperature: in K.
        rng: of velocities and of the thermostat.
        timestep_fs: in fs.
        friction_per_fs: in 1/fs.
    """
    MaxwellBoltzmannDistribution(atoms, temperature_K=temperature, rng=rng)
    return Langevin(
        atoms,
        timestep_fs * units.fs,
        temperature_K=temperature,
        friction=friction_per_fs / units.fs,
        fixcm=False,
        rng=rng,
    )


def take_snapshots(dynamics: Langevin, count: int, stride: int) -> Iterator[Atoms]:
    """Yield bare copies of the atoms, one every ``stride`` steps."""
    for _ in range(count):
        dynamics.run(stride)
        bare = dynamics.atoms.copy()
        bare.set_momenta(None)
        yield bare


def write_split(path: Path, frames: list[Atoms]) -> dict:
    """Write the frames of a split; return its checksum and counts."""
    write_frames(path, frames)
    groups = Counter(f.info["group"] for f in frames)
    return {
        "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
        "frames": len(frames),
        "systems": len({f.info["system"] for f in frames}),
        "mean_atoms": round(float(np.mean([len(f) for f in frames] or [0])), 2),
        "groups": dict(sorted(groups.items())),
    }


def refuse_other_settings(path: Path, settings: str) -> None:
    """Stop if the unit files beside ``path`` were made with other settings."""
    if path.exists() and path.read_text() != settings:
        raise SystemExit(
            f"{path.parent} holds units of other settings: remove it first"
        )
    path.write_text(settings)
