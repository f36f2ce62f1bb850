"""Of odd files no frame or label is lost without a word, and no command falls over."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from support.runs import write_base

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "tests" / "odd_files"
FINETUNE = ["--epochs", "1", "--rank", "1", "--val", "0.25", "--dtype", "float64"]
N = 8
# of a file that is read: frames, energies and forces of it
WHOLE = (N, N, N)

# what is read of each file, or what each verb refuses it for
READ = {
    "blank_between.xyz": (2 * N, 2 * N, 2 * N),
    "blank_after_each.xyz": WHOLE,
    "blank_compressed.xyz.gz": WHOLE,
    "undeclared_forces.xyz": (N, N, 0),
    "byte_order_mark.xyz": WHOLE,
    "windows_lines.xyz": WHOLE,
    "charge_nearly_zero.xyz": WHOLE,
    "charge_is_half.xyz": WHOLE,
    "total_charge.xyz": WHOLE,
    "weight_0.xyz": WHOLE,
    "odd_weight.xyz": WHOLE,
    "not_finite.xyz": (N, N - 1, N - 1),
    "fixed_atoms.xyz": WHOLE,
    "predictions_only.xyz": (N, 0, 0),
    "predictions_beside.xyz": WHOLE,
    "odd_names.xyz": (N, 0, 0),
    "mixed_names.xyz": WHOLE,
    "virial_by_name.xyz": WHOLE,
    "virial_as_stress.xyz": WHOLE,
    "close_atoms.xyz": WHOLE,
    "unknown_element.xyz": WHOLE,
    "isolated_atoms.xyz": (N + 2, N + 2, N),
    "beside_the_calculator.json": (N, N, 0),
}
REFUSED = {
    "junk_at_end.xyz": "frame 8, line 41: expected the number of atoms .*'# end of fi",
    "count_too_small.xyz": "frame 1, line 5: expected the number of atoms",
    "count_too_large.xyz": "frame 4, line 26, atom 3: expected 7 columns, got 1",
    "truncated.xyz": "frame 7, line 36: a frame of 3 atoms .* ends after 2 of them",
    "colons_in_column.xyz": "frame 0, line 2: .*'::' in the name of a column",
    "utf_16.xyz": "frame 0: is no text in UTF-8",
    "deuterium.xyz": "frame 0, line 4, atom 1: the isotope D",
    "fortran_numbers.xyz": "line 3, atom 0: expected a number, got '0.00630D00'",
    "energy_is_text.xyz": r"frame 0: .*\['energy'\] is not numeric: 'about2",
    "forces_of_two.xyz": r"forces'\] has shape \(3, 2\), expected \(3, 3\)",
    "empty.xyz": "empty.xyz",
    "only_blank.xyz": "no frames in",
    "no_atoms.xyz": "frame 8: has no atoms",
    "no_cell.xyz": "frame 0: .*cell",
    "cut.traj": r"cut.traj, frame \d",
    "same_place.xyz": "frame 4: atoms 1 .* and 2 .* are 0 A apart",
}
# what has to be said besides, by the verb
SAID = {
    "undeclared_forces.xyz": {
        "check": "warning   3 columns that the header does not declare",
        "eval": "warning: .*3 columns that the header does not declare",
        "finetune": "warning: 3 columns that the header does not declare",
    },
    "charge_is_half.xyz": dict.fromkeys(
        ("check", "eval", "finetune"), r"charge is no whole number: info\['charge'\]"
    ),
    "total_charge.xyz": dict.fromkeys(
        ("check", "eval", "finetune"),
        r"charges   1 [68][\s\S]*spin not read, but there is info\['total_spin'\]",
    ),
    "weight_0.xyz": {
        "check": "note      2 x info.'config_weight'. has weight 0",
        "eval": "note      2 x info.'config_weight'. has weight 0",
        "finetune": "2 of 8 frames have weight 0 and count nowhere",
    },
    "odd_weight.xyz": dict.fromkeys(
        ("check", "eval", "finetune"), r"weight not read, but there is info\['weight'\]"
    ),
    "not_finite.xyz": dict.fromkeys(
        ("check", "eval", "finetune"), r"not finite \(NaN or Inf\), treated as missing"
    ),
    "fixed_atoms.xyz": {
        "check": "1 atoms have a force of exactly zero in 8 of 8 frames",
        "finetune": "1 atoms have a force of exactly zero in 6 of 6 frames",
    },
    "predictions_only.xyz": {
        "check": "error     no frame has an energy.*",
        "eval": "predictions of a.ckpt under pet_",
        "finetune": "error: the train set .* no frame has an energy",
    },
    "predictions_beside.xyz": dict.fromkeys(
        ("check", "eval", "finetune"), "8 x predictions of a.ckpt|6 x predictions of a"
    ),
    "odd_names.xyz": {
        "check": r"--energy-key dft_energy .*[\s\S]*--forces-key dft_forces",
        "eval": r"unused    arrays\['dft_forces'\], info\['dft_energy'\]",
        "finetune": "error: .*dft_forces.*--energy-key dft_energy",
    },
    "mixed_names.xyz": dict.fromkeys(
        ("check", "eval", "finetune"), "energy comes from .*REF_energy"
    ),
    "virial_by_name.xyz": {
        "check": "--virial-key Virial",
        "eval": r"unused    info\['Virial'\]",
        "finetune": r"unused    info\['Virial'\]",
    },
    "virial_as_stress.xyz": {
        "check": "--virial-key",
        "finetune": "error: .*stress does not match the base's",
    },
    "close_atoms.xyz": {"check": "frame 4; the closest are H and H, 0.2 A apart"},
    "unknown_element.xyz": dict.fromkeys(
        ("check", "eval", "finetune"), r"U \(1 frames, first .*frame 4\)"
    ),
    "isolated_atoms.xyz": {
        "finetune": "isolated atoms: 2, for energies per element only"
    },
    "beside_the_calculator.json": {
        "check": r"warning   no forces; there is also arrays\['dft_forces'\]",
        "eval": r"unused    arrays\['dft_forces'\]",
        "finetune": r"unused    arrays\['dft_forces'\]",
    },
}
# read, but no base of ours can be trained on it
STATUS_2 = {
    ("check", "predictions_only.xyz"),
    ("finetune", "predictions_only.xyz"),
    ("check", "odd_names.xyz"),
    ("finetune", "odd_names.xyz"),
    ("check", "unknown_element.xyz"),
    ("eval", "unknown_element.xyz"),
    ("finetune", "unknown_element.xyz"),
    # read as a stress it would be one of hundreds of GPa, of the other sign
    ("check", "virial_as_stress.xyz"),
    ("finetune", "virial_as_stress.xyz"),
}

DRIVER = """
import json, logging, sys
from click.testing import CliRunner
from pet_calc.cli.main import cli

