"""Many systems at once, and systems that do not fit in memory."""

import io
import sys

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.calculators.calculator import PropertyNotImplementedError
from support.llpr import build_fitted
from support.models import DIRECT, build_model
from support.structures import (
    assert_same,
    build_bulk,
    build_molecule,
    build_structures,
    build_water,
)

from pet_calc import PETCalculator
from pet_calc.calculator.at_once import AtOnce
from pet_calc.checkpoint import Checkpoint
from pet_calc.checkpoint.open import load_merged_model
from pet_calc.checkpoint.uncertainty import set_uncertainty
from pet_calc.errors import ModelError, TooLargeError, UncertaintyError
from pet_calc.export import export_model

EXTRA = ["energy_uncertainty", "energies_uncertainty", "forces_uncertainty"]


def build_sure(model):
    record = Checkpoint.from_model(model)
    merged = load_merged_model(record)
    set_uncertainty(record, merged, "energy", build_fitted(merged, "energy", 0))
    return record


def evaluate_each(calculator, frames, properties):
    """One by one, as ASE asks: what is in ``results`` afterwards."""
    found = []
    for atoms in frames:
        names = [n for n in properties if n != "stress" or atoms.pbc.all()]
        calculator.calculate(atoms, names)
        found.append(dict(calculator.results))
    return found


def assert_all_close(found, expected):
    for name, values in found.items():
        # spreads are roots of differences: half of the digits
        atol = 1e-7 if name.endswith("_std") else 1e-9
        np.testing.assert_allclose(values, expected[name], rtol=1e-9, atol=atol)


@pytest.mark.parametrize("batch_tokens", [1, 200, 10**6])
@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"compile": True},
        {"non_conservative": True},
        {"non_conservative": "forces"},
        {"rotational_average_order": 0},
    ],
    ids=str,
)
def test_results_are_those_of_one_at_a_time(batch_tokens, arguments):
    frames = [*build_structures(), build_bulk(), Atoms()]
    source = build_sure(build_model(DIRECT))
    calculator = PETCalculator(source, **{"compile": False, **arguments})
    names = ["energy", "forces", "stress", *EXTRA]
    expected = evaluate_each(calculator, frames, names)
    calculator.reset()
    bulk = [atoms.pbc.all() for atoms in frames]
    found = calculator.evaluate(frames, batch_tokens=batch_tokens)
    for one, other, is_bulk in zip(expected, found, bulk, strict=True):
        assert ("stress" in other) == is_bulk
        assert_all_close(other, one)
    found = calculator.evaluate(frames, ["energy", *EXTRA], batch_tokens=batch_tokens)
    for one, other in zip(expected, found, strict=True):
        assert set(EXTRA) <= other.keys()
        assert_all_close(other, one)


def test_an_exported_file_gives_the_same(model, exported):
    frames = build_structures()
    expected = PETCalculator(model).evaluate(frames)
    found = PETCalculator(exported).evaluate(frames)
    for one, other in zip(expected, found, strict=True):
        assert_same(one, other)


@pytest.mark.parametrize("kind", ["model", "exported"])
def test_charges_are_those_of_each_frame_and_no_step_notices(tmp_path, kind):
    model = build_model(system_conditioning=True)
    path = export_model(model, tmp_path / "m.pt", check=False)
    calculator = PETCalculator(model if kind == "model" else path)
    frames = [build_molecule() for _ in range(3)]
    for charge, atoms in enumerate(frames):
        atoms.info["charge"] = charge
    energies = [calculator.get_potential_energy(atoms) for atoms in frames]
    step = build_molecule()
    step.calc = calculator
    energy = step.get_potential_energy()
    found = [results["energy"] for results in calculator.evaluate(frames)]
    np.testing.assert_allclose(found, energies, atol=1e-10)
    assert len({round(value, 6) for value in found}) == 3
    # the state of the step is that of the step, not of the last frame
    assert step.get_potential_energy() == energy
    step.info["charge"] = 2
    assert step.get_potential_energy() == pytest.approx(energies[2], abs=1e-10)


def test_frames_and_the_neighbour_list_of_a_run_are_left_alone(model):
    atoms = build_bulk()
    atoms.calc = PETCalculator(model, skin=1.0)
    atoms.get_forces()
    before, copy = atoms.calc._backend.pairs.n_builds, build_molecule()
    atoms.calc.evaluate([copy])
    assert copy == build_molecule()
    assert copy.calc is None
    atoms.rattle(1e-3)
    atoms.get_forces()
    assert atoms.calc._backend.pairs.n_builds == before


def test_errors_name_the_frame(model):
    frames = [build_molecule(), Atoms("U", cell=np.eye(3) * 9, pbc=True)]
    calculator = PETCalculator(model)
    with pytest.raises(ModelError, match="frame 1: the model does not know U"):
        calculator.evaluate(frames)
    with pytest.raises(PropertyNotImplementedError, match="frame 0: stress needs"):
        calculator.evaluate(frames[:1], ["stress"])
    frames[1] = build_molecule()
    frames[1].info["charge"] = 99
    conditioned = PETCalculator(build_model(system_conditioning=True))
    with pytest.raises(ModelError, match="frame 1: atoms: total charge 99"):
        conditioned.evaluate(frames)
    assert calculator.evaluate([]) == []


def test_uncertain_frames_are_seen(model):
    calculator = PETCalculator(
        build_sure(model), max_uncertainty=1e-9, on_uncertain="raise"
    )
    with pytest.raises(UncertaintyError, match="step 0"):
        calculator.evaluate([build_molecule()])


