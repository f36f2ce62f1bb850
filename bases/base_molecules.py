"""Make the molecular base data: GFN1-xTB energies, forces and (in cells) stress.

    python bases/base_molecules.py                    # everything, into bases/build/
    python bases/base_molecules.py --limit 20 --out /tmp/few

One unit of work is one system (a molecule, a pair, a cluster, a cell). Each finished
unit is a file in OUT/units, so an interrupted run goes on where it stopped. The last
step filters, removes duplicates, splits by system and writes base_{train,val,test}.xyz.
See bases/README.md.
"""

import argparse
import multiprocessing
import os
import time
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before tblite loads: units are small

from ase import Atoms
from assemble import assemble
from clusters import CLUSTERS, WATER_CLUSTERS, cluster_frames, dimer_frames, list_pairs
from molecules import (
    atom_frames,
    drawn_frames,
    list_drawn,
    list_molecules,
    molecule_frames,
)
from periodic import cell_frames, list_cells
from runs import generator, refuse_other_settings, unit_file, write_frames
from tqdm import tqdm

Unit = tuple[str, str]  # group and system name
N_DRAWN = 2000


def list_units(seed: int) -> list[Unit]:
    """Return every system to make, in an order that mixes cheap and expensive ones."""
    units: list[Unit] = [("molecule", name) for name, _ in list_molecules()]
    units += [("dimer", "+".join(pair)) for pair in list_pairs(seed)]
    units += [("water_cluster", f"water_{n}") for n in WATER_CLUSTERS]
    units += [("cluster", "+".join(members.split())) for members in CLUSTERS]
    units += list_cells()
    order = generator(seed, "order").permutation(len(units))
    drawn = [("drawn", name) for name in list_drawn(seed, N_DRAWN)]
    # drawn ones come last, so that the units before them keep their numbers
    return [("atom", "atoms"), *(units[i] for i in order), *drawn]


def make_frames(unit: Unit, seed: int) -> list[Atoms]:
    """Return the labelled frames of one unit; a failed unit returns none."""
    group, name = unit
    try:
        if group == "atom":
            frames = atom_frames()
        elif group == "molecule":
            frames = molecule_frames(name, seed)
        elif group == "drawn":
            frames = drawn_frames(name, seed)
        elif group == "dimer":
            first, second = name.split("+")
            frames = dimer_frames((first, second), seed)
        elif group == "water_cluster":
            members = ("O",) * int(name.rpartition("_")[2])
            frames = cluster_frames(members, 8, seed, name)
        elif group == "cluster":
            frames = cluster_frames(tuple(name.split("+")), 2, seed, name)
        else:
            frames = cell_frames(name, seed)
    except RuntimeError as error:  # SCF or relaxation failed: counted at the end
        tqdm.write(f"{group} {name}: {error}")
        return []
    for frame in frames:
        frame.info["group"] = group
    return frames


def run_unit(job: tuple[int, Unit, int, Path]) -> None:
    """Make one unit and write its file in one step (tmp, then rename)."""
    index, unit, seed, folder = job
    write_frames(unit_file(folder, index), make_frames(unit, seed))


def main() -> None:
    """Run the units that are missing, then assemble the splits."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    default_out = Path(__file__).parent / "build"
    parser.add_argument("--out", type=Path, default=default_out, help="folder")
    parser.add_argument("--limit", type=int, help="make only the first N systems")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--workers", type=int, default=1, help="processes")
    options = parser.parse_args()

    units = list_units(options.seed)[: options.limit]
    folder = options.out / "units"
    folder.mkdir(parents=True, exist_ok=True)
    refuse_other_settings(folder / "settings.txt", f"seed {options.seed}\n")
    jobs = [
        (index, unit, options.seed, folder)
        for index, unit in enumerate(units)
        if not unit_file(folder, index).exists()
    ]
    start = time.monotonic()
    with multiprocessing.Pool(options.workers) as pool:
        results = pool.imap_unordered(run_unit, jobs)
        for _ in tqdm(results, total=len(jobs), desc="systems", unit="system"):
            pass
    tqdm.write(f"{len(jobs)} systems in {time.monotonic() - start:.0f} s")
    files = [unit_file(folder, index) for index in range(len(units))]
    is_full = options.limit is None and options.out == default_out
    tqdm.write(assemble(files, options.out, options.seed, record=is_full))


if __name__ == "__main__":
    main()
