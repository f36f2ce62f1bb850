"""Advice can be followed: its flags are there, and following it mends the example."""

import ast
import json
import re
import shlex
from pathlib import Path

import ase.io
import numpy as np
import pytest
import yaml
from ase.calculators.singlepoint import SinglePointCalculator
from ase.stress import voigt_6_to_full_3x3_stress
from click.testing import CliRunner
from support.frames import build_frames
from support.runs import write_base

from pet_calc import PETCalculator
from pet_calc.cli.main import cli
from pet_calc.config import read_options
from pet_calc.data import advice
from pet_calc.data.advice import advise

ROOT = Path(__file__).resolve().parents[2] / "pet_calc"
# which verbs print what a module says
SPEAKERS = {
    "check/*.py": ("check", "finetune"),
    "data/*.py": ("check", "eval", "finetune"),
    "data/read_dataset.py": ("finetune", "train"),
    "calculator/supported.py": ("check", "eval", "finetune"),
    "evaluate/*.py": ("eval",),
    "train/**/*.py": ("finetune",),
    "export/*.py": ("export",),
}
FLAG = re.compile(r"(?<![\w-])--[a-z][a-z-]+")
SESSION = ["--device", "cpu", "--quiet"]


def flags_of(verb):
    command = cli.get_command(None, verb)
    return {flag for param in command.params for flag in param.opts}


def read_texts(path):
    """The strings of a module, without its docstrings."""
    tree = ast.parse(path.read_text())
    docs = set()
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(body, list) and body and isinstance(body[0], ast.Expr):
            docs.add(id(body[0].value))
    for node in ast.walk(tree):
        is_text = isinstance(node, ast.Constant) and isinstance(node.value, str)
        if is_text and id(node) not in docs:
            yield node.value


def test_every_flag_that_a_message_names_is_there():
    speakers = {}
    for pattern, verbs in SPEAKERS.items():
        for path in ROOT.glob(pattern):
            speakers[path] = verbs
    # the table in the docs, of all verbs together
    del speakers[ROOT / "check" / "codes.py"]
    n_found = 0
    for path, verbs in speakers.items():
        for text in read_texts(path):
            for flag in FLAG.findall(text):
                n_found += 1
                named = re.search(rf"pet-calc (\w+)[^;,]* {flag}", text)
                for verb in (named[1],) if named else verbs:
                    assert flag in flags_of(verb), (path.name, verb, text)
    assert n_found > 10


def test_flags_of_labels_are_named_in_one_place_only():
    own = {advice.spell_label_flag(name) for name in advice._LABEL_OPTIONS}
    for verb in ("check", "eval", "finetune"):
        assert own <= flags_of(verb)
    for pattern in SPEAKERS:
        for path in ROOT.glob(pattern):
            # of frames that a conditioned model refuses, whatever their key is
            if path.name in ("advice.py", "supported.py", "codes.py"):
                continue
            for text in read_texts(path):
                assert not own & set(FLAG.findall(text)), (path.name, text)


def test_what_is_said_of_an_options_file_is_read_from_one(tmp_path):
    given = {
        "energy_key": "U0",
        "energy_unit": "Hartree",
        "forces_key": "f",
        "forces_unit": "Hartree/bohr",
        "virial_key": "w",
        "stress_sign": -1,
    }
    text = advise(**given)
    lines = re.search(r"in an options file: (.*)\)$", text)[1]
    energy = yaml.safe_load("{" + lines + "}")
    options = tmp_path / "options.yaml"
    options.write_text(
        yaml.safe_dump(
            {
                "architecture": {"name": "pet"},
                "training_set": {
                    "systems": {"read_from": "a.xyz"},
                    "targets": {"energy": energy},
                },
            }
        )
    )
    (dataset,) = read_options(options).training_set
    (target,) = dataset.targets
    assert (target.key, target.unit) == ("U0", "Hartree")
    assert (target.forces.key, target.forces.unit) == ("f", "Hartree/bohr")
    assert (target.virial.key, target.virial.sign) == ("w", -1)


