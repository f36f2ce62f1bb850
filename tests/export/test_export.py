"""Exported files: the same numbers, in a process that does not know pet-calc."""

import pickle
import subprocess
import sys

import numpy as np
import pytest
import torch
from ase.stress import full_3x3_to_voigt_6_stress
from metatomic.torch import load_atomistic_model
from support.models import build_model
from support.structures import build_batch, build_structures

from pet_calc.errors import ExportError
from pet_calc.export import build_atomistic_model, export_model
from pet_calc.lora.inject import inject_lora
from pet_calc.lora.layer import LoRAConfig
from pet_calc.model.derivatives import predict
from pet_calc.model.edges import compute_edge_vectors
from pet_calc.model.hypers import TargetSpec

ENERGIES = [TargetSpec.for_energy(), TargetSpec.for_energy("energy/pbe")]
DIRECT = [
    TargetSpec.for_energy(),
    TargetSpec("non_conservative_forces", "force", "eV/A", "atom", components=[3]),
    TargetSpec("non_conservative_stress", "pressure", "eV/A^3", components=[3, 3]),
]
RESIDUAL = {
    "featurizer_type": "residual",
    "transformer_type": "PostLN",
    "cutoff_function": "Cosine",
    "d_node": 8,
}
# model and the arguments of metatomic-ase's calculator
CASES = {
    "feedforward": (lambda: build_model(), {}),
    "residual": (lambda: build_model(**RESIDUAL), {}),
    "adaptive": (lambda: build_model(num_neighbors_adaptive=6.0), {}),
    "zbl": (lambda: build_model(zbl=True), {}),
    "energy": (lambda: build_model(ENERGIES), {}),
    "pbe": (lambda: build_model(ENERGIES), {"variants": {"energy": "pbe"}}),
    "conditioned": (lambda: build_model(system_conditioning=True), {}),
    "float32": (lambda: build_model(dtype=torch.float32), {}),
    "lora": (lambda: build_lora_model(), {}),
    "direct": (lambda: build_model(DIRECT), {"non_conservative": True}),
}
# metatomic and metatomic-ase only: an import of pet_calc or metatrain ends it
READER = """
import pickle, sys, warnings
class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("pet_calc", "metatrain"):
            raise ImportError("blocked: " + name)
sys.meta_path.insert(0, Blocker())
from metatomic_ase import MetatomicCalculator
warnings.simplefilter("ignore")
cases, structures, out = pickle.load(open(sys.argv[1], "rb"))
results = {}
for name, (path, arguments) in cases.items():
    calculator = MetatomicCalculator(path, check_consistency=True, **arguments)
    results[name] = []
    for atoms in structures:
        wanted = ["energy", "energies", "forces"] + ["stress"] * bool(atoms.pbc.all())
        calculator.calculate(atoms, wanted, ["positions"])
        results[name].append(dict(calculator.results))
pickle.dump(results, open(out, "wb"))
"""


