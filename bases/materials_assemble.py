"""Filter, deduplicate, split and check the materials data; keep checksums."""

import json
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
from ase import Atoms
from materials_catalogue import is_reference
from materials_frames import shortest_contact
from runs import draw_split, filter_frames, generator, write_split
from sevennet import check_label

FORCE_CAP = 15.0  # eV/Å on any atom; beyond it a frame is dropped
STRESS_CAP = 0.6  # eV/Å^3 in any component, about 100 GPa
MIN_CONTACT = 0.6  # of the covalent radius sum
SPLITS = ("train", "val", "test")
TEST_PART, VAL_PART = 0.10, 0.05
N_CHECKS = 12

# what most fine-tuning starts from
ALWAYS_TRAIN = {"Li-P-S", "Li-S", "O-Si", "C-Si", "Li-O"}


def assemble(files: list[Path], out: Path, seed: int, summary_path: Path | None) -> str:
    """Write materials_{train,val,test}.xyz from unit files; return a summary text.

    Args:
        files: unit files in a fixed order; empty ones had no frame left.
        out: where the three files go.
        seed: draws the order of frames within a file and the splits.
        summary_path: also write the summary there.
    """
    frames, dropped = filter_frames(files, _find_fault, _find_key, "unit")
    split_of = _split(frames, seed)
    summary: dict = {
        "seed": seed,
        "units": len(files),
        "dropped": dict(sorted(dropped.items())),
        "elements": sorted({s for f in frames for s in f.get_chemical_symbols()}),
        "files": {},
    }
    for split in SPLITS:
        chosen = [f for f in frames if split_of[identify(f)] == split]
        order = generator(seed, "shuffle", split).permutation(len(chosen))
        chosen = [chosen[i] for i in order]
        path = out / f"materials_{split}.xyz"
        summary["files"][path.name] = write_split(path, chosen)
        if split == "train":
            summary["finite_differences"] = _check(chosen, seed)
    text = json.dumps(summary, indent=1)
    if summary_path is not None:
        summary_path.write_text(text + "\n")
    return text


def identify(frame: Atoms) -> str:
    """Return what is never in two splits: the set of elements, or an element's crystal.

    A compound, its polymorphs, alloys, surfaces and melts are held out together. Frames
    of one element are told apart by structure, its melt being one.
    """
    elements = sorted(set(frame.get_chemical_symbols()))
    return "-".join(elements) if len(elements) > 1 else frame.info["system"]


def _find_fault(frame: Atoms) -> str | None:
    if np.linalg.norm(frame.get_forces(), axis=1).max() > FORCE_CAP:
        return "force cap"
    if np.abs(frame.get_stress()).max() > STRESS_CAP:
        return "stress cap"
    if shortest_contact(frame) < MIN_CONTACT:
        return "contact"
    return None


def _find_key(frame: Atoms) -> tuple[str, float, float]:
    """Return what no two frames may share.

    Relative energies are of float32: equal digits mean equal structures.
    """
    energy = frame.get_potential_energy() / len(frame)
    return identify(frame), round(energy, 5), round(frame.get_volume(), 3)


def _split(frames: list[Atoms], seed: int) -> dict[str, str]:
    """Return the split of every identity, drawn per number of elements."""
    strata = defaultdict(set)
    split_of: dict[str, str] = {}
    for frame in frames:
        name = identify(frame)
        if name in ALWAYS_TRAIN or is_reference(name):
            split_of[name] = "train"
        else:
            strata[len(set(frame.numbers))].add(name)
    for n_elements, names in sorted(strata.items()):
        rng = generator(seed, "split", n_elements)
        split_of |= draw_split(names, rng, TEST_PART, VAL_PART)
    return split_of


def _check(frames: list[Atoms], seed: int) -> dict:
    """Return the finite-difference check of the first frames of each group."""
    rng = generator(seed, "check")
    chosen: list[Atoms] = []
    groups: Counter = Counter()
    for frame in frames:
        group = frame.info["group"]
        if groups[group] < N_CHECKS // 4 and len(frame) < 20:
            groups[group] += 1
            chosen.append(frame)
    rows = [check_label(frame, rng) for frame in chosen]
    return {
        "worst_force_error": max((r["force_error"] for r in rows), default=None),
        "worst_stress_error": max((r["stress_error"] for r in rows), default=None),
        "frames": rows,
    }
