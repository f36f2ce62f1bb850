"""Predictions for many frames: order, batches, progress, and the file."""

import numpy as np
import pytest
from ase.stress import full_3x3_to_voigt_6_stress
from support.models import build_model
from support.structures import build_structures, get_results

from pet_calc import PETCalculator
from pet_calc.data.frames import LabeledFrame
from pet_calc.errors import ConfigError, DataError, ModelError
from pet_calc.evaluate.metrics import Metrics
from pet_calc.evaluate.predict import predict_frames


@pytest.fixture(scope="module")
def model():
    return build_model()


def build_frames(n=10):
    """Frames of many sizes, in no order of size; those from the third are labelled."""
    frames = []
    for i in range(n):
        atoms = build_structures()[i % 5]
        atoms.rattle(0.05, seed=i)
        if i >= 2:
            atoms.info["REF_energy"] = float(i)
            atoms.arrays["REF_forces"] = np.full((len(atoms), 3), 0.1 * i)
        frames.append(LabeledFrame.from_atoms(atoms, source=f"frame {i}"))
    return frames


@pytest.mark.parametrize("batch_tokens", [1, 300, 100_000])
def test_frames_come_in_order_with_what_the_calculator_says(model, batch_tokens):
    frames, metrics, shown = build_frames(), Metrics(), []

    def progress(items):
        for item in items:
            yield item
            shown.append(item)

    predictions = list(
        predict_frames(
            model,
            frames,
            "energy",
            metrics,
            batch_tokens=batch_tokens,
            progress=progress,
        )
    )
    assert [p.frame.source for p in predictions] == [f.source for f in frames]
    assert [f.source for f in shown] == [f.source for f in frames]
    calculator = PETCalculator(model)
    energy_errors, force_errors = [], []
    for i, prediction in enumerate(predictions):
        expected = get_results(calculator, prediction.frame.to_atoms())
        assert prediction.energy == pytest.approx(expected["energy"], abs=1e-9)
        np.testing.assert_allclose(prediction.forces, expected["forces"], atol=1e-10)
        assert (prediction.stress is None) == ("stress" not in expected)
        found = prediction.to_atoms()
        assert found.info["pet_energy"] == prediction.energy
        if prediction.stress is not None:
            np.testing.assert_allclose(
                full_3x3_to_voigt_6_stress(found.info["pet_stress"]),
                expected["stress"],
                atol=1e-10,
            )
        if i >= 2:
            energy_errors.append(abs(expected["energy"] - i) / len(found))
            force_errors.append(np.abs(expected["forces"] - 0.1 * i).flatten())
    values = metrics.to_dict()
    assert metrics.n_frames == 10
    assert values["energy_mae"] == pytest.approx(np.mean(energy_errors))
    assert values["forces_mae"] == pytest.approx(np.concatenate(force_errors).mean())
    assert "stress_mae" not in values


def test_evaluation_is_lazy_and_in_bounded_batches(model):
    """Only as many frames are taken as the batches so far need."""
    taken = []

    def progress(items):
        for item in items:
            taken.append(item)
            yield item

    predictions = predict_frames(
        model, build_frames(), "energy", Metrics(), batch_tokens=1, progress=progress
    )
    next(predictions)
    assert len(taken) <= 2


def test_unknown_elements_and_charges_are_named_before_the_work(model):
    frames = build_frames(3)
    frames[2].numbers[0] = 79
    with pytest.raises(DataError, match=r"Au .*frame 2"):
        next(predict_frames(model, frames, "energy", Metrics()))
    conditioned = build_model(system_conditioning=True)
    frames = build_frames(3)
    frames[1].charge = 12
    with pytest.raises(ModelError, match=r"frame 1: total charge 12"):
        next(predict_frames(conditioned, frames, "energy", Metrics()))


def test_a_stream_is_taken_only_as_far_as_needed_and_its_bad_frame_named(model):
    taken = []

    def stream():
        for frame in build_frames(6):
            taken.append(frame)
            if len(taken) == 5:
                frame.numbers[0] = 79
            yield frame

    predictions = predict_frames(model, stream(), "energy", Metrics(), batch_tokens=1)
    next(predictions)
    assert len(taken) <= 2
    with pytest.raises(DataError, match=r"Au .*frame 4"):
        list(predictions)


def test_the_compiled_engine_gives_the_same_predictions(model):
    results = []
    for choice in (False, True):
        frames = build_frames()
        found = predict_frames(model, frames, "energy", Metrics(), compile=choice)
        results.append(list(found))
    for one, other in zip(*results, strict=True):
        assert other.energy == pytest.approx(one.energy, abs=1e-10)
        np.testing.assert_allclose(other.forces, one.forces, rtol=0, atol=1e-11)


def test_mixed_precision_of_a_float64_model_is_refused(model):
    with pytest.raises(ConfigError, match="float64"):
        next(
            predict_frames(
                model, build_frames(), "energy", Metrics(), precision="mixed"
            )
        )