def run_check(folder, frames, *args):
    """Return the codes of errors and warnings, and all advice."""
    ase.io.write(folder / "data.xyz", frames)
    out = folder / "found.json"
    arguments = ["check", folder / "data.xyz", "--json", out, *args, *SESSION]
    result = CliRunner().invoke(cli, [str(a) for a in arguments])
    assert result.exit_code in (0, 2), result.output
    assert "Traceback" not in result.output
    findings = json.loads(out.read_text())["findings"]
    return {f["code"]: f for f in findings}


def move(frames, change):
    """Apply ``change`` to each frame and its results."""
    for atoms in frames:
        results = dict(atoms.calc.results)
        atoms.calc = None
        results = change(atoms, results)
        if results:
            atoms.calc = SinglePointCalculator(atoms, **results)
    return frames


def label_with_base(base):
    """Bulk frames labelled by the base, with a little noise."""
    rng = np.random.default_rng(0)
    frames = [a for a in build_frames(72) if a.pbc.all()]
    for atoms in frames:
        atoms.set_cell(
            atoms.cell.array @ (np.eye(3) + rng.uniform(-0.05, 0.05, (3, 3))),
            scale_atoms=True,
        )
        atoms.calc = PETCalculator(base, dtype="float64", device="cpu")
        results = {
            "energy": atoms.get_potential_energy(),
            "forces": atoms.get_forces() * (1 + 0.02 * rng.standard_normal()),
            "stress": atoms.get_stress() * (1 + 0.02 * rng.standard_normal(6)),
        }
        atoms.calc = SinglePointCalculator(atoms, **results)
    return frames


def to_virial(sign):
    def change(atoms, results):
        volume = atoms.get_volume()
        return {**results, "stress": sign * results["stress"] * volume}

    return change


def name_virial(atoms, results):
    stress = results.pop("stress")
    atoms.info["Virial"] = -stress * atoms.get_volume()
    return results


def name_energy(atoms, results):
    atoms.info["U0"] = results.pop("energy")
    return results


def name_forces(atoms, results):
    atoms.arrays["dft_forces"] = results.pop("forces")
    return results


def turn_sign(atoms, results):
    return {**results, "stress": -results["stress"]}


def contradict(atoms, results):
    stress = voigt_6_to_full_3x3_stress(results["stress"])
    atoms.info["virial"] = stress * atoms.get_volume()
    return results


@pytest.mark.parametrize(
    ("change", "code", "flags"),
    [
        (to_virial(-1), "stress-unit", "--virial-key stress"),
        (to_virial(1), "stress-unit", "--virial-key stress --stress-sign -1"),
        (turn_sign, "stress-sign", "--stress-sign -1"),
        (name_virial, "other-keys", "--virial-key Virial"),
        (name_energy, "no-energy", "--energy-key U0"),
        (name_forces, "other-keys", "--forces-key dft_forces"),
    ],
)
def test_following_the_advice_mends_the_example(tmp_path, change, code, flags):
    base = write_base(tmp_path)
    frames = move(label_with_base(base), change)
    found = run_check(tmp_path, frames, "--base", base)
    assert code in found, found.keys()
    text = re.split(r" \(in an options file", found[code]["advice"])[0]
    text = text.removeprefix("nothing if that is meant, else ")
    assert text == flags
    again = run_check(tmp_path, frames, "--base", base, *shlex.split(text))
    assert code not in again, again.get(code)
    assert not [f for f in again.values() if f["severity"] == "error"]


def test_a_contradiction_is_mended_by_each_of_its_two_ways(tmp_path):
    frames = move(label_with_base(write_base(tmp_path)), contradict)
    ase.io.write(tmp_path / "data.xyz", frames)
    command = ["check", str(tmp_path / "data.xyz"), *SESSION]
    result = CliRunner().invoke(cli, command)
    assert result.exit_code == 2, result.output
    assert "says xx" in result.output, result.output
    ways = re.findall(r"(--\S+ \S+) \(in an options file", result.output)
    assert ways == ["--stress-key stress", "--virial-key virial"]
    for way in ways:
        result = CliRunner().invoke(cli, [*command, *way.split()])
        assert "says xx" not in result.output
        assert "stress    24 of 24" in result.output
