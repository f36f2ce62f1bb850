"""Energy offsets: fitted, kept, given, from isolated atoms."""

import ase.io
import pytest
import torch
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from training_data import build_frames, build_options, write_base

from pet_calc.calculator import PETCalculator
from pet_calc.checkpoint import load_checkpoint
from pet_calc.config import BaselineOptions
from pet_calc.errors import ConfigError, DataError
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
def test_a_constant_per_element_is_absorbed_without_training(tmp_path, kind):
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


def test_kept_offsets_do_not_move(tmp_path):
    base = write_base(tmp_path)
    before = load_checkpoint(base).state["baseline.tables.energy.composition"]
    run_training(
        build_options(tmp_path, base=base, offsets="keep", **NO_TRAINING),
        show_progress=False,
    )
    after = torch.tensor(list(composition_of(tmp_path).values()), dtype=torch.float64)
    assert torch.equal(after, before[:, 0])


def test_given_offsets_are_taken_in_the_unit_of_the_labels(tmp_path):
    baseline = BaselineOptions(tables={"energy": {"H": -13.6, "O": -2000.0}})
    options = build_options(
        tmp_path, train={"atomic_baseline": baseline}, **NO_TRAINING
    )
    run_training(options, show_progress=False)
    found = composition_of(tmp_path)
    assert found[1] == -13.6
    assert found[8] == -2000.0


def test_an_unknown_element_in_the_table_is_an_error(tmp_path):
    baseline = BaselineOptions(tables={"energy": {"Xx": 1.0}})
    with pytest.raises(ConfigError, match="does not know 'Xx'"):
        run_training(
            build_options(tmp_path, train={"atomic_baseline": baseline}),
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
        tmp_path, base=base, data=str(path), offsets="isolated_atoms", **NO_TRAINING
    )
    run_training(options, show_progress=False)
    calculator = PETCalculator(tmp_path / "run" / "best_model.ckpt")
    assert calculator.get_potential_energy(Atoms("O")) == pytest.approx(-430.0)
    provenance = load_checkpoint(tmp_path / "run" / "best_model.ckpt").metadata
    assert provenance["provenance"]["n_frames"]["isolated"] == 3

    ase.io.write(path, frames[:-1])
    options = build_options(
        tmp_path, output="b", base=base, data=str(path), offsets="isolated_atoms"
    )
    with pytest.raises(DataError, match="energy for: Al"):
        run_training(options, show_progress=False)
