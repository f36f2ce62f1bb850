"""Atoms too uncertain: LAMMPS warns, stops or writes frames."""

import ase.build
import ase.io
import numpy as np
import pytest
import torch
from ase.data import chemical_symbols
from support.models import (
    ATOMIC_TYPES,
    ENERGIES,
    build_model,
    build_random_uncertainty,
)
from support.structures import build_bulk, build_molecule, heat

from pet_calc import PETCalculator
from pet_calc.export import export_model

pytestmark = pytest.mark.lammps

KCAL_PER_MOL, HARTREE = 23.060547830619, 1 / 27.211386245988
ENERGY_OF_UNITS = {"metal": 1.0, "real": KCAL_PER_MOL, "electron": HARTREE}
NAME_OF_UNITS = {"metal": "eV", "real": "kcal/mol", "electron": "Hartree"}
ENGINES = ["on", "off"]
FILE = "uncertain.xyz"
# every atom is more uncertain
ALL = "uncertainty_threshold 1e-9"


def export(path, **options):
    model = build_model(**options)
    names = enumerate(model.targets)
    own = {name: build_random_uncertainty(model, seed) for seed, name in names}
    return export_model(model, path, uncertainties=own, check=False)


@pytest.fixture(scope="module")
def sure(tmp_path_factory):
    return export(tmp_path_factory.mktemp("sure") / "sure.pt")


def compute(path, atoms, **options):
    """Uncertainties of the atoms by TorchScript, without the engine."""
    calculator = PETCalculator(path, compile=False, **options)
    return calculator.get_property("energies_uncertainty", atoms)


def find_warnings(folder):
    lines = (folder / "log.lammps").read_text().splitlines()
    return [line for line in lines if "WARNING" in line and "uncertain by" in line]


def check_frame(frame, atoms, expected, tolerance=1e-7):
    """A frame from the file, against a structure in LAMMPS's orientation."""
    np.testing.assert_array_equal(frame.numbers, atoms.numbers)
    np.testing.assert_array_equal(frame.pbc, atoms.pbc)
    np.testing.assert_array_equal(frame.arrays["id"], np.arange(len(atoms)) + 1)
    np.testing.assert_allclose(frame.cell.array, atoms.cell.array, atol=1e-7)
    both = [each.get_all_distances(mic=True) for each in (frame, atoms)]
    np.testing.assert_allclose(*both, atol=1e-7)
    found = frame.arrays["pet_energies_uncertainty"]
    np.testing.assert_allclose(found, expected, rtol=tolerance)
    assert frame.info["n_uncertain"] == len(atoms)
    assert frame.info["largest_uncertainty"] == pytest.approx(expected.max(), tolerance)
    # no label: nobody shall take a prediction for one
    assert frame.calc is None


@pytest.fixture(scope="module")
def written(sure, new_batch, orient):
    """What one process wrote for each engine, unit and structure."""
    batch = new_batch()
    structures = {"bulk": orient(build_bulk()), "molecule": orient(build_molecule())}
    cases = [(e, u, s) for e in ENGINES for u in ENERGY_OF_UNITS for s in structures]
    for engine, units, name in cases:
        label = f"{engine}-{units}-{name}"
        batch.add(
            label,
            structures[name],
            f"{sure} engine {engine} {ALL} on_uncertain write",
            units=units,
            commands=f"run 0\nshell mv {FILE} {label}.xyz",
        )
    outcomes = batch.run()
    return {
        case: (
            structures[case[2]],
            ase.io.read(batch.folder / f"{'-'.join(case)}.xyz", ":"),
            outcomes["-".join(case)],
        )
        for case in cases
    }


@pytest.mark.parametrize("name", ["bulk", "molecule"])
@pytest.mark.parametrize("units", ENERGY_OF_UNITS)
@pytest.mark.parametrize("engine", ENGINES)
def test_frames_have_the_calculators_uncertainties(sure, written, engine, units, name):
    atoms, frames, outcome = written[engine, units, name]
    (frame,) = frames
    check_frame(frame, atoms, compute(sure, atoms))
    assert frame.info["step"] == 0
    # nothing else changes
    atoms.calc = PETCalculator(sure)
    energy = outcome.energy / ENERGY_OF_UNITS[units]
    assert energy == pytest.approx(atoms.get_potential_energy(), rel=1e-8)


