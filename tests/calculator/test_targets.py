"""Which targets give energy, forces and stress: variants and direct heads."""

import numpy as np
import pytest
from ase.calculators.calculator import PropertyNotImplementedError
from metatomic_ase import MetatomicCalculator
from support.models import DIRECT, ENERGIES, build_model
from support.structures import assert_same, build_bulk, build_molecule, get_results

from pet_calc import PETCalculator
from pet_calc.calculator import from_export
from pet_calc.calculator.metatomic_file import MetatomicFile
from pet_calc.errors import ConfigError, ModelError
from pet_calc.export import export_model
from pet_calc.model.hypers import TargetSpec

KINDS = ["model", "exported"]
VARIED = [
    *ENERGIES,
    TargetSpec("non_conservative_forces/pbe", "force", "eV/A", "atom", components=[3]),
    *DIRECT[1:],
]


def write(folder, specs):
    model = build_model(specs)
    path = export_model(model, folder / "m.pt", check=False)
    return {"model": model, "exported": path}


@pytest.fixture(scope="module")
def direct(tmp_path_factory):
    return write(tmp_path_factory.mktemp("direct"), DIRECT)


@pytest.fixture(scope="module")
def varied(tmp_path_factory):
    """Two energies, direct forces of one of them and of none, one direct stress."""
    return write(tmp_path_factory.mktemp("varied"), VARIED)


@pytest.mark.parametrize("mode", [False, True, "forces", "stress"])
@pytest.mark.parametrize("route", [*KINDS, "metatomic-ase's"])
def test_forces_and_stress_are_direct_one_by_one(direct, route, mode, monkeypatch):
    """Against metatomic-ase on the same file, and against the two whole modes."""
    if route not in KINDS:
        monkeypatch.setattr(from_export, "find_script_obstacle", lambda *_: "older")
    source = direct["model" if route == "model" else "exported"]
    calculator = PETCalculator(source, non_conservative=mode, compile=False)
    found = get_results(calculator, build_bulk())
    if route not in KINDS:
        assert isinstance(calculator._backend._file, MetatomicFile)
    inner = MetatomicCalculator(direct["exported"], non_conservative=mode)
    inner.calculate(build_bulk(), list(found), ["positions"])
    assert_same(found, {name: inner.results[name] for name in found})
    derived, heads = (
        get_results(PETCalculator(direct["model"], non_conservative=m), build_bulk())
        for m in (False, True)
    )
    for name, is_direct in (
        ("forces", mode in (True, "forces")),
        ("stress", mode in (True, "stress")),
    ):
        expected = (heads if is_direct else derived)[name]
        np.testing.assert_allclose(found[name], expected, atol=1e-10)
        assert np.abs(heads[name] - derived[name]).max() > 1e-3


@pytest.mark.parametrize("kind", KINDS)
def test_a_derived_stress_beside_direct_forces_is_made_where_it_is_asked_for(
    direct, kind
):
    atoms = build_bulk()
    atoms.calc = PETCalculator(direct[kind], non_conservative="forces")
    forces = atoms.get_forces()
    assert "stress" not in atoms.calc.results
    assert np.isfinite(atoms.get_stress()).all()
    # the same to rounding: with gradients torch takes other kernels
    np.testing.assert_allclose(atoms.get_forces(), forces, rtol=0, atol=1e-12)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("mode", ["forces", "stress"])
def test_molecules_have_direct_forces_or_none(direct, kind, mode):
    atoms = build_molecule()
    found = PETCalculator(direct[kind], non_conservative=mode)
    expected = PETCalculator(direct["model"], non_conservative=mode == "forces")
    assert_same(get_results(expected, atoms), get_results(found, atoms))
    with pytest.raises(PropertyNotImplementedError, match="all three directions"):
        found.get_property("stress", atoms)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("variant", ["pbe", "scan"])
def test_variants_choose_what_they_do_for_metatomic_ase(varied, kind, variant):
    asked = {"energy": variant}
    # metatomic-ase does not fall back to the stress without a variant by itself
    inner = MetatomicCalculator(
        varied["exported"],
        variants={
            **asked,
            "non_conservative_force": "pbe" if variant == "pbe" else None,
        },
        non_conservative="forces",
    )
    names = ["energy", "forces", "stress"]
    inner.calculate(build_bulk(), names, ["positions"])
    calculator = PETCalculator(varied[kind], variants=asked, non_conservative="forces")
    assert calculator.target == f"energy/{variant}"
    found = get_results(calculator, build_bulk())
    assert_same({n: inner.results[n] for n in names}, {n: found[n] for n in names})
    # and they are `target`
    by_name = PETCalculator(varied[kind], target=variant, non_conservative="forces")
    assert_same(found, get_results(by_name, build_bulk()))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("key", ["non_conservative_forces", "non_conservative_force"])
def test_the_variant_of_direct_forces_is_chosen_by_itself(varied, kind, key):
    found = {}
    for variant in ("pbe", None):
        calculator = PETCalculator(
            varied[kind],
            variants={"energy": "pbe", key: variant},
            non_conservative=True,
        )
        found[variant] = get_results(calculator, build_bulk())
    assert found["pbe"]["energy"] == found[None]["energy"]
    assert np.abs(found["pbe"]["forces"] - found[None]["forces"]).max() > 1e-2
    usual = PETCalculator(varied[kind], target="pbe", non_conservative=True)
    assert_same(found["pbe"], get_results(usual, build_bulk()))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"variants": {"energy": "b3lyp"}}, ModelError, "energy/pbe, energy/scan"),
        ({"variants": {"dipole": "pbe"}}, ConfigError, "'dipole' is no target"),
        ({"target": "scan", "variants": {"energy": "pbe"}}, ConfigError, "two energ"),
        (
            {"variants": {"energy": "pbe", "energy_uncertainty": "scan"}},
            ConfigError,
            "leave energy_uncertainty out",
        ),
        (
            {
                "variants": {"energy": "pbe", "non_conservative_stress": "pbe"},
                "non_conservative": "stress",
            },
            ModelError,
            "no target non_conservative_stress/pbe; its targets are",
        ),
        ({"target": "pbe", "non_conservative": "both"}, ConfigError, "'forces' or"),
    ],
    ids=str,
)
def test_arguments_that_make_no_sense_are_named(
    varied, kind, arguments, error, message
):
    with pytest.raises(error, match=message):
        PETCalculator(varied[kind], **arguments)


def test_a_missing_direct_stress_is_an_error_where_it_alone_is_wanted():
    with pytest.raises(ModelError, match=r"no direct .*stress for energy"):
        PETCalculator(build_model(DIRECT[:2]), non_conservative="stress")
    derived = PETCalculator(build_model(DIRECT[:2]), non_conservative="forces")
    assert "stress" in get_results(derived, build_bulk())
