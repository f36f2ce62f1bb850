"""How many pairs of elements lack a wall, and how many would with the ZBL repulsion.

    python benchmarks/zbl_walls.py pet-gfn1-xs pet-sevennet-xs

Adds ZBL to the curves of `pet-calc validate`, as a model that carries it would have it
on top of its network. A model trained with ZBL has another network, so this shows what
the repulsion can do, and not what such a model would be. Prints markdown.
"""

import argparse

import numpy as np
import torch
from ase.data import atomic_numbers, covalent_radii

from pet_calc.model.zbl import ZBL
from pet_calc.validate import load_potential
from pet_calc.validate.dimers import scan_dimers
from pet_calc.validate.limits import LIMITS
from pet_calc.validate.walls import find_wall


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("models", nargs="+")
    limit = LIMITS["dimers"]
    print(
        f"| model | pairs | no wall | below {limit.fail:g} eV | below {limit.warn:g} |"
    )
    print("|---|---|---|---|---|")
    for name in parser.parse_args().models:
        potential = load_potential(name)
        curves = scan_dimers(potential, potential.elements)
        for title, walls in (
            (name, [curve.wall for curve in curves]),
            (f"{name} + ZBL", [add_zbl(curve) for curve in curves]),
        ):
            heights = np.array([wall.height for wall in walls])
            counts = [(heights <= 0).sum()]
            counts += [(heights < least).sum() for least in (limit.fail, limit.warn)]
            print(f"| {title} | {len(walls)} | {' | '.join(map(str, counts))} |")


def add_zbl(curve):
    """The wall of the curve with the repulsion."""
    numbers = [atomic_numbers[symbol] for symbol in curve.symbols]
    zbl = ZBL(2)
    zbl.covalent_radii += torch.tensor(covalent_radii[numbers])
    pair, ends = torch.tensor(numbers), torch.tensor([0, 1])
    added = [
        float(zbl(torch.full((2,), distance), pair, ends, ends, ends.flip(0)).sum())
        for distance in torch.tensor(curve.distances)
    ]
    return find_wall(curve.distances, curve.energies + np.array(added), curve.bond)


if __name__ == "__main__":
    main()
