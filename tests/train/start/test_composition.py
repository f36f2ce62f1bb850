"""Energy offsets: fitted, kept, given, from isolated atoms."""

import json

import ase.io
import pytest
import torch
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from ase.data import chemical_symbols
from support.frames import build_frames
from support.runs import build_options, stand_as_in_file, write_base

from pet_calc.calculator import PETCalculator
from pet_calc.checkpoint import load_checkpoint
from pet_calc.config import CompositionOptions, replace
from pet_calc.data.frames import LabeledFrame
from pet_calc.data.isolated import choose_references, find_isolated
from pet_calc.errors import ConfigError, DataError
from pet_calc.train.datasets import read_run_frames
from pet_calc.train.run import run_training

NO_TRAINING = {"learning_rate": 1e-300, "epochs": 1}
SHIFT = {"H": 3.0, "O": -70.0, "Al": 12.5}


def write_shifted(folder, base, frames):
    """Write the frames labelled by the base, plus a constant per element."""
    calculator = PETCalculator(base)
    for atoms in frames:
        energy = calculator.get_potential_energy(atoms)
        energy += sum(SHIFT[symbol] for symbol in atoms.get_chemical_symbols())
        forces = calculator.get_forces(atoms)
        atoms.calc = SinglePointCalculator(atoms, energy=energy, forces=forces)
    path = folder / "shifted.xyz"
    ase.io.write(path, frames)
    return str(path)


def composition_of(folder):
    checkpoint = load_checkpoint(folder / "run" / "best_model.ckpt")
    values = checkpoint.state["baseline.tables.energy.composition"][:, 0]
    return dict(zip(checkpoint.atomic_types, values.tolist(), strict=True))


@pytest.mark.parametrize("kind", ["mixed", "water only"])
def test_a_constant_per_element_is_absorbed_without_training(
    tmp_path, kind, monkeypatch
):
    stand_as_in_file(monkeypatch)
    base = write_base(tmp_path)
    frames = build_frames()
    if kind == "water only":
        frames = [atoms for atoms in frames if 8 in atoms.numbers]
    data = write_shifted(tmp_path, base, frames)
    report = run_training(
        build_options(tmp_path, base=base, data=data, **NO_TRAINING),
        show_progress=False,
    )
    # the file has eight decimals
    assert report.zero_step["energy_mae"] < 1e-8
    assert report.zero_step["forces_mae"] < 1e-8


@pytest.mark.parametrize(
    ("method", "target"),
    [
        ("lora", "energy"),
        ("full", "energy/pbe0"),
        pytest.param("heads", "energy", marks=pytest.mark.slow),
        pytest.param("lora", "energy/pbe0", marks=pytest.mark.slow),
        pytest.param("full", "energy", marks=pytest.mark.slow),
    ],
)
def test_a_constant_per_element_changes_nothing_but_the_offsets(
    tmp_path, method, target
):
    base = write_base(tmp_path)
    plain = build_frames()
    moved = []
    for atoms in plain:
        energy = atoms.get_potential_energy()
        energy += sum(SHIFT[symbol] for symbol in atoms.symbols)
        copy = atoms.copy()
        results = {**atoms.calc.results, "energy": energy}
        copy.calc = SinglePointCalculator(copy, **results)
        moved.append(copy)
    states, logs, reports = [], [], []
    for name, frames in (("plain", plain), ("moved", moved)):
        # binary: text would round the energies
        ase.io.write(tmp_path / f"{name}.traj", frames)
        options = build_options(
            tmp_path,
            output=name,
            base=base,
            data=str(tmp_path / f"{name}.traj"),
            method=method,
            target=target,
            epochs=2,
        )
        reports.append(run_training(options, show_progress=False))
        states.append(load_checkpoint(tmp_path / name / "last_model.ckpt"))
        rows = (tmp_path / name / "log.jsonl").read_text().splitlines()
        logs.append([json.loads(row)["train_loss"] for row in rows])
    one, other = (record.state for record in states)
    table = f"baseline.tables.{target}.composition"
    shift = (other[table] - one[table])[:, 0]
    elements = [chemical_symbols[z] for z in states[0].atomic_types]
    expected = [SHIFT.get(symbol, 0.0) for symbol in elements]
    # Al, and 2 H + O of all water; the split within water is open to any fit
    water = [elements.index("H"), elements.index("O")]
    counts = torch.tensor([2.0, 1.0], dtype=torch.float64)
    assert float(shift[elements.index("Al")]) == pytest.approx(12.5, abs=1e-9)
    found = float(counts @ shift[water])
    assert found == pytest.approx(2 * expected[water[0]] + expected[water[1]], abs=1e-9)
    for name in one:
        if name != table:
            # rounding of totals near 100 eV; Adam divides by small gradients
            assert torch.allclose(one[name], other[name], rtol=0, atol=1e-9), name
    assert logs[0] == pytest.approx(logs[1], rel=1e-10)
    for name, value in reports[0].validation.items():
        assert reports[1].validation[name] == pytest.approx(value, abs=1e-10)


