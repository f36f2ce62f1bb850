"""Label the geometries of the DFT data with GFN2-xTB, a cheap stand-in for a target.

    labvenv/bin/python data/gfn2_target.py        # seconds; writes data/gfn2/

The geometries are those of dft_target.py (data/build/dft_geometries_1.xyz, which that
script makes first): ethylene glycol, alone and with water, at 300 K, and an
out-of-distribution test at 600 K and with a second water. See data/README.md.
"""

import argparse
from pathlib import Path

from ase.calculators.singlepoint import SinglePointCalculator
from ase.io import read, write
from tblite.ase import TBLite
from tqdm import tqdm

LEVEL = "GFN2-xTB"
SPLITS = ("train", "val", "test", "test_ood")


def main():
    here = Path(__file__).parent
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--geometries", type=Path, default=here / "build" / "dft_geometries_1.xyz"
    )
    parser.add_argument("--out", type=Path, default=here / "gfn2")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    frames = {split: [] for split in SPLITS}
    for geometry in tqdm(read(options.geometries, ":"), desc=LEVEL, unit="frame"):
        frames[geometry.info["split"]].append(label(geometry))
    for split, part in frames.items():
        draft = options.out / f"{split}.tmp"
        write(draft, part, format="extxyz")
        draft.rename(options.out / f"{split}.xyz")


def label(geometry):
    """Return the structure with GFN2-xTB energy and forces as its results."""
    atoms = geometry.copy()
    atoms.calc = TBLite(method=LEVEL, accuracy=0.1, verbosity=0)
    energy, forces = atoms.get_potential_energy(), atoms.get_forces()
    kept = ("system", "group")
    atoms.info = {key: geometry.info[key] for key in kept} | {"level": LEVEL}
    atoms.calc = SinglePointCalculator(atoms, energy=energy, forces=forces)
    return atoms


if __name__ == "__main__":
    main()
