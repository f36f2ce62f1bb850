"""Make the materials base data: SevenNet-0 energies, forces and stress.

    python bases/materials.py                          # into bases/build/materials/
    python bases/materials.py --limit 20 --out /tmp/few_materials
    python bases/materials.py --assemble               # only from the units there are

One unit of work is one crystal, surface, alloy or melt. Each finished unit is a file in
OUT/units, so an interrupted run goes on where it stopped. The last step filters,
removes duplicates, splits, checks labels by finite differences and writes
materials_{train,val,test}.xyz. See bases/README.md.
"""

import argparse
import os
import time
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch loads: cells are small

from ase import Atoms
from materials_assemble import assemble
from materials_frames import (
    alloy_frames,
    crystal_frames,
    list_units,
    melt_frames,
    surface_frames,
)
from runs import generator, refuse_other_settings, unit_file, write_frames
from tqdm import tqdm

MAKERS = {
    "crystal": crystal_frames,
    "surface": surface_frames,
    "alloy": alloy_frames,
    "melt": melt_frames,
}


def make_frames(group: str, name: str, seed: int) -> list[Atoms]:
    """Return the labelled frames of one unit; a failed unit returns none."""
    try:
        frames = MAKERS[group](name, seed)
    except RuntimeError as error:  # a cell ran away: counted at the end
        tqdm.write(f"{group} {name}: {error}")
        return []
    for frame in frames:
        frame.info["group"] = group
    return frames


def main() -> None:
    """Make the units that are missing, then assemble the splits."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    default_out = Path(__file__).parent / "build" / "materials"
    parser.add_argument("--out", type=Path, default=default_out, help="folder")
    parser.add_argument("--limit", type=int, help="make only the first N units")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--assemble", action="store_true", help="make no more units")
    parser.add_argument("--summary", type=Path, help="where to write the checksums")
    options = parser.parse_args()

    units = list_units()
    order = generator(options.seed, "order").permutation(len(units))
    units = [units[i] for i in order][: options.limit]
    folder = options.out / "units"
    folder.mkdir(parents=True, exist_ok=True)
    refuse_other_settings(folder / "settings.txt", f"materials, seed {options.seed}\n")
    files = [unit_file(folder, index) for index in range(len(units))]
    missing = [] if options.assemble else [
        index for index, file in enumerate(files) if not file.exists()
    ]  # fmt: skip
    start = time.monotonic()
    for index in tqdm(missing, desc="units", unit="unit"):
        write_frames(files[index], make_frames(*units[index], options.seed))
    tqdm.write(f"{len(missing)} units in {time.monotonic() - start:.0f} s")
    done = [file for file in files if file.exists()]
    tqdm.write(assemble(done, options.out, options.seed, options.summary))


if __name__ == "__main__":
    main()
