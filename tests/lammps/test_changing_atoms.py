"""Commands and fixes that add, remove and swap atoms: forces stay the calculator's."""

import numpy as np
import pytest
from support.models import build_model
from support.structures import build_water

from pet_calc import PETCalculator
from pet_calc.export import export_model

pytestmark = pytest.mark.lammps

DUMP = """
write_dump all custom {name}.last id type x y z fx fy fz modify sort id &
    format float %.17g
"""
MOVE = "fix move all nve\ntimestep 0.0002\n"
# types by element: 1 = H, 2 = O
CASES = {
    "atom/swap": MOVE
    + "fix swap all atom/swap 5 3 4711 5000 types 1 2\nthermo_modify lost ignore\n"
    "run 20",
    "deposit": "region part block 0.1 9 0.1 6 0.1 6 units box\n"
    + MOVE
    + "fix new all deposit 3 1 5 4711 region part near 0.9\nrun 20",
    "delete_atoms": "run 0\ndelete_atoms random count 4 no all NULL 4711\nrun 0",
    "create_atoms": "run 0\ncreate_atoms 1 single 0.3 0.3 0.3 units box\nrun 0",
    "evaporate": "region part block 0.1 9 0.1 6 0.1 6 units box\n"
    + MOVE
    + "fix away all evaporate 5 2 part 4711\nrun 20",
    "overlay": "pair_style hybrid/overlay metatomic {model} device cpu zero 3.0\n"
    "pair_coeff * * metatomic H O\npair_coeff * * zero\nrun 0",
    "sorted": "atom_modify sort 3 2.0\n" + MOVE + "run 20",
}


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory, new_batch, orient):
    path = export_model(build_model(), tmp_path_factory.mktemp("m") / "m.pt")
    batch = new_batch()
    for name, commands in CASES.items():
        file = name.replace("/", "-")
        text = commands.format(model=path) + "\n" + DUMP.format(name=file)
        batch.add(file, orient(build_water()), f"{path} device cpu", commands=text)
    batch.run()
    return batch.folder


@pytest.mark.parametrize("name", CASES)
def test_forces_are_the_calculators_after_atoms_changed(name, outcomes, orient):
    rows = np.loadtxt(outcomes / f"{name.replace('/', '-')}.last", skiprows=9)
    start = orient(build_water())
    atoms = start[:0]
    for row in rows:
        atoms += type(start)("HO"[int(row[1]) - 1], positions=[row[2:5]])
    atoms.calc = PETCalculator(build_model(), compile=False)
    forces = atoms.get_forces()
    scale = max(1.0, np.abs(forces).max())
    np.testing.assert_allclose(rows[:, 5:], forces, rtol=0, atol=1e-9 * scale)
    numbers = atoms.numbers[: len(start)]
    is_same = len(atoms) == len(start) and (numbers == start.numbers).all()
    assert is_same == (name in ("overlay", "sorted"))
