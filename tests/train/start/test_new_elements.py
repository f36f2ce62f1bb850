"""Elements that the base does not know, from the data to every file."""

import logging

import ase.io
import numpy as np
import pytest
import torch
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from ase.data import atomic_numbers, chemical_symbols, covalent_radii
from metatomic_ase import MetatomicCalculator
from support.frames import build_frames
from support.peer import evaluate_peer, load_peer
from support.runs import build_options, stand_as_in_file, write_base

from pet_calc.calculator import PETCalculator
from pet_calc.checkpoint import load_checkpoint
from pet_calc.checkpoint.adapter import load_adapter
from pet_calc.checkpoint.metatrain_write import save_metatrain_checkpoint
from pet_calc.checkpoint.open import load_merged_checkpoint
from pet_calc.config import CompositionOptions
from pet_calc.errors import ConfigError, DataError
from pet_calc.export import export_model
from pet_calc.info.describe import describe_file
from pet_calc.info.text import format_description
from pet_calc.lora import AdapterBank
from pet_calc.lora.fingerprint import compute_fingerprint
from pet_calc.train.run import run_training
from pet_calc.train.start.new_elements import choose_like

NO_TRAINING = {"learning_rate": 1e-300, "epochs": 1}
GA = 31


def run(options, **kwargs):
    return run_training(options, show_progress=False, **kwargs)


def write_gallium(folder, n_frames=12, name="gallium.xyz"):
    """Write the usual frames with Al, which the base knows, called Ga."""
    frames = build_frames(n_frames)
    for atoms in frames:
        atoms.numbers[atoms.numbers == 13] = GA
        atoms.calc.atoms.numbers[:] = atoms.numbers
    ase.io.write(folder / name, frames)
    return str(folder / name)


def read_gallium(folder):
    return ase.io.read(write_gallium(folder, 4, "few.xyz"), ":")


def predict(calculator, frames):
    values = []
    for atoms in frames:
        atoms = atoms.copy()
        values.append([calculator.get_potential_energy(atoms)])
        values.append(calculator.get_forces(atoms).ravel())
    return np.concatenate(values)


def test_new_elements_are_refused_by_name_and_frame(tmp_path):
    data = write_gallium(tmp_path)
    message = r"Ga \(4 frames, first .*gallium\.xyz, frame 0\).*--allow-new-elements"
    with pytest.raises(DataError, match=message):
        run(build_options(tmp_path, data=data))
    message = r"Ga .*frame 0\).*name a known one for each of them"
    with pytest.raises(DataError, match=message):
        run(build_options(tmp_path, data=data, new_elements="Ge=Si"))


@pytest.mark.parametrize(
    ("pairs", "message"),
    [
        ("Ga=Al,O=C", "the base knows O already"),
        ("Ga=Al,Ge=Si", "no frame has Ge"),
        ("Ga=In", "Ga cannot start from In, which the base does not know; it knows H"),
        ("Ga=Xy", "'Xy' is no element"),
        ("Gaa=Al,Ga=Al", "'Gaa' is no element"),
    ],
)
def test_choices_that_cannot_be_meant_are_refused(tmp_path, pairs, message):
    options = build_options(tmp_path, data=write_gallium(tmp_path), new_elements=pairs)
    with pytest.raises(ConfigError, match=message):
        run(options)


@pytest.mark.parametrize(
    ("symbol", "known", "like"),
    [
        ("Ge", "H C O Si", ["Si"]),
        ("Sn", "C Si Pb", ["Pb"]),
        ("F", "H O Cl Br", ["Cl"]),
        ("Hf", "Ti Zr La", ["Zr"]),
        ("Al", "B Ga Sc", ["B"]),
        ("He", "H Ar Be", ["Ar"]),
        ("Zn", "Cu Cd Ca", ["Cd"]),
        ("Eu", "La Gd Y", ["Gd"]),
        ("Li", "H C", ["H", "C"]),
        ("Og", "Rn Fl", ["Rn"]),
    ],
)
def test_the_nearest_element_is_of_the_same_group(symbol, known, like):
    numbers = [atomic_numbers[name] for name in known.split()]
    found, _ = choose_like(atomic_numbers[symbol], numbers)
    assert [chemical_symbols[z] for z in found] == like


