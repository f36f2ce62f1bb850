from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, fcc111, molecule
from ase.io import write

SHARED_DATA = Path(__file__).resolve().parents[3] / "shared" / "data"


@pytest.fixture
def shared_file():
    """Return the path of a public reference file, or skip."""

    def find(name):
        path = SHARED_DATA / name
        if not path.is_file():
            pytest.skip(f"reference data is not here: {path}")
        return str(path)

    return find


def _build_structures():
    triclinic = Atoms(
        "NaClNaCl",
        scaled_positions=np.random.default_rng(3).random((4, 3)) * 3 - 1,
        cell=[[3.9, 0.2, 0.1], [1.7, 4.1, -0.3], [-1.2, 0.8, 5.2]],
        pbc=True,
    )
    wire = Atoms("CCO", [[0, 0, 0], [0.4, 1.2, 0.1], [1, -1, 7]], pbc=[0, 0, 1])
    wire.cell = [[0, 0, 0], [0, 0, 0], [0.3, 0.1, 2.4]]
    slab = fcc111("Cu", (2, 1, 3), vacuum=5.0)
    slab.pbc = [True, True, False]
    return {
        "molecule": molecule("CH3CH2OH"),
        "bulk": bulk("Si", cubic=True) * (2, 1, 1),
        "slab": slab,
        "one-atom cell": bulk("Al"),
        "tiny cell": Atoms("H", cell=[1.1, 1.3, 1.2], pbc=True),
        "triclinic": triclinic,
        "wire": wire,
        "isolated atom": Atoms("He"),
        "far apart": Atoms("He2", [[0, 0, 0], [0, 0, 30]]),
    }


@pytest.fixture
def structures():
    return _build_structures()


@pytest.fixture
def write_file(tmp_path):
    def write_frames(*frames, name="data.xyz"):
        path = tmp_path / name
        write(path, list(frames), format="extxyz")
        return str(path)

    return write_frames