def test_a_bar_is_shown_on_long_work_and_where_it_is_asked_for(model, monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    seen = {}
    calculator = PETCalculator(model, compile=False)
    for wish in (True, False):
        monkeypatch.setattr(sys, "stderr", Terminal())
        calculator.evaluate([build_molecule()] * 2, show_progress=wish)
        seen[wish] = sys.stderr.getvalue()
    assert "0/2" in seen[True]
    assert seen[False] == ""
    # two frames take no two seconds, unless the machine is busy
    monkeypatch.setattr("pet_calc.calculator.batched._PATIENCE", 3600.0)
    monkeypatch.setattr(sys, "stderr", Terminal())
    calculator.evaluate([build_molecule()] * 2)
    assert sys.stderr.getvalue() == ""
    monkeypatch.setattr("pet_calc.calculator.batched._PATIENCE", 0.0)
    monkeypatch.setattr(sys, "stderr", Terminal())
    calculator.evaluate([build_molecule()] * 2)
    assert "0/2" in sys.stderr.getvalue()
    # where output is redirected there is none
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    calculator.evaluate([build_molecule()] * 2)
    assert sys.stderr.getvalue() == ""


class Memory:
    """A device that holds so many pairs and atoms at once."""

    def __init__(self, calculator, most):
        self.most = most
        self.seen = []
        backend = calculator._backend
        self._predict = backend._predict
        backend._predict = self.predict

    def predict(self, batch, *arguments):
        n_tokens = len(batch.centers) + len(batch.species)
        if n_tokens > self.most:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")
        self.seen.append(len(batch.cells))
        return self._predict(batch, *arguments)


def test_batches_that_do_not_fit_are_cut_and_stay_small(model, caplog):
    frames = [build_molecule() for _ in range(8)]
    expected = PETCalculator(model).evaluate(frames)
    calculator = PETCalculator(model, compile=False)
    memory = Memory(calculator, 100)
    found = calculator.evaluate(frames)
    for one, other in zip(expected, found, strict=True):
        assert_same(one, other)
    assert max(memory.seen) * len(memory.seen) >= 8
    (line, *_) = [r.message for r in caplog.records if "out of memory" in r.message]
    assert "pairs and atoms at once; from now on at most" in line


def test_orientations_that_do_not_fit_are_cut(model, caplog):
    expected = PETCalculator(model, rotational_average_order=1)
    calculator = PETCalculator(model, rotational_average_order=1, compile=False)
    memory = Memory(calculator, 200)
    atoms = build_molecule()
    assert calculator.get_potential_energy(atoms) == pytest.approx(
        expected.get_potential_energy(atoms), abs=1e-10
    )
    assert sum(memory.seen) == 36
    assert "36 orientations at once" in caplog.text


@pytest.mark.parametrize("order", [None, 0])
@pytest.mark.parametrize("by_list", [False, True])
def test_too_large_a_system_says_which_size_would_fit(
    model, monkeypatch, order, by_list
):
    atoms = build_water((4, 3, 3))

    def call(calculator):
        if by_list:
            calculator.evaluate([atoms])
        else:
            calculator.get_potential_energy(atoms)

    calculator = PETCalculator(model, rotational_average_order=order, compile=False)
    n_tokens = calculator._backend.count_tokens(atoms)
    memory = Memory(calculator, n_tokens // 3)
    free = {}

    def read_free(device):
        return free["bytes"]

    monkeypatch.setattr("pet_calc.model.memory.read_free_memory", read_free)
    fits = []
    for n_bytes in (1e6, 1e12):
        free["bytes"] = n_bytes
        with pytest.raises(TooLargeError) as caught:
            call(calculator)
        text = str(caught.value)
        n_pairs = n_tokens - len(atoms)
        assert f"{len(atoms)} atoms with {n_pairs} pairs do not fit in the mem" in text
        assert "of cpu (CUDA out of memory. Tried to allocate 2 GiB)" in text
        assert "several ranks of LAMMPS" in text
        fits.append(text)
    # with 1 MB free the measured cost of a part says how many; with more than the
    # device has (the memory is not what it says) only the part that ran is named
    if "about" in fits[0]:
        n_fitting = int(fits[0].partition("about ")[2].split()[0])
        assert 0 < n_fitting < len(atoms)
    assert "a part of 54 atoms does" in fits[1] or "a part of 27 atoms" in fits[1]
    assert isinstance(caught.value, MemoryError)
    # smaller ones still run
    assert memory.seen
    assert np.isfinite(calculator.get_potential_energy(build_molecule()))


def test_other_errors_pass_as_they_are(model, monkeypatch):
    calculator = PETCalculator(model, compile=False)

    def fail(*_):
        raise RuntimeError("a bug")

    monkeypatch.setattr(calculator._backend, "_predict", fail)
    for call in (calculator.get_potential_energy, lambda a: calculator.evaluate([a])):
        with pytest.raises(RuntimeError, match=r"^a bug$"):
            call(build_molecule())


def test_items_are_taken_as_they_are_needed_and_kept_in_order():
    taken = []

    def items():
        for i in range(10):
            taken.append(i)
            yield i

    at_once = AtOnce(4, lambda item: 1 + 4 * (item == 5))
    runs = []
    for run in at_once.run(items(), list):
        runs.append(run)
        assert len(taken) <= sum(map(len, runs)) + 5
    assert runs == [[0, 1, 2, 3], [4], [5], [6, 7, 8, 9]]