@pytest.mark.parametrize("choice", ["nearest", "Ga=Al"])
def test_a_new_element_starts_from_a_known_one_and_its_offset_is_fitted(
    tmp_path, choice, caplog, monkeypatch
):
    stand_as_in_file(monkeypatch)
    base = write_base(tmp_path)
    frames = ase.io.read(write_gallium(tmp_path), ":")
    calculator = PETCalculator(base)
    for atoms in frames:
        as_aluminium = atoms.copy()
        as_aluminium.numbers[atoms.numbers == GA] = 13
        energy = calculator.get_potential_energy(as_aluminium)
        energy += 7.5 * sum(atoms.numbers == GA)
        forces = calculator.get_forces(as_aluminium)
        atoms.calc = SinglePointCalculator(atoms, energy=energy, forces=forces)
    ase.io.write(tmp_path / "as_base.xyz", frames)
    options = build_options(
        tmp_path, base=base, data=str(tmp_path / "as_base.xyz"), new_elements=choice,
        **NO_TRAINING
    )  # fmt: skip
    with caplog.at_level(logging.INFO, "pet_calc"):
        report = run(options)
    assert "new element Ga: its embeddings start as those of Al" in caplog.text
    # the file has eight decimals
    assert report.zero_step["energy_mae"] < 1e-8
    assert report.zero_step["forces_mae"] < 1e-8
    record = load_checkpoint(report.best_model)
    table = record.state["baseline.tables.energy.composition"][:, 0]
    offsets = dict(zip(record.atomic_types, table.tolist(), strict=True))
    assert offsets[GA] == pytest.approx(offsets[13] + 7.5, abs=1e-6)
    assert record.metadata["provenance"]["new_elements"] == {"Ga": "Al"}


@pytest.mark.parametrize("mode", ["fit", "keep"])
def test_what_data_leave_open_goes_to_the_new_element(tmp_path, mode):
    # only GaO: whatever the offset is, it is one number for both
    base = write_base(tmp_path)
    frames = []
    for i in range(6):
        atoms = Atoms("GaO", [[0, 0, 0], [0, 0, 1.6 + 0.02 * i]])
        atoms.calc = SinglePointCalculator(
            atoms, energy=-300.0 + 0.01 * i, forces=np.zeros((2, 3))
        )
        frames.append(atoms)
    ase.io.write(tmp_path / "gao.xyz", frames)
    before = load_checkpoint(base)
    oxygen = before.state["baseline.tables.energy.composition"][
        before.atomic_types.index(8), 0
    ]
    report = run(
        build_options(
            tmp_path,
            base=base,
            data=str(tmp_path / "gao.xyz"),
            offsets=mode,
            new_elements="nearest",
            **NO_TRAINING,
        )
    )
    record = load_checkpoint(report.best_model)
    table = record.state["baseline.tables.energy.composition"][:, 0]
    assert table[record.atomic_types.index(8)] == pytest.approx(float(oxygen), abs=1e-9)
    assert report.zero_step["energy_mae"] < 0.1


def test_a_new_element_that_is_not_trained_on_is_refused(tmp_path):
    frames = [atoms for atoms in build_frames() if 8 in atoms.numbers]
    ase.io.write(tmp_path / "water.xyz", frames)
    options = build_options(
        tmp_path,
        data=str(tmp_path / "water.xyz"),
        validation=write_gallium(tmp_path),
        new_elements="nearest",
    )
    with pytest.raises(DataError, match="Ga, which the base does not know, is in no"):
        run(options)


def test_isolated_atoms_give_the_offset_of_a_new_element_too(tmp_path):
    frames = ase.io.read(write_gallium(tmp_path), ":")
    for symbol, energy in (("H", -13.0), ("O", -430.0), ("Ga", -50.0)):
        atom = Atoms(symbol, info={"config_type": "IsolatedAtom"})
        atom.calc = SinglePointCalculator(atom, energy=energy)
        frames.append(atom)
    ase.io.write(tmp_path / "atoms.xyz", frames)
    report = run(
        build_options(
            tmp_path,
            data=str(tmp_path / "atoms.xyz"),
            new_elements="nearest",
            composition="isolated_atoms",
            **NO_TRAINING,
        )
    )
    energy = PETCalculator(report.best_model).get_potential_energy(Atoms("Ga"))
    assert energy == pytest.approx(-50.0)


@pytest.fixture(scope="module")
def tuned(tmp_path_factory):
    """A LoRA fine-tuning on gallium, not to be changed: folder and report."""
    folder = tmp_path_factory.mktemp("gallium")
    data = write_gallium(folder)
    options = build_options(
        folder, base=write_base(folder), data=data, new_elements="nearest",
        train={"weight_decay": 0.01, "ema_decay": 0.5},
    )  # fmt: skip
    return folder, run(options)


def test_lora_trains_the_rows_of_the_new_element_and_no_others(tuned):
    folder, _ = tuned
    base = load_checkpoint(folder / "base.ckpt")
    for name in ("last_model.ckpt", "best_model.ckpt"):
        record = load_checkpoint(folder / "run" / name)
        rows = [record.atomic_types.index(z) for z in base.atomic_types]
        new = record.atomic_types.index(GA)
        for key in ("edge_embedder.weight", "node_embedders.0.weight"):
            assert torch.equal(record.state[key][rows], base.state[key])
            moved = record.state[key][new] - record.state[key][new - 2]
            assert moved.abs().max() > 1e-4


