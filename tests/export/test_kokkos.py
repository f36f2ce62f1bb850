"""The two files of pet-kokkos: their content everywhere, their numbers where it is."""

import json
import math
import sys

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from support.kokkos import SUPPORTED, UNSUPPORTED, build_supported, import_kokkos
from support.models import DIRECT, ENERGIES, build_lora_model, build_model

from pet_calc.errors import ExportError, ModelError
from pet_calc.export import export_to_kokkos, kokkos, kokkos_check
from pet_calc.lora.inject import merge_lora

HYPERS = {
    *("d_pet", "d_head", "d_node", "d_feedforward", "num_heads", "head_dim"),
    *("num_attention_layers", "num_gnn_layers", "num_readout_layers", "zbl"),
    *("normalization", "activation", "transformer_type", "featurizer_type", "cutoff"),
    *("attention_temperature", "cutoff_width", "cutoff_function", "max_charge"),
    *("num_neighbors_adaptive", "adaptive_cutoff_method", "cutoff_width_adaptive"),
    *("system_conditioning", "max_spin_multiplicity", "long_range_enabled"),
}
ROOTS = {
    *("gnn_layers", "combination_norms", "combination_mlps", "node_embedders"),
    *("edge_embedder", "system_conditioning"),
    *("node_heads", "edge_heads", "node_last_layers", "edge_last_layers"),
}


def write(model, folder, name="model", **options):
    """The header and the tensors of the files, not compared."""
    files = export_to_kokkos(model, folder / name, check=False, **options)
    assert sorted(files) == sorted(folder.glob(f"{name}.*"))
    return json.loads(files[0].read_text()), load_file(files[1])


def test_the_header_says_what_the_format_asks_for(tmp_path):
    model = build_model(dtype=torch.float32, num_neighbors_adaptive=6.0)
    header, _ = write(model, tmp_path, source="water.ckpt")
    assert set(header) == {
        *("format_version", "architecture", "source_model", "target", "hypers"),
        *("length_unit", "energy_unit", "energy_scale", "n_species", "atomic_types"),
        *("species_to_index", "composition_energies", "pet_calc_version"),
    }
    assert (header["format_version"], header["architecture"]) == (1, "pet")
    assert (header["source_model"], header["target"]) == ("water.ckpt", "energy")
    assert (header["length_unit"], header["energy_unit"]) == ("angstrom", "eV")
    assert header["energy_scale"] == 3.0
    assert header["atomic_types"] == [1, 6, 8, 13, 14]
    index = header["species_to_index"]
    assert [z for z, i in enumerate(index) if i >= 0] == header["atomic_types"]
    assert [index[z] for z in header["atomic_types"]] == [0, 1, 2, 3, 4]
    assert set(index) == {-1, 0, 1, 2, 3, 4}
    table = model.baseline.tables["energy"].composition[:, 0]
    assert header["composition_energies"] == table.tolist()
    assert header["n_species"] == len(table)
    hypers = header["hypers"]
    assert set(hypers) == HYPERS
    assert (hypers["d_pet"], hypers["num_heads"], hypers["head_dim"]) == (8, 2, 4)
    assert hypers["num_readout_layers"] == 1
    assert hypers["num_neighbors_adaptive"] == 6.0
    assert hypers["zbl"] is hypers["long_range_enabled"] is False


def test_heads_of_a_residual_model_read_every_layer(tmp_path):
    header, weights = write(build_supported("residual"), tmp_path)
    assert header["hypers"]["num_readout_layers"] == 2
    assert header["hypers"]["num_neighbors_adaptive"] is None
    assert "node_last_layers.energy.1.energy___0.weight" in weights


@pytest.mark.parametrize("name", ["feedforward", "residual", "conditioned"])
def test_the_tensors_are_those_of_the_state_dict_in_float32(name, tmp_path):
    model = build_supported(name)
    _, weights = write(model, tmp_path)
    state = {
        name: value
        for name, value in model.state_dict().items()
        if name.partition(".")[0] in ROOTS
    }
    assert weights.keys() == state.keys()
    assert all(torch.equal(weights[name], state[name]) for name in state)
    assert {value.dtype for value in weights.values()} == {torch.float32}