def find_limit(values):
    """A threshold that one atom exceeds, and its ID."""
    second, first = np.sort(values)[-2:]
    return float(second + first) / 2, int(values.argmax()) + 1


@pytest.fixture(scope="module")
def runs(sure, new_batch, orient):
    """A folder where moving atoms were looked at, with the warnings of each run."""
    atoms = orient(build_bulk())
    heat(atoms)
    limit, worst = find_limit(compute(sure, atoms))
    cases = {
        "warn": [(ALL, "fix 1 all nve\nrun 4\nrun 3", "metal")],
        "warn_all": [(f"{ALL} on_uncertain warn_all", "fix 1 all nve\nrun 4", "metal")],
        "nothing": [
            ("uncertainty_threshold off on_uncertain stop", "run 1", "metal"),
            ("uncertainty_threshold 1e3 on_uncertain stop", "run 1", "metal"),
        ],
        "every": [
            (
                f"{ALL} uncertain_every 3 on_uncertain write",
                "fix 1 all nve\nrun 7\nrun 1",
                "metal",
            )
        ],
        "units": [
            (f"uncertainty_threshold {limit * factor:.12g} scale 3.0", "run 0", units)
            for units, factor in ENERGY_OF_UNITS.items()
        ],
    }
    found = {}
    for name, settings in cases.items():
        batch = new_batch()
        for k, (keywords, commands, units) in enumerate(settings):
            model = f"{sure} {keywords}"
            batch.add(f"{name}{k}", atoms, model, commands=commands, units=units)
        batch.run()
        found[name] = batch.folder
    return found, atoms, worst


def test_a_run_has_one_line_or_one_for_each_step(runs):
    folders, atoms, _ = runs
    lines = find_warnings(folders["warn"])
    assert len(lines) == 2
    n = len(atoms)
    for line, step in zip(lines, (0, 4), strict=True):
        text = f"at step {step} the energies of {n} of {n} atoms are uncertain by more "
        assert f"pair_style metatomic: {text}than 1e-09 eV: atom " in line
        assert "later steps of this run are not named" in line
    lines = find_warnings(folders["warn_all"])
    assert [f"at step {k} " in line for k, line in enumerate(lines)] == [True] * 5


def test_below_the_threshold_and_without_one_nothing_happens(runs):
    folder = runs[0]["nothing"]
    assert not find_warnings(folder)
    assert not (folder / FILE).exists()


def test_the_threshold_is_in_the_units_of_the_input(sure, runs):
    folders, atoms, worst = runs
    lines = find_warnings(folders["units"])
    largest, symbol = compute(sure, atoms).max(), atoms.symbols[worst - 1]
    for line, (units, factor) in zip(lines, ENERGY_OF_UNITS.items(), strict=True):
        assert f"the energies of 1 of {len(atoms)} atoms" in line
        named = (
            f"{NAME_OF_UNITS[units]}: atom {worst} ({symbol}) {largest * factor:.3g}"
        )
        assert f"{named};" in line


def test_frames_of_a_run_are_some_steps_apart_and_of_all_runs_in_one_file(runs):
    frames = ase.io.read(runs[0]["every"] / FILE, ":")
    # the second run begins at step 7
    assert [frame.info["step"] for frame in frames] == [0, 3, 6, 7]
    (first, second) = find_warnings(runs[0]["every"])
    assert "3 steps apart or more, are added to uncertain.xyz" in first
    assert "at step 7" in second


def build_rod():
    """88 atoms, longer than the model sees."""
    atoms = ase.build.bulk("Si", "diamond", 5.4, cubic=True).repeat((11, 1, 1))
    atoms.numbers[::3] = 8
    atoms.rattle(0.15, seed=1)
    return atoms


@pytest.fixture(scope="module")
def short(tmp_path_factory):
    path = tmp_path_factory.mktemp("short") / "short.pt"
    return export(path, cutoff=3.0, num_gnn_layers=1)


