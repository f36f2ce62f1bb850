"""Every route through the calculator says the same about odd structures.

The routes of LAMMPS are in ``tests/lammps/test_routes.py``.
"""

import functools

import numpy as np
import pytest
import torch
from ase import Atoms
from support.models import DIRECT, build_model
from support.odd_structures import REFUSED, SAME
from support.structures import build_bulk, build_molecule, get_results

from pet_calc import PETCalculator
from pet_calc.calculator import from_export
from pet_calc.calculator.metatomic_file import MetatomicFile
from pet_calc.export import export_model

ROUTES = ["checkpoint", "engine", "export", "export and engine", "metatomic"]


@pytest.fixture(scope="module")
def build(tmp_path_factory):
    """Makes the calculator of a route, in a precision, of one and the same model."""
    folder = tmp_path_factory.mktemp("routes")

    @functools.cache
    def make(route, dtype=torch.float64, **options):
        model = build_model(DIRECT, dtype=dtype)
        if route in ("checkpoint", "engine"):
            return PETCalculator(model, compile=route == "engine", **options)
        path = folder / f"{dtype}.pt"
        if not path.exists():
            export_model(model, path, check=False)
        with pytest.MonkeyPatch.context() as patch:
            if route == "metatomic":
                # as for a file of another program
                patch.setattr(from_export, "find_script_obstacle", lambda *_: "no")
            found = PETCalculator(path, compile=route.endswith("engine"), **options)
        is_foreign = isinstance(found._backend._file, MetatomicFile)
        assert is_foreign == (route == "metatomic")
        return found

    return make


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize("name", SAME)
def test_the_place_of_a_structure_does_not_matter(name, route, dtype, build):
    odd, plain = (make() for make in SAME[name])
    found, expected = (get_results(build(route, dtype), a) for a in (odd, plain))
    # 1e6 Å are known to 1e-10 Å, and the file's own precision to 1e-6 of some 10 eV/Å;
    # metatomic's interface multiplies float32 positions for the stress
    is_single = dtype == torch.float32
    tolerance = 5e-5 if is_single else 1e-7
    for key, values in found.items():
        if key == "stress":
            volumes = odd.get_volume(), plain.get_volume()
            values, reference = values * volumes[0], expected[key] * volumes[1]
            if is_single and route == "metatomic" and name == "a needle":
                continue
            scale = 20.0
        else:
            reference, scale = expected[key], 1.0
        np.testing.assert_allclose(
            values, reference, rtol=0, atol=tolerance * scale, err_msg=key
        )


@pytest.mark.parametrize("route", [r for r in ROUTES if "engine" not in r])
@pytest.mark.parametrize("name", ["1e6 A away", "many cells away", "a needle"])
def test_direct_forces_do_not_depend_on_the_place(name, route, build):
    odd, plain = (make() for make in SAME[name])
    calculator = build(route, torch.float32, non_conservative=True)
    found, expected = (get_results(calculator, a)["forces"] for a in (odd, plain))
    np.testing.assert_allclose(found, expected, rtol=0, atol=2e-5)


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_computed_is_named(name, route, build):
    atoms, error, message = REFUSED[name]
    calculator = build(route)
    with pytest.raises(error, match=message) as raised:
        calculator.get_potential_energy(atoms)
    assert "\n" not in str(raised.value)
    # and the calculator goes on
    assert np.isfinite(calculator.get_potential_energy(build_molecule()))


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize("pbc", [False, True])
def test_no_atoms_have_no_energy(route, pbc, build):
    found = get_results(build(route), Atoms(cell=np.eye(3) * 5, pbc=pbc))
    assert found["energy"] == 0.0
    assert found["forces"].shape == (0, 3)
    assert found["energies"].shape == (0,)
    assert ("stress" in found) == pbc


# metatomic's interface gives float32, which ``export`` warns of
@pytest.mark.parametrize("route", ROUTES[:-1])
def test_totals_that_float32_cannot_hold_are_exact_on_our_routes(route, tmp_path):
    model = build_model(dtype=torch.float32)
    model.baseline.tables["energy"].composition += -34_567.891
    atoms = build_bulk().repeat(2)
    expected = get_results(PETCalculator(model, compile=False), atoms)
    assert abs(expected["energy"]) > 2e6
    path = export_model(model, tmp_path / "m.pt", check=False)
    if route.startswith("export"):
        calculator = PETCalculator(path, compile=route.endswith("engine"))
    else:
        calculator = PETCalculator(model, compile=route == "engine")
    found = get_results(calculator, atoms)
    # float32 steps of such a total are 0.25 eV
    assert found["energy"] == pytest.approx(expected["energy"], abs=1e-3)


def test_a_file_from_before_our_own_route_uses_the_engine_all_the_same(
    tmp_path, monkeypatch
):
    path = export_model(build_model(), tmp_path / "m.pt", check=False)
    monkeypatch.setattr(from_export, "find_script_obstacle", lambda *_: "older")
    calculator = PETCalculator(path, compile=True)
    assert isinstance(calculator._backend._file, MetatomicFile)
    monkeypatch.setattr(MetatomicFile, "compute", None)  # must not be called
    assert np.isfinite(calculator.get_potential_energy(build_molecule()))
