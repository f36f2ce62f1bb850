"""For how many atoms ten steps of the search for adaptive radii are too few.

    python benchmarks/adaptive_radii.py --data ../shared/data

metatrain's search stops after ten steps, converged or not; pet-calc's goes on. This
counts the atoms whose radius differs by more than 1e-4 Å, for several widths of the
window in which a neighbour fades out of the count, over the first 25 frames of each
file of the public data sets; cutoff 8 Å, 16 neighbours wanted, float64. Prints
markdown.
"""

import argparse
from pathlib import Path
from unittest.mock import patch

import ase.io
import torch

from pet_calc.data.systems import build_batch
from pet_calc.model import constants
from pet_calc.model.cutoff import find_trial_radii, refine_adaptive_radii
from pet_calc.model.edges import compute_distances, compute_edge_vectors

CUTOFF, N_WANTED, N_FRAMES = 8.0, 16.0, 25
N_STEPS = 10
WIDTHS = (1.0, 0.5, 0.25, 0.1)
SMALLEST = 1e-4


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="folder of the data")
    files = sorted(parser.parse_args().data.glob("*.xyz"))
    frames = [frame for file in files for frame in ase.io.iread(file, f":{N_FRAMES}")]
    apart = {width: [] for width in WIDTHS}
    for atoms in frames:
        batch = build_batch(atoms, CUTOFF, dtype=torch.float64)
        distances = compute_distances(compute_edge_vectors(batch))
        for width in WIDTHS:
            found = find_radii(batch, distances, width)
            with patch.object(constants, "N_SOLVER_STEPS", N_STEPS):
                apart[width].append((find_radii(batch, distances, width) - found).abs())
    print(
        f"{sum(map(len, frames))} atoms in {len(frames)} frames of {len(files)} files\n"
    )
    print("| width Å | atoms apart | largest Å |")
    print("|---|---|---|")
    for width, parts in apart.items():
        values = torch.cat(parts)
        n_apart = int((values > SMALLEST).sum())
        print(f"| {width} | {n_apart} | {float(values.max()):.2g} |")


def find_radii(batch, distances, width):
    """The radius of each atom, [n_atoms] in Å."""
    options = (N_WANTED, CUTOFF, width)
    trial = find_trial_radii(distances, batch.centers, len(batch.species), *options)
    return refine_adaptive_radii(trial, distances, batch.centers, *options)


if __name__ == "__main__":
    main()
