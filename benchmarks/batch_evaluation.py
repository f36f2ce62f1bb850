"""Time energies and forces of many small molecules against metatrain's export.

    python benchmarks/batch_evaluation.py --threads 2
    python benchmarks/batch_evaluation.py --frames 1000 --shape S

What ``pet-calc eval`` does, reading aside, against metatrain's exported model given
batches of the same molecules: neighbour lists, model, gradient. The peer's batch size
is the best of a few. Programs take turns. Needs metatrain (the dev extra).
"""

import argparse
import tempfile
import warnings
from pathlib import Path

import ase.build
import numpy as np
import torch
from ase.collections import g2
from metatomic.torch import (
    ModelEvaluationOptions,
    ModelOutput,
    load_atomistic_model,
    systems_to_torch,
)
from single_point import (
    ELEMENTS,
    SHAPES,
    build_peer,
    read_processor,
    time_programs,
)
from vesin.metatomic import compute_requested_neighbors

from pet_calc.checkpoint import load_checkpoint
from pet_calc.data.frames import LabeledFrame
from pet_calc.evaluate.metrics import Metrics
from pet_calc.evaluate.predict import predict_frames
from pet_calc.system.compiler import multiplies_bfloat16

PEER_SIZES = (8, 32, 128)


def build_molecules(count):
    """Rattled molecules of ASE's G2 collection, of 3 to 14 atoms."""
    names = [
        name
        for name in g2.names
        if len(g2[name]) >= 3 and set(g2[name].numbers) <= set(ELEMENTS)
    ]
    random = np.random.default_rng(0)
    frames = []
    for k in range(count):
        atoms = ase.build.molecule(names[k % len(names)])
        atoms.positions += 0.05 * random.standard_normal(atoms.positions.shape)
        frames.append(atoms)
    return frames


def run_peer(model, frames, size, device):
    """Forces of all frames, by metatrain's exported model."""
    outputs = {"energy": ModelOutput(sample_kind="system")}
    options = ModelEvaluationOptions("angstrom", outputs)
    forces = []
    for start in range(0, len(frames), size):
        systems = systems_to_torch(frames[start : start + size], dtype=torch.float32)
        systems = [system.to(device=device) for system in systems]
        for system in systems:
            system.positions.requires_grad_(True)
        compute_requested_neighbors(systems, "angstrom", model)
        energy = model(systems, options, False)["energy"].block().values.sum()
        positions = [system.positions for system in systems]
        forces += [-g.cpu().numpy() for g in torch.autograd.grad(energy, positions)]
    return forces


def run_ours(model, frames, **options):
    """Forces of all frames, by ``predict_frames``."""
    labeled = [LabeledFrame.from_atoms(atoms) for atoms in frames]
    return [
        p.forces for p in predict_frames(model, labeled, "energy", Metrics(), **options)
    ]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shape", choices=list(SHAPES), default="XS")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--frames", type=int, default=1000)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore")
    torch.set_num_threads(arguments.threads)
    frames = build_molecules(arguments.frames)
    with tempfile.TemporaryDirectory() as folder:
        peer = build_peer(arguments.shape, torch.float32)
        checkpoint, exported = Path(folder) / "model.ckpt", Path(folder) / "model.pt"
        torch.save(peer.get_checkpoint(), checkpoint)
        peer.export().save(exported)
        theirs = load_atomistic_model(exported).to(device=arguments.device)
        ours = load_checkpoint(checkpoint).build_model(device=arguments.device)
    programs = {
        f"metatrain, {size} at once": lambda size=size: run_peer(
            theirs, frames, size, arguments.device
        )
        for size in PEER_SIZES
    }
    programs["pet-calc, model"] = lambda: run_ours(ours, frames, compile=False)
    if arguments.device == "cpu":
        programs["pet-calc, engine"] = lambda: run_ours(ours, frames, compile=True)
    if arguments.device != "cpu" or multiplies_bfloat16():
        programs["pet-calc, mixed"] = lambda: run_ours(ours, frames, precision="mixed")

    expected = programs[f"metatrain, {PEER_SIZES[0]} at once"]()
    exact = "engine" if arguments.device == "cpu" else "model"
    found = programs[f"pet-calc, {exact}"]()
    largest = max(np.abs(f).max() for f in expected)
    for one, other in zip(expected, found, strict=True):
        if np.abs(one - other).max() > 1e-3 * largest:
            raise SystemExit("the two programs disagree")

    medians = time_programs(programs, arguments.rounds, arguments.device)
    best = min(value for name, value in medians.items() if name.startswith("metatrain"))
    print(
        f"PET {arguments.shape}, float32, {len(frames)} molecules, {arguments.device}, "
        f"{arguments.threads} threads, {read_processor()}, torch {torch.__version__}\n"
    )
    print("| program | molecules per s | times metatrain's best |\n|---|---|---|")
    for name, value in medians.items():
        print(f"| {name} | {len(frames) / value:.0f} | {best / value:.2f} |")


if __name__ == "__main__":
    main()
