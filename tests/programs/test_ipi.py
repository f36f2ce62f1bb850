"""i-PI runs an exported file by its metatomic driver: NVT, and path integrals."""

import json
import os
import subprocess

import ase.io
import numpy as np
import pytest
from ase import units
from support.llpr import build_fitted, build_uncertainty
from support.models import DIRECT, build_model
from support.programs import require, require_script
from support.structures import build_water

from pet_calc import PETCalculator
from pet_calc.checkpoint import Checkpoint
from pet_calc.checkpoint.uncertainty import set_uncertainty
from pet_calc.export import export_model

INPUT = """
<simulation verbosity="low">
  <output prefix="run">
    <properties stride="1" filename="out">
      [step, conserved{electronvolt}, temperature{kelvin}, potential{electronvolt},
       kinetic_cv{electronvolt}]
    </properties>
    <trajectory filename="pos" stride="5" format="ase"> positions </trajectory>
    <trajectory filename="for" stride="5" format="ase"> forces </trajectory>
  </output>
  <total_steps>STEPS</total_steps>
  <prng><seed>1</seed></prng>
  FORCEFIELD
  <system>
    <initialize nbeads="BEADS">
      <file mode="ase">start.xyz</file>
      <velocities mode="thermal" units="kelvin">300</velocities>
    </initialize>
    <forces><force forcefield="pet"/></forces>
    <ensemble><temperature units="kelvin">300</temperature></ensemble>
    <motion mode="dynamics">
      <dynamics mode="nvt">
        <timestep units="femtosecond">0.25</timestep>
        <thermostat mode="THERMOSTAT"><tau units="femtosecond">50</tau></thermostat>
      </dynamics>
    </motion>
  </system>
</simulation>
"""
DIRECTLY = """
  <ffdirect name="pet">
    <pes>metatomic</pes>
    <parameters>{template: start.xyz, model: water.pt, device: cpu}</parameters>
  </ffdirect>
"""
BY_SOCKET = """
  <ffsocket name="pet" mode="unix">
    <address>ADDRESS</address>
    <latency>1e-3</latency>
  </ffsocket>
"""
COLUMNS = ["step", "conserved", "temperature", "potential", "kinetic"]


@pytest.fixture(scope="module")
def model():
    return build_model(num_neighbors_adaptive=6.0)


@pytest.fixture
def folder(model, tmp_path):
    """A folder with the exported model and the first frame."""
    export_model(model, tmp_path / "water.pt", check=False)
    build_water((2, 2, 2)).write(tmp_path / "start.xyz")
    return tmp_path


def write_input(folder, *, n_steps, n_beads, forcefield=DIRECTLY):
    text = INPUT.replace("STEPS", str(n_steps)).replace("BEADS", str(n_beads))
    thermostat = "pile_g" if n_beads > 1 else "svr"
    text = text.replace("THERMOSTAT", thermostat).replace("FORCEFIELD", forcefield)
    (folder / "input.xml").write_text(text)


def run_program(words, folder):
    done = subprocess.run(
        words, cwd=folder, env=os.environ, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]


def read_properties(folder):
    table = np.loadtxt(folder / "run.out")
    return dict(zip(COLUMNS, table.T, strict=True))


def compare_with_calculator(model, folder, n_beads, properties):
    """Forces and energies of all frames that i-PI has written are the model's."""
    calculator = PETCalculator(model, compile=False)
    energies = []
    for bead in range(n_beads):
        name = f"{bead}" if n_beads < 10 else f"{bead:02d}"
        positions = ase.io.read(folder / f"run.pos_{name}.extxyz", ":")
        forces = ase.io.read(folder / f"run.for_{name}.extxyz", ":")
        energies.append([])
        for atoms, pushed in zip(positions, forces, strict=True):
            found = pushed.get_forces()
            atoms.calc = calculator
            # positions in the files have 8 decimals, and random networks are steep
            np.testing.assert_allclose(found, atoms.get_forces(), rtol=0, atol=1e-5)
            energies[-1].append(atoms.get_potential_energy())
    # i-PI's potential is the mean over beads
    mean = np.mean(energies, axis=0)
    every = properties["potential"][::5][: len(mean)]
    np.testing.assert_allclose(every, mean, rtol=0, atol=1e-5)


@pytest.mark.slow
def test_nvt_has_the_forces_of_the_model_and_keeps_its_energy(model, folder):
    words = require_script("ipi", "ipi", "i-pi")
    write_input(folder, n_steps=40, n_beads=1)
    run_program([*words, "input.xml"], folder)
    properties = read_properties(folder)
    assert properties["step"][-1] == 40
    compare_with_calculator(model, folder, 1, properties)
    moved = np.ptp(properties["potential"])
    assert moved > 0.5
    # a random network is rough; the drift is small beside what flows
    assert np.ptp(properties["conserved"]) < 0.05 * moved
    assert 100 < properties["temperature"].mean() < 3000


