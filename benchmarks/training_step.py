"""Time one training step, on energies and forces, against metatrain's model.

    python benchmarks/training_step.py --shape XS --threads 2

The same random weights and frames, the same loss and optimizer; neighbour lists are
made beforehand for both (metatrain's trainer makes them anew in every epoch, pet-calc
keeps them). Methods: all weights, heads only, LoRA of rank 8: on the attention, as
metatrain has it (lora), or beside that on pet-calc's default layers with replay
(lora-replay) and without (lora-default). Adam is as each has it in training. Programs
take turns, step by step. The last column is the time of the bare matrix products of the
folded network: four passes, three for heads alone, six with those that make the
gradient in all weights. Needs metatrain (the dev extra).
"""

import argparse
import tempfile
import warnings
from pathlib import Path

import ase.build
import numpy as np
import torch
from metatomic.torch import systems_to_torch
from metatrain.pet.modules.finetuning import apply_finetuning_strategy
from metatrain.utils.evaluate_model import evaluate_model
from metatrain.utils.neighbor_lists import (
    get_requested_neighbor_lists,
    get_system_with_neighbor_lists,
)
from single_point import (
    SHAPES,
    build_peer,
    read_processor,
    time_products,
    time_programs,
)

from pet_calc.checkpoint import load_checkpoint
from pet_calc.data.systems import build_batch
from pet_calc.engine.training import TrainingEngine
from pet_calc.lora import LoRAConfig, inject_lora
from pet_calc.lora.freeze import freeze_for_heads, freeze_for_lora
from pet_calc.model.derivatives import predict
from pet_calc.train.recompute import recompute_layers

RANK = 8
# metatrain's default
ATTENTION = ("input_linear", "output_linear")
# layers of LoRA, ours
LAYERS = {
    "lora": ATTENTION,
    "lora-replay": (*ATTENTION, "mlp", "compress"),
    "lora-default": ("edges", "heads"),
}
METHODS = ("full", "heads", *LAYERS)
# as many as those of an energy with its gradient
PASSES = {"full": 6, "heads": 3, **dict.fromkeys(LAYERS, 4)}
HEADS = ["node_heads", "edge_heads"]
LAST = ["node_last_layers", "edge_last_layers"]


def build_frames(kind):
    """The frames of one batch."""
    random = np.random.default_rng(0)
    if kind == "molecules":
        names = ["CH3CH2OH", "isobutane", "CH3CONH2", "C2H6NH", "CH3CHO", "HCOOCH3"]
        frames = [ase.build.molecule(names[k % len(names)]) for k in range(16)]
    else:
        cell = ase.build.bulk("Si", "diamond", 5.43, cubic=True)
        frames = [cell.repeat((2, 2, 1)) for _ in range(4)]
    for atoms in frames:
        atoms.positions += 0.05 * random.standard_normal(atoms.positions.shape)
    return frames


def prepare_peer(method, shape, frames, device="cpu"):
    """A function that makes one step of metatrain's model."""
    model = build_peer(shape, torch.float32)
    if method != "full":
        config = {
            "method": "lora" if method in LAYERS else method,
            "config": (
                {
                    "rank": RANK,
                    "alpha": 16.0,
                    "target_modules": list(ATTENTION),
                }
                if method in LAYERS
                else {"head_modules": HEADS, "last_layer_modules": LAST}
            ),
            "inherit_heads": {},
        }
        model = apply_finetuning_strategy(model, config)
    model.to(device).train()
    requests = get_requested_neighbor_lists(model)
    systems = [
        get_system_with_neighbor_lists(system, requests).to(torch.float32, device)
        for system in systems_to_torch(frames, dtype=torch.float64)
    ]
    targets = {"energy": model.dataset_info.targets["energy"]}
    optimizer = torch.optim.Adam(
        [p for p in model.parameters() if p.requires_grad], lr=1e-6
    )

    def step():
        optimizer.zero_grad()
        block = evaluate_model(model, systems, targets, is_training=True)[
            "energy"
        ].block()
        forces = block.gradient("positions").values
        loss = block.values.pow(2).mean() + forces.pow(2).mean()
        loss.backward()
        optimizer.step()

    return step


def prepare_ours(
    method, checkpoint, frames, *, compile, recomputes=False, device="cpu"
):
    """A function that makes one step of our model, by PyTorch or by the engine."""
    model = load_checkpoint(checkpoint).build_model(dtype=torch.float32, device=device)
    if method in LAYERS:
        layers = LAYERS[method]
        inject_lora(model, LoRAConfig(rank=RANK, targets=layers))
        freeze_for_lora(model, head_mode="lora" if "heads" in layers else "freeze")
    elif method == "heads":
        freeze_for_heads(model)
    model.train()
    if recomputes:
        recompute_layers(model)
    batch = build_batch(frames, model.pair_cutoff, device=device)
    engine = TrainingEngine() if compile else None
    optimizer = torch.optim.Adam(
        [p for p in model.parameters() if p.requires_grad], lr=1e-6, foreach=True
    )

    def step():
        optimizer.zero_grad()
        if engine is None:
            result = predict(model, batch, is_training=True)
        else:
            result = engine.predict(model, batch, "energy")
        loss = result.energy.pow(2).mean() + result.forces.pow(2).mean()
        loss.backward()
        optimizer.step()

    return step


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shape", choices=list(SHAPES), default="XS")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--methods", nargs="*", choices=METHODS, default=METHODS)
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore")
    torch.set_num_threads(arguments.threads)
    device = arguments.device
    print(
        f"PET {arguments.shape}, float32, {device}, {arguments.threads} threads, "
        f"{read_processor()}, torch {torch.__version__}; ms per step, and times "
        "metatrain's speed in brackets\n"
    )
    is_on_cpu = device == "cpu"
    names = ["metatrain", "pet-calc"] + ["compiled"] * is_on_cpu
    columns = ["batch", "method", *names] + ["products"] * is_on_cpu
    print("| " + " | ".join(columns) + " |")
    print("|---" * len(columns) + "|")
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = Path(folder) / "model.ckpt"
        torch.save(
            build_peer(arguments.shape, torch.float32).get_checkpoint(), checkpoint
        )
        model = load_checkpoint(checkpoint).build_model(dtype=torch.float32)
        for kind in ("molecules", "silicon"):
            frames = build_frames(kind)
            for method in arguments.methods:
                steps = {
                    "metatrain": prepare_peer(method, arguments.shape, frames, device)
                }
                for name in names[1:]:
                    compile = name == "compiled"
                    steps[name] = prepare_ours(
                        method, checkpoint, frames, compile=compile, device=device
                    )
                seconds = time_programs(steps, arguments.rounds, device)
                cells = [
                    f"{1e3 * value:.0f} ({seconds['metatrain'] / value:.2f})"
                    for value in seconds.values()
                ]
                if is_on_cpu:
                    limit = time_products(model, frames, arguments.rounds)
                    cells.append(f"{1e3 * limit * PASSES[method] / 2:.0f}")
                print(
                    f"| {kind}, {len(frames)} frames | {method} | "
                    + " | ".join(cells)
                    + " |",
                    flush=True,
                )


if __name__ == "__main__":
    main()