@pytest.mark.parametrize("engine", ENGINES)
def test_two_ranks_write_the_frame_of_one(short, new_batch, orient, engine):
    atoms = orient(build_rod())
    expected = compute(short, atoms)
    batch = new_batch()
    batch.add(
        "rod",
        atoms,
        f"{short} engine {engine} {ALL} on_uncertain write",
        processors="processors 2 1 1",
    )
    outcome = batch.run(n_ranks=2)["rod"]
    # each rank has clearly less than all
    assert outcome.n_evaluated < 1.6 * len(atoms)
    (frame,) = ase.io.read(batch.folder / FILE, ":")
    check_frame(frame, atoms, expected)
    (line,) = find_warnings(batch.folder)
    assert f"atom {int(expected.argmax()) + 1} (" in line
    assert f"and {len(atoms) - 5} more" in line


def test_a_rank_without_atoms_takes_part(short, new_batch, orient):
    atoms = orient(build_molecule())
    expected = compute(short, atoms)
    atoms.cell[0, 0] += 30.0
    batch = new_batch()
    model = f"{short} {ALL} on_uncertain write"
    batch.add("m", atoms, model, processors="processors 2 1 1")
    batch.run(n_ranks=2)
    (frame,) = ase.io.read(batch.folder / FILE, ":")
    check_frame(frame, atoms, expected)


@pytest.mark.parametrize("n_ranks", [1, 2])
def test_stop_names_step_atoms_and_values(
    short, new_batch, orient, run_and_fail, n_ranks
):
    atoms = orient(build_rod())
    values = compute(short, atoms)
    order = np.argsort(-values)
    limit = float(values[order[1:3]].mean())
    batch = new_batch()
    model = f"{short} uncertainty_threshold {limit:.12g} on_uncertain stop"
    batch.add("rod", atoms, model, processors=f"processors {n_ranks} 1 1")
    text = run_and_fail(batch.folder, batch.texts[0], n_ranks)
    names = ", ".join(
        f"atom {k + 1} ({atoms.symbols[k]}) {values[k]:.3g}" for k in order[:2]
    )
    message = "at step 0 the energies of 2 of 88 atoms are uncertain by more than "
    assert f"pair_style metatomic: {message}{limit:g} eV: {names}" in text


def test_the_variant_has_its_own_and_charge_is_in_the_frame(
    tmp_path, new_batch, orient
):
    path = export(tmp_path / "two.pt", targets=ENERGIES, system_conditioning=True)
    atoms = orient(build_molecule())
    atoms.info.update(charge=-1, spin=2)
    batch = new_batch()
    for engine in ENGINES:
        keywords = f"engine {engine} variant scan charge -1 spin 2"
        batch.add(engine, atoms, f"{path} {keywords} {ALL} on_uncertain write")
    batch.run()
    frames = ase.io.read(batch.folder / FILE, ":")
    expected = compute(path, atoms, target="scan")
    assert len(frames) == 2
    for frame in frames:
        check_frame(frame, atoms, expected)
        assert (frame.info["charge"], frame.info["spin"]) == (-1, 2)
        np.testing.assert_allclose(compute(path, frame, target="scan"), expected, 1e-6)


def test_a_file_that_cannot_be_written_is_an_error(
    sure, new_batch, orient, run_and_fail
):
    batch = new_batch()
    atoms = orient(build_molecule())
    batch.add("m", atoms, f"{sure} {ALL} on_uncertain write")
    (batch.folder / FILE).mkdir()
    text = run_and_fail(batch.folder, batch.texts[0])
    assert "cannot write uncertain.xyz in this folder" in text


def test_float32_files_and_all_their_elements(tmp_path, new_batch, orient):
    path = export(tmp_path / "single.pt", dtype=torch.float32)
    symbols = [chemical_symbols[number] for number in ATOMIC_TYPES]
    atoms = build_bulk().repeat(1)
    atoms.symbols[: len(symbols)] = symbols[: len(atoms)]
    atoms = orient(atoms)
    batch = new_batch()
    for engine in ENGINES:
        batch.add(engine, atoms, f"{path} engine {engine} {ALL} on_uncertain write")
    batch.run()
    for frame in ase.io.read(batch.folder / FILE, ":"):
        check_frame(frame, atoms, compute(path, atoms), 1e-6)