def test_one_of_several_energies_is_written_under_the_name_energy(tmp_path, caplog):
    model = build_model([*ENERGIES, *DIRECT[1:]], dtype=torch.float32)
    with caplog.at_level("INFO"):
        header, weights = write(model, tmp_path, target="scan")
    assert header["target"] == "energy/scan"
    table = model.baseline.tables["energy/scan"].composition[:, 0]
    assert header["composition_energies"] == table.tolist()
    state = model.state_dict()
    for theirs, ours in (
        ("node_heads.energy.0.0.weight", "node_heads.energy/scan.0.0.weight"),
        (
            "edge_last_layers.energy.0.energy___0.bias",
            "edge_last_layers.energy/scan.0.energy/scan___0.bias",
        ),
    ):
        assert torch.equal(weights[theirs], state[ours])
    assert not any("pbe" in name or "non_cons" in name for name in weights)
    assert "left out: energy/pbe, non_conservative_forces" in caplog.text
    with pytest.raises(ExportError, match=r"several .*energy/pbe, energy/scan.*--targ"):
        write(model, tmp_path)
    with pytest.raises(ModelError, match="no energy target 'r2scan'"):
        write(model, tmp_path, target="r2scan")


def test_lora_is_merged_in_the_files_and_kept_in_the_model(tmp_path):
    model = build_lora_model(dtype=torch.float32)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    _, weights = write(model, tmp_path)
    after = model.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert not any("lora" in name for name in weights)
    merge_lora(model)
    name = "gnn_layers.0.trans.layers.0.attention.input_linear.weight"
    assert torch.equal(weights[name], model.state_dict()[name])
    assert not torch.equal(
        weights[name], before[name.replace("linear.weight", "linear.linear.weight")]
    )


def test_weights_in_float64_are_rounded_and_that_is_said(tmp_path, caplog):
    model = build_model()
    with caplog.at_level("INFO"):
        _, weights = write(model, tmp_path)
    assert "rounded to float32" in caplog.text
    expected = model.state_dict()["edge_embedder.weight"].float()
    assert torch.equal(weights["edge_embedder.weight"], expected)


@pytest.mark.parametrize("name", UNSUPPORTED)
def test_what_pet_kokkos_lacks_is_refused_by_name(name, tmp_path):
    hypers, words = UNSUPPORTED[name]
    with pytest.raises(ExportError, match=f"pet-kokkos cannot run .*{words}"):
        export_to_kokkos(build_model(**hypers), tmp_path / "model")
    assert not list(tmp_path.iterdir())


def test_scales_by_element_and_other_units_are_refused(tmp_path):
    model = build_model()
    with pytest.raises(ExportError, match="are in nm, not in angstrom"):
        export_to_kokkos(model, tmp_path / "model", length_unit="nm")
    model.baseline.tables["energy"].scale[1] = 2.0
    with pytest.raises(ExportError, match="scale of energy differs between elements"):
        export_to_kokkos(model, tmp_path / "model")
    with pytest.raises(ExportError, match="there is no folder"):
        export_to_kokkos(model, tmp_path / "nowhere" / "model")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("ending", [".json", ".safetensors", ""])
def test_an_ending_is_taken_off(ending, tmp_path):
    model = build_model(dtype=torch.float32)
    files = export_to_kokkos(model, tmp_path / f"v1.0{ending}", check=False)
    assert [file.name for file in files] == ["v1.0.json", "v1.0.safetensors"]


def test_without_the_wheel_the_files_are_written_and_a_warning_says_so(
    tmp_path, monkeypatch, caplog
):
    monkeypatch.setattr(kokkos_check.importlib.util, "find_spec", lambda _: None)
    export_to_kokkos(build_model(dtype=torch.float32), tmp_path / "model")
    assert "not compared with the model" in caplog.text
    assert "pip install pet-kokkos" in caplog.text
    assert len(list(tmp_path.iterdir())) == 2


def test_a_build_that_cannot_be_loaded_here_is_no_obstacle(
    tmp_path, monkeypatch, caplog
):
    (tmp_path / "pet_kokkos.py").write_text("raise ImportError('needs a\\ndriver')")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "pet_kokkos", raising=False)
    export_to_kokkos(build_model(dtype=torch.float32), tmp_path / "model")
    assert "not compared with the model by pet-kokkos: needs a driver" in caplog.text


