"""Averages over rotations and inversion, against metatomic-ase's on the same file."""

import numpy as np
import pytest
from ase.calculators.calculator import PropertyNotImplementedError
from ase.calculators.fd import calculate_numerical_forces
from ase.stress import full_3x3_to_voigt_6_stress
from metatomic_ase import MetatomicCalculator, SymmetrizedCalculator
from scipy.integrate import lebedev_rule
from support.models import DIRECT, build_model
from support.structures import (
    PROPERTIES,
    assert_same,
    build_bulk,
    build_molecule,
    get_results,
)

from pet_calc import PETCalculator
from pet_calc.calculator import from_export
from pet_calc.calculator.atoms_io import turn_atoms
from pet_calc.calculator.averaging import ORDERS, build_quadrature
from pet_calc.data.orientation import AS_JUDGED
from pet_calc.errors import ConfigError
from pet_calc.export import export_model

SPREADS = [f"{name}_rot_std" for name in PROPERTIES]


@pytest.fixture(scope="module")
def direct(tmp_path_factory):
    """A model in memory and its exported file."""
    model = build_model(DIRECT)
    path = tmp_path_factory.mktemp("direct") / "m.pt"
    return {"model": model, "exported": export_model(model, path, check=False)}


@pytest.mark.parametrize("order", [0, 1, 3, 4, 11, 32])
def test_matrices_and_weights_are_those_of_metatomic_ase(direct, order):
    matrices, weights = build_quadrature(order)
    expected = SymmetrizedCalculator(
        MetatomicCalculator(direct["exported"]), l_max=order
    )
    np.testing.assert_allclose(matrices, expected.quadrature_rotations, atol=1e-12)
    np.testing.assert_allclose(weights, expected.quadrature_weights, atol=1e-14)
    assert weights.sum() == pytest.approx(1.0, abs=1e-12)
    unit = np.einsum("nij,nkj->nik", matrices, matrices)
    np.testing.assert_allclose(unit, np.broadcast_to(np.eye(3), unit.shape), atol=1e-12)


def test_the_orders_are_the_grids_that_scipy_has():
    for order in ORDERS:
        lebedev_rule(order)
    for order in set(range(1, 132)) - set(ORDERS):
        with pytest.raises(NotImplementedError):
            lebedev_rule(order)


def compute_symmetric_spread(peer, atoms):
    """The spread of the stress from the peer's single evaluations.

    A strain that is no rotation has no torque: the stress is symmetric. In one
    orientation metatomic-ase's is not, so its own spread counts the rest too.
    """
    matrices, weights = peer.quadrature_rotations, peer.quadrature_weights
    turned = [turn_atoms(atoms, matrix) for matrix in matrices]
    stress = np.array(peer.base_calculator.compute_energy(turned, True)["stress"])
    stress = 0.5 * (stress + stress.transpose(0, 2, 1))
    stress = np.einsum("nji,njk,nkl->nil", matrices, stress, matrices)
    away = stress - np.einsum("n,nij->ij", weights, stress)
    spread = np.sqrt(np.einsum("n,nij->ij", weights, away**2))
    return full_3x3_to_voigt_6_stress(spread)