def test_training_on_a_new_element_helps(tuned):
    _, report = tuned
    assert report.validation["forces_mae"] < report.zero_step["forces_mae"]


def test_every_file_knows_the_new_element(tuned, tmp_path):
    folder, report = tuned
    frames = read_gallium(tmp_path)
    expected = predict(PETCalculator(report.best_model), frames)
    base, adapter = folder / "base.ckpt", folder / "run" / "adapter.safetensors"
    found = predict(PETCalculator(base, adapter=adapter), frames)
    np.testing.assert_allclose(found, expected, atol=1e-10)
    exported = export_model(
        load_checkpoint(report.best_model).build_model(), tmp_path / "model.pt"
    )
    # metatomic-ase divides by the volume, which molecules do not have
    crystals = [atoms for atoms in frames if atoms.pbc.all()]
    found = predict(MetatomicCalculator(exported, check_consistency=True), crystals)
    known = predict(PETCalculator(report.best_model), crystals)
    np.testing.assert_allclose(found, known, atol=1e-9)
    theirs = tmp_path / "theirs.ckpt"
    save_metatrain_checkpoint(theirs, load_merged_checkpoint(report.best_model))
    found = predict(PETCalculator(theirs), frames)
    np.testing.assert_allclose(found, expected, atol=1e-9)
    # and metatrain itself
    values = evaluate_peer(load_peer(theirs, torch.float64), frames[:1], ["energy"])
    assert float(values["energy"].sum()) == pytest.approx(expected[0], abs=1e-9)
    text = format_description(describe_file(adapter))
    assert "new elements  Ga" in text


def test_adapters_with_and_without_a_new_element_are_switched(tuned, tmp_path):
    folder, report = tuned
    run(build_options(tmp_path, base=str(folder / "base.ckpt"), epochs=1))
    model = load_checkpoint(folder / "base.ckpt").build_model()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    bank = AdapterBank(model)
    for name, place in (("gallium", folder), ("aluminium", tmp_path)):
        bank.add(name, load_adapter(place / "run" / "adapter.safetensors"))
    frames = read_gallium(tmp_path)
    expected = predict(PETCalculator(report.best_model), frames)
    for _ in range(2):
        bank.activate("gallium")
        assert GA in model.atomic_types
        np.testing.assert_allclose(
            predict(PETCalculator(model), frames), expected, atol=1e-10
        )
        bank.activate("aluminium")
        assert GA not in model.atomic_types
    bank.disable()
    state = model.state_dict()
    assert compute_fingerprint(state) == compute_fingerprint(before)
    for name, value in before.items():
        assert torch.equal(state[name], value), name


@pytest.mark.parametrize(
    "method", ["lora", pytest.param("full", marks=pytest.mark.slow)]
)
def test_a_run_with_a_new_element_is_resumed_exactly(tmp_path, method):
    base, data = write_base(tmp_path), write_gallium(tmp_path)
    flags = {"base": base, "data": data, "new_elements": "nearest", "method": method}
    run(build_options(tmp_path, output="whole", **flags))
    halves = build_options(tmp_path, output="halves", **flags)
    run(halves, stop_after=2)
    run(halves, is_resumed=True)
    one, other = (
        load_checkpoint(tmp_path / name / "last_model.ckpt").state
        for name in ("whole", "halves")
    )
    for name in one:
        assert torch.equal(one[name], other[name]), name


def test_zbl_gets_the_radius_of_the_new_element(tmp_path):
    base = write_base(tmp_path, zbl=True)
    report = run(
        build_options(
            tmp_path,
            base=base,
            data=write_gallium(tmp_path),
            new_elements="nearest",
            **NO_TRAINING,
        )
    )
    record = load_checkpoint(report.best_model)
    radius = record.state["zbl.covalent_radii"][record.atomic_types.index(GA)]
    assert float(radius) == covalent_radii[GA]


def test_given_offsets_may_name_the_new_element(tmp_path):
    baseline = CompositionOptions(tables={"energy": {"Ga": -12.0}})
    report = run(
        build_options(
            tmp_path,
            data=write_gallium(tmp_path),
            new_elements="nearest",
            train={"composition": baseline},
            **NO_TRAINING,
        )
    )
    record = load_checkpoint(report.best_model)
    table = record.state["baseline.tables.energy.composition"]
    assert float(table[record.atomic_types.index(GA), 0]) == -12.0
