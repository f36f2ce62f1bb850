"""Processes made after an evaluation with several threads do not wait for ever."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = """
import sys
import torch
from ase.build import bulk, molecule
from pet_calc import PETCalculator
from support.models import build_model

torch.set_num_threads(2)
# large enough for loops that are shared among threads
big = {"d_pet": 32, "d_feedforward": 64, "d_node": 64, "num_heads": 4}
calculator = PETCalculator(build_model(**big), compile=sys.argv[2] == "True")

def evaluate(seed):
    atoms = molecule("CH3CH2OH")
    atoms.rattle(0.01, seed=seed)
    atoms.calc = calculator
    return atoms.get_potential_energy(), abs(atoms.get_forces()).max()

def run_pool(kind):
    import multiprocessing
    with multiprocessing.get_context(kind).Pool(2) as pool:
        return pool.map(evaluate, range(3))

def run_joblib(kind):
    from joblib import Parallel, delayed
    return Parallel(n_jobs=2, backend=kind)(delayed(evaluate)(k) for k in range(3))

if __name__ == "__main__":
    calculator.get_potential_energy(bulk("Si").repeat(3))
    expected = [evaluate(k) for k in range(3)]
    run = run_joblib if sys.argv[1] in ("loky", "threading") else run_pool
    found = run(sys.argv[1])
    for one, other in zip(found, expected, strict=True):
        assert max(abs(a - b) for a, b in zip(one, other)) < 1e-9, (found, expected)
    # the parent goes on with its threads
    assert torch.get_num_threads() == 2
    assert evaluate(0) == expected[0]
"""


@pytest.mark.parametrize(
    ("kind", "compile"),
    [("fork", False), ("fork", True), ("spawn", True), ("loky", True)],
)
def test_workers_evaluate_after_the_parent_did(kind, compile, tmp_path):
    if kind == "loky":
        pytest.importorskip("joblib")
    script = tmp_path / "program.py"
    script.write_text(PROGRAM)
    tests = Path(__file__).parents[1]
    paths = [str(tests), *filter(None, [os.environ.get("PYTHONPATH")])]
    done = subprocess.run(
        [sys.executable, "-W", "ignore", script, kind, str(compile)],
        capture_output=True,
        text=True,
        timeout=120,
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join(paths),
            "OMP_NUM_THREADS": "2",
        },
    )
    assert done.returncode == 0, done.stderr[-2000:]
