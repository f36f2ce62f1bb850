"""Filter, deduplicate, split by system and write the base data; keep checksums."""

import json
from collections import defaultdict
from pathlib import Path

import numpy as np
from ase import Atoms
from molecules import molecule_key
from periodic import cell_members
from runs import draw_split, filter_frames, generator, write_split
from sampling import shortest_contact

FORCE_CAP = 15.0  # eV/Å on any atom; beyond it a frame is dropped
MIN_CONTACT = 0.55  # of the covalent radius sum
SPLITS = ("train", "val", "test")
TEST_PART, VAL_PART = 0.10, 0.05
SUMMARY = Path(__file__).parent / "base_summary.json"

# Known to every model: alone in their chemistry, or part of nearly every cluster.
ALWAYS_TRAIN = [
    "O", "CO", "N", "C", "S", "F", "Cl", "CC", "C=C", "C#C", "C=O", "N#C", "CN", "CCO",
    "g2:H2", "g2:N2", "g2:F2", "g2:Cl2", "g2:CO", "g2:CO2", "OO", "NN", "g2:C6H6",
    "NC=O", "OC=O", "FCl", "OF", "OCl", "FOF", "g2:CS", "CC(=O)C", "COC", "CC#N",
]  # fmt: skip
# Never trained on: the molecule of the DFT fine-tuning data, and a cluster for MD.
ALWAYS_TEST = ["OCCO", "water_5"]


def assemble(files: list[Path], out: Path, seed: int, record: bool) -> str:
    """Write base_{train,val,test}.xyz from unit files and return a summary text.

    Args:
        files: unit files in a fixed order; empty ones had no frame left.
        out: where the three files go.
        seed: draws the order of frames within a file and the splits.
        record: also write the checksums and counts next to this script.
    """
    frames, dropped = filter_frames(files, _find_fault, _find_key, "system")
    split_of = _split_systems(frames, seed)
    summary: dict = {
        "seed": seed,
        "dropped": dict(sorted(dropped.items())),
        "files": {},
    }
    for split in SPLITS:
        chosen = [f for f in frames if split_of[f.info["system"]] == split]
        order = generator(seed, "shuffle", split).permutation(len(chosen))
        chosen = [chosen[i] for i in order]
        path = out / f"base_{split}.xyz"
        summary["files"][path.name] = write_split(path, chosen)
    if record:
        SUMMARY.write_text(json.dumps(summary, indent=1) + "\n")
    return json.dumps(summary, indent=1)


def _find_fault(frame: Atoms) -> str | None:
    if np.linalg.norm(frame.get_forces(), axis=1).max() > FORCE_CAP:
        return "force cap"
    if shortest_contact(frame) < MIN_CONTACT:
        return "contact"
    return None


def _find_key(frame: Atoms) -> tuple[str, float]:
    """Return what no two frames may share."""
    return frame.info["system"], round(frame.get_potential_energy(), 6)


def _split_systems(frames: list[Atoms], seed: int) -> dict[str, str]:
    """Return the split of every system.

    Molecules are drawn first, per number of heavy atoms so that no size is missing.
    A dimer, cluster or cell with a held-out molecule is held out with it.
    """
    group_of = {f.info["system"]: f.info["group"] for f in frames}
    sizes = {f.info["system"]: int((f.numbers > 1).sum()) for f in frames}
    fixed = {_identity(n): "train" for n in ALWAYS_TRAIN}
    fixed |= {_identity(n): "test" for n in ALWAYS_TEST}
    strata = defaultdict(list)
    split_of: dict[str, str] = {}
    for system, group in group_of.items():
        if group == "atom":
            split_of[system] = "train"
        elif _identity(system) in fixed:
            split_of[system] = fixed[_identity(system)]
        elif group == "molecule":
            strata[min(sizes[system], 9)].append(system)
        elif group == "drawn":  # of its own, so that the others' split stays
            strata[f"drawn {min(sizes[system], 9)}"].append(system)
    _draw(strata, split_of, seed)
    of_molecule = {
        _identity(s): split_of[s]
        for s, group in group_of.items()
        if group in ("molecule", "drawn")
    }
    strata.clear()
    for system, group in group_of.items():
        if system in split_of:
            continue
        held_out = {of_molecule.get(_identity(m), "train") for m in _members(system)}
        held_out -= {"train"}
        if held_out:
            split_of[system] = "test" if "test" in held_out else "val"
        else:
            strata[group].append(system)
    _draw(strata, split_of, seed)
    return split_of


def _draw(strata: dict, split_of: dict[str, str], seed: int) -> None:
    for stratum, systems in sorted(strata.items(), key=str):
        rng = generator(seed, "split", stratum)
        split_of |= draw_split(systems, rng, TEST_PART, VAL_PART)


def _members(system: str) -> list[str]:
    if system.startswith("water_"):
        return ["O"]
    if system.startswith(("ice", "urea", "fcc:", "box:")):
        return cell_members(system)
    return system.split("+")


def _identity(system: str) -> str:
    """Return the topology key of a molecule, or the name itself for the rest."""
    is_molecule = not (
        "+" in system or system.startswith(("water_", "ice", "urea", "fcc:", "box:"))
    )
    return molecule_key(system) if is_molecule else system
