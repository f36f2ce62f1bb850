"""The verb ``check``, and the check at the start of a run."""

import json
import logging

import ase.io
import pytest
from ase.calculators.singlepoint import SinglePointCalculator
from click.testing import CliRunner
from support.frames import build_frames, write_frames
from support.runs import build_options, write_base

from pet_calc import PETCalculator
from pet_calc.cli.main import cli
from pet_calc.config import CompositionOptions
from pet_calc.config.quick import DATA_PLACES, RUN_PLACES
from pet_calc.errors import DataError
from pet_calc.train.run import run_training


@pytest.fixture
def run():
    """Run ``pet-calc check``; return its exit status and standard output."""

    def run_with(*args):
        logger = logging.getLogger("pet_calc")
        before, level = list(logger.handlers), logger.level
        arguments = ["check", *map(str, args), "--quiet", "--device", "cpu"]
        try:
            result = CliRunner().invoke(cli, arguments)
        finally:
            logger.handlers[:] = before
            logger.setLevel(level)
        assert "Traceback" not in result.output
        return result.exit_code, result.output

    return run_with


def write_scaled(folder, *, forces=1.0, energy=0.0, n_frames=12):
    frames = build_frames(n_frames)
    for atoms in frames:
        atoms.calc.results["forces"] = forces * atoms.calc.results["forces"]
        atoms.calc.results["energy"] += energy * len(atoms)
    path = folder / "scaled.xyz"
    ase.io.write(path, frames)
    return str(path)


def write_predicted(folder, base, *, forces):
    """Labels that the base itself gives, with the forces in another unit."""
    frames = build_frames()
    for atoms in frames:
        atoms.calc = PETCalculator(base, dtype="float64", device="cpu")
        energy, own = atoms.get_potential_energy(), atoms.get_forces()
        atoms.calc = SinglePointCalculator(atoms, energy=energy, forces=forces * own)
    path = folder / "predicted.xyz"
    ase.io.write(path, frames)
    return str(path)


def test_right_data_pass(run, tmp_path):
    status, text = run(write_frames(tmp_path), "--base", write_base(tmp_path))
    assert status == 0, text
    assert "frames    12" in text
    assert "base      forces correlation" in text
    assert "checked   0 errors" in text


def test_leakage_is_a_warning(run, tmp_path):
    data = write_frames(tmp_path)
    status, text = run(data, "--val", data)
    assert status == 0
    assert "12 of 12 validation frames are in the training set too" in text


def test_leakage_into_the_test_set_is_one_too(run, tmp_path):
    data = write_frames(tmp_path)
    status, text = run(data, "--test", data)
    assert status == 0
    assert "12 of 12 test frames are in the training set too" in text


def test_check_takes_the_flags_of_data_and_labels_that_finetune_takes():
    def flags_of(verb):
        command = cli.get_command(None, verb)
        return {flag for parameter in command.params for flag in parameter.opts}

    places = (*RUN_PLACES, *DATA_PLACES)
    wanted = {p.name for p in places if p.flag.group in ("Data", "Labels")}
    wanted |= {"--base", "--target", "--allow-new-elements", "--device", "--dtype"}
    assert wanted <= flags_of("finetune")
    assert wanted <= flags_of("check")


def test_elements_that_training_would_start_are_compared_as_it_would(run, tmp_path):
    base = write_base(tmp_path)
    frames = build_frames(12)
    for atoms in frames:
        atoms.symbols[-1] = "Ga"
    data = tmp_path / "gallium.xyz"
    ase.io.write(data, frames)
    status, text = run(data, "--base", base)
    assert status == 2
    assert "--allow-new-elements" in text
    status, text = run(data, "--base", base, "--allow-new-elements", "Ga=Al")
    assert status == 0, text
    assert "base      forces correlation" in text
    status, text = run(data, "--base", base, "--allow-new-elements", "Ge=Al")
    assert status == 2
    assert "name a known one for each of them" in text


def test_weights_are_those_of_finetune(run, tmp_path):
    data = write_frames(tmp_path)
    other = write_scaled(tmp_path)
    status, text = run(data, other, "--weight", f"{other}=0.5")
    assert "frames    24" in text
    status, text = run(data, "--weight", f"{other}=0.5")
    assert status == 2
    assert "--weight: expected one of the files" in text


def test_errors_end_with_status_2_and_are_in_the_json(run, tmp_path):
    data = write_scaled(tmp_path, forces=-1.0, n_frames=36)
    status, text = run(data, "--json", tmp_path / "findings.json")
    assert status == 2
    assert "the forces have the wrong sign, or the energies: " in text
    values = json.loads((tmp_path / "findings.json").read_text())
    assert values["findings"][0]["code"] == "forces-sign"
    assert values["census"]["n_frames"] == 36


def test_unreadable_data_are_one_line(run, tmp_path):
    status, text = run(tmp_path / "none.xyz")
    assert status == 2
    assert text == f"error: {tmp_path / 'none.xyz'} does not exist\n"
    status, text = run(write_frames(tmp_path), "--energy-key", "dft")
    assert status == 2
    assert "no frame of" in text


def test_a_run_stops_at_forces_of_the_wrong_sign(tmp_path):
    data = write_scaled(tmp_path, forces=-1.0, n_frames=48)
    options = build_options(tmp_path, data=data)
    with pytest.raises(DataError, match=r"forces have the wrong sign.*: negate"):
        run_training(options, show_progress=False)
    assert not (tmp_path / "run").exists()


def test_a_run_stops_at_forces_in_another_unit_than_the_base(tmp_path):
    base = write_base(tmp_path)
    data = write_predicted(tmp_path, base, forces=1000.0)
    options = build_options(tmp_path, data=data, base=base)
    with pytest.raises(DataError, match=r"times the base's .* as labels in meV/A"):
        run_training(options, show_progress=False)


def test_a_run_stops_at_other_totals_if_the_composition_is_kept(tmp_path):
    data = write_scaled(tmp_path, energy=-500.0)
    options = build_options(
        tmp_path, data=data, train={"composition": CompositionOptions(mode="keep")}
    )
    with pytest.raises(DataError, match=r"eV/atom, the base's"):
        run_training(options, show_progress=False)
    report = run_training(build_options(tmp_path, data=data), show_progress=False)
    assert report.end == "finished"


def test_a_run_warns_of_copies_and_goes_on(tmp_path, caplog):
    frames = build_frames(12)
    path = tmp_path / "copies.xyz"
    ase.io.write(path, [*frames, frames[0], frames[0]])
    with caplog.at_level(logging.WARNING, "pet_calc"):
        options = build_options(tmp_path, data=str(path), epochs=1)
        assert run_training(options, show_progress=False).end == "finished"
    warnings = [r.message for r in caplog.records if "repeat another one" in r.message]
    leaks = [
        r.message for r in caplog.records if "are in the training set" in r.message
    ]
    assert len(warnings) + len(leaks) >= 1
    assert len(warnings) <= 1