def test_a_pair_that_fails_leaves_the_older_one(tmp_path, monkeypatch):
    older = {"model.json": b"older header", "model.safetensors": b"older weights"}
    for name, content in older.items():
        (tmp_path / name).write_bytes(content)

    def refuse(draft, model, target, path):
        raise ExportError(f"{path}: differs")

    monkeypatch.setattr(kokkos, "find_missing", lambda: None)
    monkeypatch.setattr(kokkos, "check_pair", refuse)
    with pytest.raises(ExportError, match="model: differs"):
        export_to_kokkos(build_model(), tmp_path / "model")
    found = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
    assert found == older


def test_a_crash_between_the_two_leaves_no_header_to_be_found(tmp_path, monkeypatch):
    first = build_model(dtype=torch.float32)
    export_to_kokkos(first, tmp_path / "model", check=False)
    path_type = type(tmp_path)
    replace = path_type.replace

    def crash(self, target):
        if target.suffix == ".json" and target.parent == tmp_path:
            raise KeyboardInterrupt
        return replace(self, target)

    monkeypatch.setattr(path_type, "replace", crash)
    with pytest.raises(KeyboardInterrupt):
        export_to_kokkos(build_model(seed=1), tmp_path / "model", check=False)
    assert [file.name for file in tmp_path.iterdir()] == ["model.safetensors"]


@pytest.mark.parametrize("name", SUPPORTED)
def test_pet_kokkos_says_the_same_of_every_shape(name, tmp_path):
    import_kokkos()
    model = build_supported(name)
    files = export_to_kokkos(model, tmp_path / "model")
    assert all(file.is_file() for file in files)
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize("part", ["weights", "composition_energies", "cutoff"])
def test_files_that_differ_from_the_model_are_not_kept(part, tmp_path, monkeypatch):
    import_kokkos()
    if part == "weights":
        collect = kokkos.collect_weights

        def spoil(*args):
            found = collect(*args)
            name = "edge_embedder.weight"
            # not in place: the model shares it
            return found | {name: found[name] * 1.01}

        monkeypatch.setattr(kokkos, "collect_weights", spoil)
    else:
        describe = kokkos.describe_model

        def spoil(*args):
            found = describe(*args)
            if part == "cutoff":
                found["hypers"]["cutoff"] = 4.1
            else:
                found[part] = [value + 0.01 for value in found[part]]
            return found

        monkeypatch.setattr(kokkos, "describe_model", spoil)
    model = build_model(dtype=torch.float32)
    with pytest.raises(ExportError, match="by pet-kokkos differ from the model's by"):
        export_to_kokkos(model, tmp_path / "model")
    assert not list(tmp_path.iterdir())


def test_what_pet_kokkos_refuses_itself_is_an_error_of_ours(tmp_path, monkeypatch):
    import_kokkos()
    monkeypatch.setattr(kokkos, "find_kokkos_obstacle", lambda *_: None)
    with pytest.raises(ExportError, match=r"pet-kokkos cannot run it: .*ZBL"):
        export_to_kokkos(build_model(zbl=True), tmp_path / "model")
    assert not list(tmp_path.iterdir())


def test_our_list_of_what_it_lacks_is_its_own(tmp_path):
    """Each shape that we refuse is one that pet-kokkos 0.1.1 refuses to load."""
    pet_kokkos = import_kokkos()
    for hypers, _ in UNSUPPORTED.values():
        model = build_model(dtype=torch.float32, **hypers)
        assert kokkos.find_kokkos_obstacle(model, "energy")
        kokkos.write_pair(model, tmp_path / "model", target="energy")
        with pytest.raises(RuntimeError, match=r"PetModel|checkpoint"):
            pet_kokkos.Calculator(str(tmp_path / "model"))


def test_the_check_would_see_a_nan(tmp_path):
    model = build_model()
    atoms = kokkos_check.build_check_atoms(model)
    found = {"energies": np.full(8, math.nan), "forces": np.zeros((8, 3))}
    found["virial"] = np.zeros(6)
    with pytest.raises(ExportError, match="energies by pet-kokkos differ"):
        kokkos_check._compare(found, model, atoms, "energy", tmp_path)