@pytest.mark.slow
def test_four_beads_have_each_their_forces_and_more_kinetic_energy(model, folder):
    words = require_script("ipi", "ipi", "i-pi")
    write_input(folder, n_steps=20, n_beads=4)
    run_program([*words, "input.xml"], folder)
    properties = read_properties(folder)
    compare_with_calculator(model, folder, 4, properties)
    last = [
        ase.io.read(folder / f"run.pos_{bead}.extxyz", -1).positions
        for bead in range(4)
    ]
    # all start at one place, and spread by their zero-point motion
    assert np.std(last, axis=0).max() > 0.005
    # more than 3/2 kT per atom: the virial estimator of quantum nuclei
    classical = 1.5 * units.kB * 300 * len(last[0])
    assert properties["kinetic"][-5:].mean() > classical


@pytest.mark.slow
def test_the_driver_in_a_process_of_its_own_gives_the_same(model, folder):
    server = require_script("ipi", "ipi", "i-pi")
    driver = require_script("ipi", "ipi", "i-pi-py_driver")
    address = f"pet_calc_{os.getpid()}"
    forcefield = BY_SOCKET.replace("ADDRESS", address)
    write_input(folder, n_steps=10, n_beads=1, forcefield=forcefield)
    running = subprocess.Popen(
        [*server, "input.xml"],
        cwd=folder,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    socket = f"/tmp/ipi_{address}"
    try:
        while not os.path.exists(socket):
            assert running.poll() is None, "i-PI ended before its driver came"
        options = "template=start.xyz,model=water.pt,device=cpu"
        words = [*driver, "-m", "metatomic", "-u", "-a", address, "-o", options]
        subprocess.run(words, cwd=folder, capture_output=True, check=False, timeout=300)
        assert running.wait(60) == 0
    finally:
        running.kill()
        running.wait()
    compare_with_calculator(model, folder, 1, read_properties(folder))


def build_driver(path, folder, **options):
    driver = require("ipi.pes.metatomic", "ipi")
    build_water((2, 2, 2)).write(folder / "start.xyz")
    return driver.MetatomicDriver(
        template=str(folder / "start.xyz"), model=str(path), **options
    )


def run_driver(driver, atoms):
    """Energy in eV, forces in eV/Å, virial in eV, and the extras."""
    from ipi.utils.units import unit_to_internal, unit_to_user

    energy, forces, virial, extras = driver(
        unit_to_internal("length", "angstrom", atoms.cell.array.T.copy()),
        unit_to_internal("length", "angstrom", atoms.positions),
    )
    return (
        unit_to_user("energy", "electronvolt", energy),
        unit_to_user("force", "ev/ang", forces),
        unit_to_user("energy", "electronvolt", virial),
        json.loads(extras),
    )


def test_the_virial_is_the_stress_times_the_volume(model, tmp_path):
    path = export_model(model, tmp_path / "m.pt", check=False)
    atoms = build_water((2, 2, 2))
    energy, forces, virial, _ = run_driver(build_driver(path, tmp_path), atoms)
    atoms.calc = PETCalculator(model, compile=False)
    assert energy == pytest.approx(atoms.get_potential_energy(), abs=1e-9)
    np.testing.assert_allclose(forces, atoms.get_forces(), rtol=0, atol=1e-9)
    expected = -atoms.get_stress(voigt=False) * atoms.get_volume()
    np.testing.assert_allclose(virial, expected, rtol=0, atol=1e-8)


def test_the_uncertainty_travels_with_the_file(model, tmp_path):
    own = build_uncertainty(model)
    path = export_model(
        model, tmp_path / "m.pt", uncertainties={"energy": own}, check=False
    )
    driver = build_driver(
        path, tmp_path, uncertainty_threshold=1e-9, energy_ensemble=True
    )
    atoms = build_water((2, 2, 2))
    *_, extras = run_driver(driver, atoms)
    record = Checkpoint.from_model(model)
    set_uncertainty(record, model, "energy", build_fitted(model))
    calculator = PETCalculator(record, compile=False)
    expected = calculator.get_property("energies_uncertainty", atoms)
    found = np.array(extras["energy_uncertainty"]) * units.Hartree
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    members = np.array(extras["committee_pot"]) * units.Hartree
    assert len(members) == own.n_members
    energy = calculator.get_potential_energy(atoms)
    assert abs(members.mean() - energy) < 5 * members.std()


# i-PI 3.3.1 asks by a name that metatomic-torch 0.1.19 calls old
@pytest.mark.filterwarnings("ignore:the 'non_conservative_forces' output name")
def test_direct_forces_are_found_under_their_older_name(tmp_path):
    model = build_model(DIRECT)
    path = export_model(model, tmp_path / "m.pt", check=False)
    driver = build_driver(path, tmp_path, non_conservative=True)
    atoms = build_water((2, 2, 2))
    _, forces, _, _ = run_driver(driver, atoms)
    calculator = PETCalculator(model, non_conservative=True)
    expected = calculator.get_forces(atoms)
    np.testing.assert_allclose(forces, expected, rtol=0, atol=1e-9)


def test_charge_and_spin_are_taken_as_0_and_1(tmp_path):
    """i-PI's driver gives none to the model; the documentation says so."""
    model = build_model(system_conditioning=True)
    path = export_model(model, tmp_path / "m.pt", check=False)
    atoms = build_water((2, 2, 2))
    energy, *_ = run_driver(build_driver(path, tmp_path), atoms)
    expected = PETCalculator(model, compile=False).get_potential_energy(atoms)
    assert energy == pytest.approx(expected, abs=1e-9)