def test_kept_offsets_do_not_move(tmp_path):
    base = write_base(tmp_path)
    before = load_checkpoint(base).state["baseline.tables.energy.composition"]
    run_training(
        build_options(tmp_path, base=base, composition="keep", **NO_TRAINING),
        show_progress=False,
    )
    after = torch.tensor(list(composition_of(tmp_path).values()), dtype=torch.float64)
    assert torch.equal(after, before[:, 0])


def test_given_offsets_are_taken_in_the_unit_of_the_labels(tmp_path):
    baseline = CompositionOptions(tables={"energy": {"H": -13.6, "O": -2000.0}})
    options = build_options(tmp_path, train={"composition": baseline}, **NO_TRAINING)
    run_training(options, show_progress=False)
    found = composition_of(tmp_path)
    assert found[1] == -13.6
    assert found[8] == -2000.0


def test_an_unknown_element_in_the_table_is_an_error(tmp_path):
    baseline = CompositionOptions(tables={"energy": {"Xx": 1.0}})
    with pytest.raises(ConfigError, match="does not know 'Xx'"):
        run_training(
            build_options(tmp_path, train={"composition": baseline}),
            show_progress=False,
        )


def test_isolated_atoms_set_the_offsets_and_do_not_train(tmp_path):
    base = write_base(tmp_path)
    frames = build_frames()
    for symbol, energy in (("H", -13.0), ("O", -430.0), ("Al", -50.0)):
        atom = Atoms(symbol, info={"config_type": "IsolatedAtom"})
        atom.calc = SinglePointCalculator(atom, energy=energy)
        frames.append(atom)
    path = tmp_path / "with_atoms.xyz"
    ase.io.write(path, frames)
    options = build_options(
        tmp_path, base=base, data=str(path), composition="isolated_atoms", **NO_TRAINING
    )
    run_training(options, show_progress=False)
    calculator = PETCalculator(tmp_path / "run" / "best_model.ckpt")
    assert calculator.get_potential_energy(Atoms("O")) == pytest.approx(-430.0)
    provenance = load_checkpoint(tmp_path / "run" / "best_model.ckpt").metadata
    assert provenance["provenance"]["n_frames"]["isolated"] == 3

    ase.io.write(path, frames[:-1])
    options = build_options(
        tmp_path, output="b", base=base, data=str(path), composition="isolated_atoms"
    )
    with pytest.raises(DataError, match="with an energy, for: Al"):
        run_training(options, show_progress=False)


def name_atoms(config_type):
    """Isolated atoms, open and in a large cell, under any name."""
    atoms = [Atoms("H"), Atoms("O", cell=[9, 9, 9], pbc=True)]
    for atom in atoms:
        if config_type is not None:
            atom.info["config_type"] = config_type
    return atoms


@pytest.mark.parametrize("config_type", [None, "isolated_atom", "e0", "IsolatedAtom"])
def test_isolated_atoms_of_any_name_decide_what_the_frames_leave_open(
    tmp_path, config_type, monkeypatch
):
    stand_as_in_file(monkeypatch)
    base = write_base(tmp_path)
    water = [atoms for atoms in build_frames() if 8 in atoms.numbers]
    data = write_shifted(tmp_path, base, [*water, *name_atoms(config_type)])
    before = load_checkpoint(base).state["baseline.tables.energy.composition"][:, 0]
    options = build_options(tmp_path, base=base, data=data, **NO_TRAINING)
    run_training(options, show_progress=False)
    found = composition_of(tmp_path)
    types = load_checkpoint(base).atomic_types
    shift = {z: found[z] - before[i].item() for i, z in enumerate(types)}
    # the file has eight decimals; H2O alone leaves this open
    assert shift[1] == pytest.approx(SHIFT["H"], abs=1e-5)
    assert shift[8] == pytest.approx(SHIFT["O"], abs=1e-5)
    model = load_checkpoint(tmp_path / "run" / "best_model.ckpt")
    n_frames = model.metadata["provenance"]["n_frames"]
    assert n_frames["isolated"] == 2
    assert n_frames["train"] + n_frames["validation"] == len(water)


