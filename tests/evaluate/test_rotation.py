"""Errors and spread over random orientations, against the calculator's."""

import numpy as np
import pytest
from support.frames import build_frames
from support.models import build_model

from pet_calc import PETCalculator
from pet_calc.data.frames import LabeledFrame
from pet_calc.data.orientation import AS_JUDGED, FURTHER, turn_frame
from pet_calc.evaluate.predict import BatchPredictor, Errors
from pet_calc.evaluate.rotation import _bias_of_deviation
from pet_calc.train.rotation import RotationReport, Sample

N_ORIENTATIONS = 3


@pytest.fixture(scope="module")
def model():
    return build_model()


@pytest.fixture(scope="module")
def frames():
    return [LabeledFrame.from_atoms(atoms) for atoms in build_frames(6)]


def measure(model, frames, **settings):
    errors = Errors()
    predictor = BatchPredictor(
        model, "energy", n_orientations=N_ORIENTATIONS, batch_tokens=200
    )
    for batch in predictor.predict(frames, **settings):
        errors.merge(batch.errors)
    return errors


def test_errors_and_spread_are_those_of_turned_structures(model, frames):
    calculator = PETCalculator(model, dtype="float64")
    force_errors, energy_spreads, force_spreads, stress_spreads = [], [], [], []
    for i, frame in enumerate(frames):
        energies, forces, stress = [], [], []
        for k in range(-1, N_ORIENTATIONS):
            matrix = np.eye(3)
            if k >= 0:
                (matrix,) = (AS_JUDGED if k == 0 else FURTHER).draw(k, [i])
            turned = turn_frame(frame, matrix)
            atoms = turned.to_atoms()
            atoms.calc = calculator
            energies.append(atoms.get_potential_energy() / len(atoms))
            forces.append(atoms.get_forces() @ matrix)
            if k >= 0:
                force_errors.append(np.abs(atoms.get_forces() - turned.forces).ravel())
            if frame.pbc.all():
                tensor = atoms.get_stress(voigt=False)
                stress.append(matrix.T @ tensor @ matrix)
        energy_spreads.append(np.std(energies, ddof=1))
        force_spreads.append(np.sqrt(np.var(forces, axis=0, ddof=1).mean()))
        if stress:
            stress_spreads.append(np.sqrt(np.var(stress, axis=0, ddof=1).mean()))
    errors = measure(model, frames)
    assert errors.turned.to_dict()["forces_mae"] == pytest.approx(
        np.concatenate(force_errors).mean(), rel=1e-9
    )
    spread = errors.spread.to_dict()
    expected = np.mean(energy_spreads) / _bias_of_deviation(1 + N_ORIENTATIONS)
    assert spread["energy"] == pytest.approx(expected, rel=1e-6)
    assert spread["forces"] == pytest.approx(np.mean(force_spreads), rel=1e-9)
    assert spread["stress"] == pytest.approx(np.mean(stress_spreads), rel=1e-9)
    assert errors.judged is errors.turned


def test_parts_of_the_frames_add_up_to_all(model, frames):
    whole, parts = measure(model, frames), Errors()
    parts.merge(measure(model, frames[:2]))
    parts.merge(measure(model, frames[2:], first=2))
    for one, other in (
        (parts.turned.to_dict(), whole.turned.to_dict()),
        (parts.as_in_file.to_dict(), whole.as_in_file.to_dict()),
        (parts.spread.to_dict(), whole.spread.to_dict()),
    ):
        assert one == pytest.approx(other, rel=1e-12)


@pytest.mark.parametrize("n", [2, 5])
def test_the_spread_of_few_orientations_is_not_too_small(n):
    draws = np.random.default_rng(0).normal(size=(100_000, n))
    mean = np.std(draws, axis=1, ddof=1).mean() / _bias_of_deviation(n)
    # the standard error of the mean is below 0.002
    assert mean == pytest.approx(1.0, abs=0.01)


def test_a_report_warns_of_what_turning_changes():
    sample = Sample("test", [])
    turned = {"energy_mae": 0.010, "energy_rmse": 0.012, "forces_mae": 0.100}
    turned["forces_rmse"] = 0.120
    good = RotationReport(
        sample,
        base={"energy": 0.002, "forces": 0.030},
        spread={"energy": 0.002, "forces": 0.030},
        turned=turned,
        as_in_file={"energy_mae": 0.0101, "energy_rmse": 0.012},
    )
    assert good.find_warnings() == []
    assert "as they stand in the file" not in good.to_text()
    bad = RotationReport(
        sample,
        base={"energy": 0.002, "forces": 0.050},
        spread={"energy": 0.003, "forces": 0.040},
        turned=turned,
        as_in_file={"energy_mae": 0.003, "energy_rmse": 0.004},
    )
    energy, forces = bad.find_warnings()
    assert "more than with the base (2.00)" in energy
    assert "more than a third of its error (100.00)" in forces
    assert "as they stand in the file: energy MAE 3.00" in bad.to_text()
    # larger than that of a base that hardly had any, and nothing beside the error
    small = RotationReport(
        sample,
        base={"energy": 0.00001, "forces": 0.0003},
        spread={"energy": 0.00002, "forces": 0.009},
        turned=turned,
    )
    assert small.find_warnings() == []