for line in sys.stdin:
    name, args = json.loads(line)
    logging.getLogger("pet_calc").handlers.clear()
    result = CliRunner().invoke(cli, args)
    error = result.exception
    is_bug = error is not None and not isinstance(error, SystemExit)
    text = result.output + (repr(error) if is_bug else "")
    print(json.dumps([name, result.exit_code, text, is_bug]), flush=True)
"""


def run_all(verb, folder):
    """Run a verb on each file, all in one child process; stop where it dies."""
    base = write_base(folder)
    jobs = []
    for name in sorted([*READ, *REFUSED]):
        file, out = str(FOLDER / name), str(folder / f"out_{name}")
        args = {
            "check": ["check", file, "--base", base],
            "eval": ["eval", base, file, "-o", out],
            "finetune": ["finetune", file, "--base", base, "-o", out, *FINETUNE],
        }[verb]
        jobs.append(json.dumps([name, [*args, "--device", "cpu", "--quiet"]]))
    done = subprocess.run(
        [sys.executable, "-c", DRIVER],
        input="\n".join(jobs),
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    found = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(found) == len(jobs), (found[-1:], done.returncode, done.stderr[-2000:])
    return {name: rest for name, *rest in found}


def test_the_readme_has_a_line_for_each_file():
    names = {path.name for path in FOLDER.iterdir() if path.is_file()}
    names -= {"README.md", "make.py"}
    assert names == {*READ, *REFUSED}
    text = (FOLDER / "README.md").read_text()
    assert set(re.findall(r"^\| `(.+?)` \|", text, re.M)) == names
    assert sum(path.stat().st_size for path in FOLDER.iterdir()) < 300_000


@pytest.mark.parametrize("verb", ["check", "eval", "finetune"])
def test_nothing_is_lost_without_a_word(verb, tmp_path):
    found = run_all(verb, tmp_path)
    wrong = {}
    for name, (status, text, is_bug) in found.items():
        problems = []
        if is_bug or "Traceback" in text:
            problems.append("a bug")
        if name in REFUSED:
            last = text.strip().splitlines()[-1]
            if status != 2 or not last.startswith("error: "):
                problems.append(f"not refused: {status}")
            if not re.search(REFUSED[name], last):
                problems.append(f"not said: {REFUSED[name]}")
        else:
            if status != (2 if (verb, name) in STATUS_2 else 0):
                problems.append(f"status {status}")
            said = SAID.get(name, {}).get(verb, "")
            if not re.search(said, text):
                problems.append(f"not said: {said}")
            if verb != "finetune" and (verb, name) != ("eval", "unknown_element.xyz"):
                problems += compare_census(text, READ[name])
            if verb == "eval" and status == 0:
                problems += compare_output(tmp_path / f"out_{name}", READ[name][0])
        if problems:
            wrong[name] = (problems, text[-1500:])
    assert not wrong, "\n\n".join(f"{k}: {v[0]}\n{v[1]}" for k, v in wrong.items())


def compare_census(text, expected):
    """What the census says, if it is not the expected."""
    lines = [
        re.search(rf"^{label} +(\d+)", text, re.M)
        for label in ("frames", "energy", "forces")
    ]
    counts = tuple(int(line[1]) for line in lines if line)
    return [] if counts == expected else [f"census {counts}, not {expected}"]


def compare_output(path, n_frames):
    """Whether all frames are in the file of predictions."""
    n_written = path.read_text().count("pet_model=")
    return [] if n_written == n_frames else [f"{n_written} frames written"]