def test_one_atom_in_a_crystal_is_not_isolated():
    crystal = LabeledFrame.from_atoms(Atoms("Al", cell=[4, 4, 4], pbc=True))
    slab = LabeledFrame.from_atoms(Atoms("Al", cell=[4, 9, 9], pbc=[1, 0, 0]))
    dimer = Atoms("H2", [[0, 0, 0], [0, 0, 9]], info={"config_type": "IsolatedAtom"})
    frames = [crystal, slab, LabeledFrame.from_atoms(dimer)]
    assert not find_isolated(frames).any()
    assert find_isolated([LabeledFrame.from_atoms(a) for a in name_atoms("x")]).all()


def test_the_neutral_ground_state_stands_for_an_element():
    frames = []
    for energy, charge in ((-9.0, 1), (-13.0, 0), (-13.6, 0), (None, 0)):
        frame = LabeledFrame.from_atoms(Atoms("H", info={"charge": charge}))
        frame.energy = energy
        frames.append(frame)
    assert choose_references(frames)[1].energy == -13.6


def test_isolated_atoms_that_train_are_never_drawn_for_validation(tmp_path):
    data = tmp_path / "atoms.xyz"
    frames = build_frames(9)
    for _ in range(20):
        for atom in name_atoms("a"):
            atom.calc = SinglePointCalculator(atom, energy=-1.0)
            frames.append(atom)
    ase.io.write(data, frames)
    options = build_options(tmp_path, data=str(data), validation="0.4")
    (dataset,) = options.training_set
    options = replace(
        options, training_set=(replace(dataset, use_isolated_atoms=True),)
    )
    found = read_run_frames(options, show_progress=False)
    assert (len(found.train), len(found.validation)) == (5 + 40, 4)
    assert not find_isolated(found.validation).any()


def test_isolated_atoms_alone_and_no_validation_are_named(tmp_path):
    data = tmp_path / "atoms.xyz"
    atom = Atoms("H")
    atom.calc = SinglePointCalculator(atom, energy=-1.0)
    ase.io.write(data, [atom] * 4)
    with pytest.raises(DataError, match=r"all 4 frames are isolated atoms.*use_isol"):
        read_run_frames(build_options(tmp_path, data=str(data)))
    options = build_options(tmp_path, validation="0.0")
    with pytest.raises(DataError, match=r"validation set has no frames.*--val 0\.1"):
        read_run_frames(options, show_progress=False)


def test_frames_of_weight_0_shift_no_offset_and_train_nowhere(tmp_path):
    frames = build_frames()
    bad = [atoms.copy() for atoms in frames[:5]]
    for atoms, good in zip(bad, frames, strict=False):
        atoms.info["config_weight"] = 0
        energy = good.get_potential_energy() + 1000.0
        atoms.calc = SinglePointCalculator(atoms, energy=energy)
    ase.io.write(tmp_path / "good.xyz", frames)
    ase.io.write(tmp_path / "both.xyz", [*frames, *bad])
    reports = []
    for name in ("good", "both"):
        options = build_options(
            tmp_path, data=str(tmp_path / f"{name}.xyz"), output=name, epochs=1
        )
        reports.append(run_training(options, show_progress=False))
    assert reports[0].zero_step == reports[1].zero_step
    assert reports[0].validation == reports[1].validation


def test_a_refusal_names_the_keys_that_check_names(tmp_path):
    frames = build_frames(6)
    for atoms in frames:
        atoms.info["U0"] = atoms.get_potential_energy()
        atoms.calc = None
    ase.io.write(tmp_path / "u0.xyz", frames)
    with pytest.raises(DataError, match=r"keys there are: info.'U0'.*--energy-key U0"):
        read_run_frames(build_options(tmp_path, data=str(tmp_path / "u0.xyz")))
