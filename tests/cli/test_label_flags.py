"""Keys and units of labels mean the same in every verb."""

import json

import ase.io
import numpy as np
import pytest
from ase.units import GPa, Hartree, kcal, mol
from click.testing import CliRunner
from support.frames import build_frames
from support.runs import write_base

from pet_calc.cli.main import cli
from pet_calc.config import read_options

# how the odd file says what the plain one says
FLAGS = [
    *("--energy-key", "dft_e", "--energy-unit", "kcal/mol"),
    *("--forces-key", "dft_f", "--forces-unit", "Hartree/A"),
    *("--virial-key", "w", "--virial-unit", "Hartree", "--stress-sign", "-1"),
    *("--charge-key", "q", "--spin-key", "mult"),
]


def write_both(folder):
    """The same frames in eV under plain names, and under odd names and units."""
    plain = build_frames(9)
    odd = []
    for atoms in plain:
        other = atoms.copy()
        other.calc = None
        other.info |= {"dft_e": atoms.get_potential_energy() * mol / kcal}
        other.info |= {"q": 1, "mult": 2}
        other.arrays["dft_f"] = atoms.get_forces() / Hartree
        if atoms.pbc.all():
            stress = atoms.get_stress(voigt=False)
            other.info["w"] = stress.ravel() * atoms.get_volume() / Hartree
        atoms.info |= {"charge": 1, "spin_multiplicity": 2}
        odd.append(other)
    ase.io.write(folder / "plain.xyz", plain)
    ase.io.write(folder / "odd.xyz", odd)
    return str(folder / "plain.xyz"), str(folder / "odd.xyz")


def run(*args, status=0):
    result = CliRunner().invoke(cli, [str(arg) for arg in args])
    assert result.exit_code == status, (result.output, result.exception)
    return result


@pytest.mark.parametrize("verb", ["eval", "check", "finetune"])
def test_odd_names_and_units_give_the_numbers_of_plain_ones(tmp_path, verb):
    plain, odd = write_both(tmp_path)
    base = write_base(tmp_path, system_conditioning=True)
    found = []
    for name, data, flags in (("plain", plain, []), ("odd", odd, FLAGS)):
        out = tmp_path / f"{name}.json"
        common = [*flags, "--device", "cpu", "--quiet"]
        if verb == "eval":
            run("eval", base, data, "--json", out, *common)
        elif verb == "check":
            run("check", data, "--json", out, *common)
        else:
            folder = tmp_path / name
            settings = ["--epochs", 1, "--rank", 1, "--dtype", "float64"]
            settings += ["--val", data]
            run("finetune", data, "--base", base, "-o", folder, *settings, *common)
            out = folder / "report.json"
        found.append(json.loads(out.read_text()))
    one, other = found
    if verb == "check":
        for name in ("n_labeled", "charges", "spin_multiplicities"):
            assert one["census"][name] == other["census"][name]
        # 1e-6: the digits of the file
        for name in ("energy_per_atom_range", "largest_force", "pressure_range"):
            np.testing.assert_allclose(
                one["census"][name], other["census"][name], rtol=1e-6, atol=1e-9
            )
        return
    one = one["validation"] if verb == "finetune" else one
    other = other["validation"] if verb == "finetune" else other
    assert "stress_mae" in one
    assert one == pytest.approx(other, rel=1e-5)


def test_a_stress_unit_is_read(tmp_path):
    plain, _ = write_both(tmp_path)
    frames = ase.io.read(plain, ":")
    for atoms in frames:
        if atoms.pbc.all():
            atoms.info["s"] = atoms.get_stress() / GPa
    ase.io.write(tmp_path / "gpa.xyz", frames)
    base = write_base(tmp_path)
    errors = []
    for data, flags in (
        (plain, []),
        (tmp_path / "gpa.xyz", ["--stress-key", "s", "--stress-unit", "GPa"]),
    ):
        out = tmp_path / "out.json"
        run("eval", base, data, "--json", out, *flags, "--device", "cpu", "--quiet")
        errors.append(json.loads(out.read_text()))
    assert errors[0] == pytest.approx(errors[1], rel=1e-5)


def test_weights_per_file_reach_the_options(tmp_path):
    plain, odd = write_both(tmp_path)
    base = write_base(tmp_path)
    folder = tmp_path / "run"
    flags = ["--weight", f"{odd}=0.25", "--device", "cpu", "--quiet", "--val", plain]
    settings = ["--epochs", 1, "--rank", 1, "-o", folder]
    # the odd file has no energy under a usual name, but forces would be enough
    frames = ase.io.read(plain, ":3")
    ase.io.write(odd, frames)
    run("finetune", plain, odd, "--base", base, *settings, *flags)
    datasets = read_options(folder / "options_resolved.yaml").training_set
    assert [(d.read_from, d.weight) for d in datasets] == [
        ((plain,), 1.0),
        ((odd,), 0.25),
    ]


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("other.xyz=2", "expected one of the files"),
        ("plain.xyz", "FILE=NUMBER"),
        ("plain.xyz=-1", "FILE=NUMBER"),
    ],
)
def test_a_wrong_weight_is_an_error(tmp_path, value, message):
    plain, _ = write_both(tmp_path)
    base = write_base(tmp_path)
    result = run("finetune", plain, "--base", base, "--weight", value, status=2)
    assert message in result.output


def test_a_key_that_is_in_no_frame_is_an_error_of_a_stream_too(tmp_path):
    plain, _ = write_both(tmp_path)
    base = write_base(tmp_path)
    flags = ["--virial-key", "w", "--device", "cpu", "--quiet"]
    result = run("eval", base, plain, *flags, status=2)
    assert "no frame of" in result.output
    assert "'w', the key for virial" in result.output
