import numpy as np
import pytest
from ase import Atoms, units
from ase.build import molecule

from pet_calc.data.composition_fit import (
    count_species,
    estimate_total_energies,
    find_open_types,
    fit_composition,
    fit_composition_shift,
    fit_energy_scale,
    fit_force_scale,
)
from pet_calc.data.frames import LabeledFrame, read_frames
from pet_calc.errors import DataError

WATER = np.array([[2.0, 0.0, 1.0], [4.0, 0.0, 2.0], [8.0, 0.0, 4.0]])  # H, C, O


def test_species_are_counted():
    frames = [LabeledFrame.from_atoms(molecule(m)) for m in ("H2O", "CH3OH")]
    assert count_species(frames, [8, 1, 6]).tolist() == [[1, 2, 0], [1, 4, 1]]
    with pytest.raises(DataError, match="outside"):
        count_species(frames, [1, 8])


def test_known_energies_are_recovered():
    rng = np.random.default_rng(0)
    counts = rng.integers(0, 9, (30, 4)).astype(float)
    exact = np.array([-13.6, -1030.1, -2041.3, -54000.25])
    found = fit_composition(counts, counts @ exact)
    np.testing.assert_allclose(found, exact, rtol=1e-12)


def test_water_only_has_a_solution_of_smallest_norm():
    energies = WATER @ [-13.0, 0.0, -2040.0]
    found = fit_composition(WATER, energies)
    np.testing.assert_allclose(WATER @ found, energies, rtol=1e-13)
    # the smallest vector on the line 2 h + o = E points along (2, 1)
    total = energies[0]
    np.testing.assert_allclose(found, [total * 2 / 5, 0, total / 5], rtol=1e-12)
    assert found[1] == 0.0


@pytest.mark.parametrize(
    ("symbol", "energy"),
    # Hartree-Fock limit, Hartree (E. Clementi and C. Roetti, 1974)
    [("H", -0.5), ("C", -37.689), ("O", -74.809), ("Si", -288.854), ("Cu", -1638.964)],
)
def test_all_electron_energies_are_estimated(symbol, energy):
    (found,) = estimate_total_energies([Atoms(symbol).numbers[0]])
    assert found / units.Hartree == pytest.approx(
        energy, rel=0.02 if symbol != "H" else 0.1
    )


@pytest.mark.parametrize("level", ["all-electron", "valence"])
def test_one_formula_does_not_give_hydrogen_the_energy_of_oxygen(level):
    base = np.array([-10.0, -50.0, -100.0])
    totals = estimate_total_energies([1, 6, 8])
    exact = base + np.array([0.1, 0.0, -0.4])
    if level == "all-electron":
        exact = 1.003 * totals
    shift = fit_composition_shift(
        WATER, WATER @ exact, WATER @ base, total_shift=totals - base
    )
    found = base + shift
    np.testing.assert_allclose(WATER @ found, WATER @ exact, rtol=1e-12)
    assert found[1] == base[1]
    # hydrogen's is right to some eV, where the smallest norm gave it -800
    np.testing.assert_allclose(found[[0, 2]], exact[[0, 2]], atol=5.0)


def test_what_the_data_leave_open_is_found():
    assert find_open_types(WATER) == [0, 2]
    assert find_open_types(np.vstack([WATER, [0.0, 0.0, 1.0]])) == []
    mixed = np.array([[2.0, 0.0, 1.0, 0.0], [2.0, 0.0, 1.0, 3.0]])
    assert find_open_types(mixed) == [0, 2]
    assert find_open_types(np.zeros((2, 3))) == []


def test_large_offsets_keep_the_millielectronvolts(shared_file):
    frames = read_frames(shared_file("water192_train.xyz"))
    counts = count_species(frames, [1, 8])
    energies = np.array([frame.energy for frame in frames])
    residuals = energies - counts @ fit_composition(counts, energies)
    assert abs(residuals.mean()) < 1e-8
    assert residuals.std() == pytest.approx(energies.std(), rel=1e-12)


def test_weights_decide_between_contradicting_frames():
    counts = np.array([[1.0], [1.0]])
    energies = np.array([0.0, 4.0])
    assert fit_composition(counts, energies) == pytest.approx(2.0)
    assert fit_composition(counts, energies, np.array([1.0, 3.0])) == pytest.approx(3.0)
    assert fit_composition(counts, energies, np.array([0.0, 1.0])) == pytest.approx(4.0)