@pytest.mark.parametrize("route", ["model", "exported", "metatomic-ase's"])
@pytest.mark.parametrize("mode", [False, True])
@pytest.mark.parametrize("build", [build_bulk, build_molecule])
def test_means_and_spreads_are_those_of_metatomic_ase(
    direct, route, mode, build, monkeypatch
):
    if route not in direct:
        monkeypatch.setattr(from_export, "find_script_obstacle", lambda *_: "older")
    atoms = build()
    names = [n for n in PROPERTIES if n != "stress" or atoms.pbc.all()]
    peer = SymmetrizedCalculator(
        MetatomicCalculator(
            direct["exported"], non_conservative=mode, do_gradients_with_energy=False
        ),
        l_max=2,
        store_rotational_std=True,
    )
    peer.calculate(atoms, names, ["positions"])
    expected = dict(peer.results)
    if "stress" in expected:
        expected["stress"] = full_3x3_to_voigt_6_stress(expected["stress"])
        expected["stress_rot_std"] = compute_symmetric_spread(peer, atoms)
    calculator = PETCalculator(
        direct["model" if route == "model" else "exported"],
        rotational_average_order=2,
        rotational_average_batch_size=7,
        non_conservative=mode,
        compile=False,
    )
    found = get_results(calculator, atoms)
    spreads = [f"{name}_rot_std" for name in names]
    found |= {name: calculator.get_property(name, atoms) for name in spreads}
    assert found["energy_rot_std"] > 1e-3
    # sums of squares of differences: half of the digits
    expected = {name: expected[name] for name in found}
    assert_same(expected, found, tolerance=1e-8)
    assert calculator.results["free_energy"] == found["energy"]


@pytest.mark.parametrize("compile", [False, True])
def test_the_size_of_the_batch_and_the_engine_change_no_number(direct, compile):
    expected = get_results(
        PETCalculator(direct["model"], rotational_average_order=1, compile=False),
        build_bulk(),
    )
    for size in (None, 1, 5, 100):
        calculator = PETCalculator(
            direct["model"],
            rotational_average_order=1,
            rotational_average_batch_size=size,
            compile=compile,
        )
        assert_same(expected, get_results(calculator, build_bulk()))


def test_the_mean_follows_from_its_energy_and_hardly_depends_on_orientation(model):
    atoms = build_molecule()
    calculator = PETCalculator(model, rotational_average_order=5)
    atoms.calc = calculator
    numerical = calculate_numerical_forces(atoms, eps=1e-3, iatoms=[1])
    np.testing.assert_allclose(atoms.get_forces()[[1]], numerical, atol=1e-4)
    (matrix,) = AS_JUDGED.draw(0, [0])
    turned = atoms.copy()
    turned.positions = turned.positions @ matrix.T
    means = [atoms.get_potential_energy(), calculator.get_potential_energy(turned)]
    plain = PETCalculator(model)
    single = [plain.get_potential_energy(each) for each in (atoms, turned)]
    assert abs(means[0] - means[1]) < 0.05 * abs(single[0] - single[1])


def test_a_state_is_read_in_every_orientation(tmp_path):
    model = build_model(system_conditioning=True)
    path = export_model(model, tmp_path / "m.pt", check=False)
    energies = []
    for source in (model, path):
        atoms = build_molecule()
        atoms.calc = PETCalculator(source, rotational_average_order=0)
        for charge in (0, 1):
            atoms.info["charge"] = charge
            energies.append(atoms.get_potential_energy())
    np.testing.assert_allclose(energies[:2], energies[2:], atol=1e-10)
    assert abs(energies[0] - energies[1]) > 1e-3


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"rotational_average_order": -1}, "from 0 to 131, got -1"),
        ({"rotational_average_order": 132}, "from 0 to 131, got 132"),
        ({"rotational_average_order": 2.5}, "whole number"),
        ({"rotational_average_order": True}, "whole number"),
        (
            {"rotational_average_order": 3, "rotational_average_batch_size": 0},
            "at least 1, got 0",
        ),
        ({"rotational_average_batch_size": 5}, "needs a rotational_average_order"),
    ],
    ids=str,
)
def test_orders_and_sizes_that_make_no_sense_are_named(model, arguments, message):
    with pytest.raises(ConfigError, match=message):
        PETCalculator(model, **arguments)


def test_spreads_are_results_of_averages_only(model):
    atoms = build_bulk()
    calculator = PETCalculator(model)
    with pytest.raises(PropertyNotImplementedError):
        calculator.get_property("energy_rot_std", atoms)
    averaged = PETCalculator(model, rotational_average_order=0)
    with pytest.raises(PropertyNotImplementedError, match="not averaged"):
        averaged.get_property("stresses", atoms)
    assert set(SPREADS) <= set(averaged.implemented_properties)