def build_lora_model():
    model = build_model()
    config = LoRAConfig(rank=2, targets=("input_linear", "mlp", "heads"))
    inject_lora(model, config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter += 0.3
    return model.eval()


def build_all_structures():
    structures = build_structures()
    charged = structures[0].copy()
    charged.info.update(charge=-1, spin=2)
    return [*structures, charged]


@pytest.fixture(scope="module")
def elsewhere(tmp_path_factory):
    """Results of every case from one fresh process."""
    folder = tmp_path_factory.mktemp("exported")
    cases = {}
    for name, (build, arguments) in CASES.items():
        path = export_model(build(), folder / f"{name}.pt", check=False)
        cases[name] = (str(path), arguments)
    job, out = folder / "job.pickle", folder / "results.pickle"
    job.write_bytes(pickle.dumps((cases, build_all_structures(), str(out))))
    subprocess.run([sys.executable, "-c", READER, str(job)], check=True, cwd=folder)
    return pickle.loads(out.read_bytes())


@pytest.mark.parametrize("name", [name for name in CASES if name != "direct"])
def test_a_fresh_process_finds_the_same_energies_forces_and_stress(name, elsewhere):
    model = CASES[name][0]()
    target = "energy/pbe" if name == "pbe" else "energy"
    # float32: energies of some 100 eV are rounded to 1e-5, then roundings of the sums
    tolerance = 1e-5 if name == "float32" else 1e-10
    for atoms, found in zip(build_all_structures(), elsewhere[name], strict=True):
        batch = build_batch([atoms], model)
        expected = predict(model, batch, target, with_stress=True)
        stress = full_3x3_to_voigt_6_stress(expected.stress[0].double().numpy())
        pairs = [
            (expected.energy[0], found["energy"]),
            (expected.atomic_energies, found["energies"]),
            (expected.forces, found["forces"]),
        ]
        if atoms.pbc.all():
            pairs.append((stress, found["stress"]))
        for own, other in pairs:
            scale = max(1.0, np.abs(np.asarray(own)).max())
            np.testing.assert_allclose(other, own, rtol=0.0, atol=tolerance * scale)
    assert max(np.abs(found["forces"]).max() for found in elsewhere[name]) > 0.1


def test_charge_and_spin_reach_the_exported_model(elsewhere):
    neutral, charged = elsewhere["conditioned"][0], elsewhere["conditioned"][-1]
    assert abs(neutral["energy"] - charged["energy"]) > 1e-3
    assert elsewhere["zbl"][0]["energy"] == elsewhere["zbl"][-1]["energy"]


def test_direct_heads_have_metatomics_standard_names(elsewhere):
    model = build_model(DIRECT)
    names = ["non_conservative_forces", "non_conservative_stress"]
    for atoms, found in zip(build_all_structures(), elsewhere["direct"], strict=True):
        batch = build_batch([atoms], model)
        values = model(batch, compute_edge_vectors(batch), names)
        forces = values[names[0]]
        # metatomic-ase takes the mean off
        forces = (forces - forces.mean(dim=0)).detach().numpy()
        np.testing.assert_allclose(found["forces"], forces, rtol=0.0, atol=1e-10)
        if atoms.pbc.all():
            stress = values[names[1]].sum(dim=0).view(3, 3).detach().numpy()
            np.testing.assert_allclose(
                found["stress"], full_3x3_to_voigt_6_stress(stress), atol=1e-10
            )


def test_lora_is_merged_in_the_file_and_kept_in_the_model(elsewhere):
    model = build_lora_model()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    exported = build_atomistic_model(model)
    assert not any("lora" in name for name in exported.state_dict())
    after = model.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert all(parameter.requires_grad for parameter in model.parameters())
    base = elsewhere["feedforward"][0]["energy"]
    assert abs(elsewhere["lora"][0]["energy"] - base) > 1e-3


def test_capabilities_tell_the_truth(tmp_path):
    model = build_model([*ENERGIES, *DIRECT[1:]], num_neighbors_adaptive=6.0)
    loaded = load_atomistic_model(export_model(model, tmp_path / "model.pt"))
    capabilities = loaded.capabilities()
    assert capabilities.atomic_types == [1, 6, 8, 13, 14]
    # two layers, one more for the last exchange, one more for the adaptive radius
    assert capabilities.interaction_range == 4 * 4.0 == model.interaction_range
    assert capabilities.length_unit.lower() == "angstrom"
    assert capabilities.supported_devices == ["cuda", "cpu"]
    assert capabilities.dtype == "float64"
    outputs = capabilities.outputs
    assert outputs["energy"].unit == outputs["energy/pbe"].unit == "eV"
    assert outputs["energy/pbe"].sample_kind == "atom"
    assert outputs["non_conservative_force"].unit == "eV/A"
    assert outputs["non_conservative_stress"].sample_kind == "system"
    assert (
        outputs["feature"].sample_kind == outputs["feature/pbe"].sample_kind == "atom"
    )
    assert outputs["feature"].unit == ""
    (request,) = loaded.requested_neighbor_lists()
    assert request.cutoff == model.pair_cutoff
    assert request.full_list
    assert loaded.requested_inputs(use_new_names=True) == {}
    assert not any(parameter.requires_grad for parameter in loaded.parameters())


def test_a_conditioned_model_asks_for_charge_and_spin():
    exported = build_atomistic_model(build_model(system_conditioning=True))
    requests = exported.requested_inputs(use_new_names=True)
    assert set(requests) == {"charge", "spin_multiplicity"}
    assert all(request.sample_kind == "system" for request in requests.values())


def test_metadata_is_kept(tmp_path):
    metadata = {
        "name": "water",
        "description": "for ice",
        "authors": ["A", "B"],
        "references": {"model": ["doi:1"], "architecture": ["doi:2"]},
        "base": "pet-mad-s",
        "extra": {"steps": 3},
    }
    path = export_model(build_model(), tmp_path / "model.pt", metadata=metadata)
    found = load_atomistic_model(path).metadata()
    assert found.name == "water"
    assert found.authors == ["A", "B"]
    assert found.description.startswith("for ice\n\nExported by pet-calc")
    assert found.references["model"] == ["doi:1"]
    assert len(found.references["architecture"]) == 3
    assert found.extra["base"] == "pet-mad-s"
    assert found.extra["steps"] == "3"


def test_float64_tables_survive_casts_and_the_file_is_scripted(tmp_path):
    model = build_model()
    path = export_model(model, tmp_path / "model.pt")
    module = torch.jit.load(path)
    expected = model.baseline.tables["energy"].composition
    for dtype in (torch.float32, torch.float64):
        table = module.to(dtype).module.compositions.energy
        assert torch.equal(table.bits.view(torch.float64), expected)
        index = module.module.pet.species_to_species_index
        assert index.dtype == torch.int64


def test_a_failed_check_leaves_the_older_file(tmp_path, monkeypatch):
    path = tmp_path / "model.pt"
    path.write_text("older")

    def predict_wrongly(*args, **kwargs):
        prediction = predict(*args, **kwargs)
        return prediction._replace(forces=prediction.forces + 1e-6)

    monkeypatch.setattr("pet_calc.export.check.predict", predict_wrongly)
    with pytest.raises(ExportError, match="forces of output energy differ"):
        export_model(build_model(), path)
    assert path.read_text() == "older"
    assert [p.name for p in tmp_path.iterdir()] == ["model.pt"]


@pytest.mark.parametrize("name", ["direct", "conditioned", "float32", "lora"])
def test_the_check_passes_for_every_kind_of_output(name, tmp_path):
    path = export_model(CASES[name][0](), tmp_path / "model.pt")
    assert [p.name for p in tmp_path.iterdir()] == ["model.pt"]
    assert path.stat().st_mode & 0o044


@pytest.mark.parametrize("unit", ["nm", "bohr", "Angstrom"])
def test_a_length_unit_is_passed_on(unit, tmp_path):
    path = export_model(build_model(), tmp_path / "model.pt", length_unit=unit)
    loaded = load_atomistic_model(path)
    assert loaded.capabilities().length_unit.lower() == unit.lower()
    assert loaded.requested_neighbor_lists()[0].engine_cutoff(unit) == 4.0


def test_what_metatomic_cannot_express_is_an_error(tmp_path):
    with pytest.raises(ExportError, match="float16"):
        export_model(build_model().half(), tmp_path / "model.pt")
    for spec in (
        TargetSpec.for_energy("pbe_energy"),
        TargetSpec("energy", unit="parsec per fortnight"),
    ):
        with pytest.raises(ExportError, match="metatomic does not accept"):
            export_model(build_model([spec]), tmp_path / "model.pt")
    assert not list(tmp_path.iterdir())


def test_a_missing_folder_is_an_error(tmp_path):
    with pytest.raises(ExportError, match="there is no folder"):
        export_model(build_model(), tmp_path / "nowhere" / "model.pt")


@pytest.mark.parametrize(
    ("dtype", "per_atom", "warns"),
    [
        (torch.float32, -2043.6, True),
        (torch.float32, -10.0, False),
        (torch.float64, -2043.6, False),
    ],
)
def test_composition_beyond_float32_is_warned_of(
    dtype, per_atom, warns, tmp_path, caplog
):
    model = build_model(dtype=dtype)
    model.baseline.tables["energy"].composition[:] = per_atom
    with caplog.at_level("WARNING"):
        export_model(model, tmp_path / "m.pt", check=False)
    found = [r.getMessage() for r in caplog.records if "float32" in r.getMessage()]
    assert bool(found) == warns
    if warns:
        assert "--dtype float64" in found[0]
        assert "2043.6" in found[0]