def test_frames_without_energy_are_left_out():
    counts = np.array([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
    found = fit_composition(counts, np.array([1.0, 2.0, np.nan]))
    np.testing.assert_allclose(found, [1, 2])
    with pytest.raises(DataError, match="no frame has an energy"):
        fit_composition(counts, np.full(3, np.nan))


def test_the_shift_ignores_what_the_base_explains():
    rng = np.random.default_rng(1)
    predictions = rng.normal(size=3) * 100
    offsets = np.array([-10.0, 99.0, -400.0])
    shift = fit_composition_shift(WATER, predictions + WATER @ offsets, predictions)
    np.testing.assert_allclose(WATER @ shift, WATER @ offsets, rtol=1e-12)
    assert shift[1] == 0.0


def test_shapes_that_do_not_fit_are_refused():
    with pytest.raises(DataError, match=r"\(3, 3\) and \(2,\)"):
        fit_composition(WATER, np.zeros(2))


def test_the_scale_is_uncentered_and_per_atom():
    residuals = np.array([2.0, 30.0, np.nan])
    n_atoms = np.array([2, 10, 5])
    assert fit_energy_scale(residuals, n_atoms) == pytest.approx(np.sqrt((1 + 9) / 2))


@pytest.mark.parametrize("residuals", [[], [0.0, 1e-12], [np.nan]])
def test_the_scale_is_one_where_nothing_is_left(residuals):
    assert fit_energy_scale(np.array(residuals), np.ones(len(residuals))) == 1.0


def test_composition_and_scale_are_those_of_metatrain(shared_file):
    pytest.importorskip("metatrain")
    import torch
    from metatensor.torch import Labels, TensorBlock, TensorMap
    from metatomic.torch import systems_to_torch
    from metatrain.composition._base_composition import BaseCompositionModel
    from metatrain.scaler._base_scaler import BaseScaler
    from metatrain.utils.per_atom import average_by_num_atoms

    def build_map(values):
        block = TensorBlock(
            torch.tensor(values, dtype=torch.float64).reshape(-1, 1),
            Labels.range("system", len(values)),
            [],
            Labels.range("energy", 1),
        )
        return TensorMap(Labels.single(), [block])

    types = [3, 15, 16]
    frames = read_frames(shared_file("Li3PS4-sample_train.xyz"))
    energies = np.array([frame.energy for frame in frames])
    counts = count_species(frames, types)
    systems = systems_to_torch([f.to_atoms() for f in frames], dtype=torch.float64)
    composition = BaseCompositionModel(types, {"energy": build_map([])})
    composition.accumulate(systems, {"energy": build_map(energies)})
    composition.fit()
    theirs = composition.weights["energy"].block().values.numpy().ravel()
    ours = fit_composition(counts, energies)
    # one stoichiometry leaves two of three values open, and metatrain's regularised
    # solution is not the shortest one; the frames' totals are what both determine
    np.testing.assert_allclose(counts @ ours, counts @ theirs, rtol=1e-9)
    assert np.linalg.norm(ours) <= np.linalg.norm(theirs)

    residuals = energies - counts @ ours
    scaler = BaseScaler(types, {"energy": build_map([])})
    per_atom = average_by_num_atoms({"energy": build_map(residuals)}, systems, [])
    scaler.accumulate(systems, per_atom)
    scaler.fit()
    scale = scaler.scales["energy"].block().values.item()
    assert fit_energy_scale(residuals, counts.sum(axis=1)) == pytest.approx(scale)


def test_the_force_scale_is_the_rms_component_or_none():
    frame = LabeledFrame.from_atoms(Atoms("H2", [[0, 0, 0], [0, 0, 1]]))
    assert fit_force_scale([frame]) is None
    frame.forces = np.array([[0.0, 0.0, 3.0], [0.0, 0.0, -3.0]])
    assert fit_force_scale([frame]) == pytest.approx(np.sqrt(18 / 6))
    frame.forces = np.zeros((2, 3))
    assert fit_force_scale([frame]) is None
