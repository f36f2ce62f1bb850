"""Memory does not grow with the number of frames, in training and in evaluation."""

import json
import os
import subprocess
import sys
from pathlib import Path

import ase.io
import numpy as np
import pytest
import torch
from support.frames import write_frames
from support.runs import build_options, write_base

from pet_calc.checkpoint import load_checkpoint
from pet_calc.config import replace
from pet_calc.train.run import run_training

ROOT = Path(__file__).resolve().parents[2]

# The peak of the memory that is the process's own. Mapped files count as resident,
# too, but the system takes their pages back when it needs them.
MEASURE = """
import json, sys, threading, time

def read_anonymous():
    for line in open("/proc/self/status"):
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) / 1024

def watch():
    while True:
        peak[0] = max(peak[0], read_anonymous())
        time.sleep(0.005)

from pet_calc.cli.main import cli
peak = [read_anonymous()]
threading.Thread(target=watch, daemon=True).start()
cli(sys.argv[1:], standalone_mode=False)
print(json.dumps(peak[0]))
"""


def write_clusters(path, n_frames):
    """Clusters of ten rattled water molecules, with forces of springs."""
    rng = np.random.default_rng(0)
    water = np.array([[0, 0, 0.12], [0, 0.76, -0.48], [0, -0.76, -0.48]])
    places = 3.0 * np.array([[i % 3, i // 3 % 3, i // 9] for i in range(10)])
    rest = (places[:, None, :] + water).reshape(-1, 3)
    with path.open("w") as file:
        for _ in range(n_frames):
            moved = 0.1 * rng.standard_normal(rest.shape)
            moved -= moved.mean(axis=0)
            file.write('30\nProperties=species:S:1:pos:R:3:forces:R:3 pbc="F F F" ')
            file.write(f"energy={0.5 * (moved**2).sum():.6f}\n")
            rows = np.concatenate([rest + moved, -moved], axis=1)
            for symbol, row in zip("OHH" * 10, rows, strict=True):
                file.write(symbol + " %.6f" * 6 % tuple(row) + "\n")
    return path


def measure(*args):
    """Return the peak in MB of a command; one thread, so that pools do not differ."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    # memory that was freed goes back at once, and is not taken for memory in use
    environment["MALLOC_TRIM_THRESHOLD_"] = "65536"
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, *map(str, args)],
        capture_output=True,
        text=True,
        env=environment,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return float(done.stdout.splitlines()[-1])


def measure_training(folder, n_frames, *flags):
    data = write_clusters(folder / f"{n_frames}.xyz", n_frames)
    base = write_base(folder)
    return measure(
        *("finetune", data, "--base", base, "-o", folder / f"run{n_frames}"),
        *("--val", write_clusters(folder / "val.xyz", 50), "--epochs", 1),
        *("--batch-size", 20, "--rank", 1, "--device", "cpu", "--quiet"),
        *("--num-workers", 1, "--overwrite", *flags),
    )


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux")
def test_training_from_a_store_takes_no_more_memory_for_more_frames(tmp_path):
    store = ["--store", tmp_path / "stores"]
    few, many = (measure_training(tmp_path, n, *store) for n in (300, 2300))
    in_memory = measure_training(tmp_path, 2300, "--store", "memory")
    # 2000 more frames: more than 10 kB each in memory, and 24 bytes each from a store
    assert in_memory - few > 15
    assert many - few < 5


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux")
def test_evaluation_takes_no_more_memory_for_more_frames(tmp_path):
    base = write_base(tmp_path)
    peaks = []
    for n_frames in (300, 2300):
        data = write_clusters(tmp_path / f"{n_frames}.xyz", n_frames)
        output = tmp_path / "out.xyz"
        peaks.append(
            measure("eval", base, data, "-o", output, "--device", "cpu", "--quiet")
        )
        assert output.read_text().count("Properties=") == n_frames
    # 2000 frames would be 20 MB; a few come and go with the gaps between them
    assert peaks[1] - peaks[0] < 8


@pytest.mark.parametrize("batch_size", [3, "auto"])
def test_a_run_from_a_store_is_the_run_in_memory(tmp_path, batch_size):
    train = {"batch_size": batch_size, "num_workers": 1}
    options = build_options(tmp_path, train=train)
    one = run_training(options, show_progress=False)
    stored = replace(
        options, data_store=str(tmp_path / "stores"), output=str(tmp_path / "stored")
    )
    run_training(stored, show_progress=False, stop_after=2)
    other = run_training(stored, show_progress=False, is_resumed=True)
    assert other.zero_step == one.zero_step
    assert other.validation == one.validation
    states = [
        load_checkpoint(tmp_path / name / "last_model.ckpt").state
        for name in ("run", "stored")
    ]
    for name, value in states[0].items():
        assert torch.equal(value, states[1][name])


def test_isolated_atoms_in_a_store_set_offsets_only(tmp_path):
    frames = ase.io.read(write_frames(tmp_path), ":")
    for symbol, energy in (("H", -1.0), ("O", -2.0), ("Al", -3.0)):
        atom = ase.Atoms(symbol, info={"config_type": "IsolatedAtom"})
        atom.info["energy"] = energy
        frames.append(atom)
    ase.io.write(tmp_path / "train.xyz", frames)
    reports = [
        run_training(
            replace(
                build_options(
                    tmp_path,
                    data=str(tmp_path / "train.xyz"),
                    output=name,
                    epochs=1,
                    composition="isolated_atoms",
                ),
                data_store=store,
            ),
            show_progress=False,
        )
        for name, store in (("kept", "memory"), ("stored", str(tmp_path / "stores")))
    ]
    assert reports[0].validation == reports[1].validation
    provenance = json.loads(
        json.dumps(load_checkpoint(reports[1].best_model).metadata["provenance"])
    )
    assert provenance["n_frames"]["isolated"] == 3
