"""Several simulations side by side in one LAMMPS, as nudged elastic band has them."""

import ase.build
import ase.io
import numpy as np
import pytest
from ase.io.lammpsdata import write_lammps_data
from support.models import build_model, build_random_uncertainty

from pet_calc import PETCalculator
from pet_calc.export import export_model
from pet_calc.lammps import run_lammps

ELEMENTS = ["C", "H", "O"]
# each partition has its own structure, and the ends of the band keep theirs
SCRIPT = """
units metal
atom_style atomic
atom_modify map array sort 0 0.0
variable number world 0 1
read_data start${number}.data
pair_style metatomic model.pt
pair_coeff * * C H O
run 0
print "$(pe:%.15g)" file energy${number}.txt
"""
BAND = """
timestep 0.0005
fix band all neb 1.0
min_style quickmin
neb 0.0 0.01 3 3 1 final end.coords
print "$(pe:%.15g)" file after${number}.txt
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory, orient):
    """Two runs with two partitions each, and what the calculator says of the ends."""
    folder = tmp_path_factory.mktemp("partitions")
    model = build_model(cutoff=3.0)
    export_model(model, folder / "model.pt", check=False)
    start = ase.build.molecule("CH3OH", vacuum=4.0)
    start.pbc = True
    start = orient(start)
    end = start.copy()
    end.rattle(0.05, seed=1)
    for number, atoms in enumerate((start, end)):
        write_lammps_data(
            folder / f"start{number}.data", atoms, specorder=ELEMENTS, masses=True
        )
    rows = [
        f"{k + 1} {x:.15g} {y:.15g} {z:.15g}"
        for k, (x, y, z) in enumerate(end.positions)
    ]
    (folder / "end.coords").write_text("\n".join([str(len(rows)), *rows]) + "\n")
    calculator = PETCalculator(model)
    energies = [calculator.get_potential_energy(atoms) for atoms in (start, end)]
    return folder, energies


def run(folder, text, n_ranks=1):
    """Run two partitions of so many ranks."""
    (folder / "in.lmp").write_text(text)
    done = run_lammps(
        "in.lmp",
        n_ranks=2 * n_ranks,
        arguments=["-partition", f"2x{n_ranks}"],
        cwd=folder,
        capture=True,
    )
    assert done.returncode == 0, (done.stdout + done.stderr)[-2000:]


# two exchange edges with each other, and with nobody else
@pytest.mark.parametrize("n_ranks", [1, 2])
def test_partitions_compute_their_own_structures(n_ranks, folder):
    path, expected = folder
    run(path, SCRIPT, n_ranks)
    found = [float((path / f"energy{k}.txt").read_text()) for k in (0, 1)]
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-7)
    assert abs(found[0] - found[1]) > 1e-3


def test_partitions_write_their_uncertain_frames_to_files_of_their_own(folder):
    path, _ = folder
    model = build_model(cutoff=3.0)
    own = {"energy": build_random_uncertainty(model)}
    export_model(model, path / "sure.pt", uncertainties=own, check=False)
    style = "sure.pt uncertainty_threshold 1e-9 on_uncertain write"
    run(path, SCRIPT.replace("model.pt", style))
    for k in (0, 1):
        frame = ase.io.read(path / f"uncertain.{k}.xyz")
        start = ase.io.read(path / f"start{k}.data", format="lammps-data")
        both = [each.get_all_distances(mic=True) for each in (frame, start)]
        np.testing.assert_allclose(*both, atol=1e-7)
    assert not (path / "uncertain.xyz").exists()


def test_a_nudged_elastic_band_runs(folder):
    path, expected = folder
    text = SCRIPT.replace("start${number}.data", "start0.data")
    run(path, text + BAND)
    # the last replica of the band ends where it was told to
    start, end = (float((path / f"energy{k}.txt").read_text()) for k in (0, 1))
    assert start == end == pytest.approx(expected[0], abs=1e-7)
    log = (path / "log.lammps").read_text()
    assert "Climbing" in log
