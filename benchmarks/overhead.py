"""What a calculator adds to the bare network, and what merged LoRA costs.

    python benchmarks/overhead.py --shape XS --threads 2

64 silicon atoms, energy, forces and stress. The bare network gets a neighbour list that
is there already; the calculator gets ``Atoms`` that moved, as in MD, and gives results
in ASE's form. Merged LoRA has the base's architecture, so its time should be the
base's; unmerged LoRA, as in training, shows what merging saves. All take turns.
"""

import argparse
import tempfile
import warnings
from pathlib import Path

import torch
from single_point import (
    CHECKPOINT,
    add_common_options,
    describe,
    prepare_calculator,
    time_programs,
    write_models,
)
from size_scaling import FIRST, build_silicon

from pet_calc import PETCalculator
from pet_calc.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from pet_calc.checkpoint.open import load_merged_model
from pet_calc.data.systems import build_batch
from pet_calc.engine.network import FastNetwork
from pet_calc.lora import LoRAConfig, inject_lora
from pet_calc.model.derivatives import predict

RANK = 8


def write_lora(folder):
    """Write the network with LoRA beside it that is not zero; return the file."""
    model = load_checkpoint(folder / CHECKPOINT).build_model()
    inject_lora(model, LoRAConfig(rank=RANK))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if ".lora_B." in name:
                parameter.normal_(std=0.01)
    save_checkpoint(folder / "lora.ckpt", Checkpoint.from_model(model))
    return folder / "lora.ckpt"


def build_programs(arguments, folder):
    """Functions to time by name, each with the name of what it is compared with."""
    device = arguments.device
    atoms = build_silicon(FIRST)
    base = PETCalculator(folder / CHECKPOINT, device=device, compile=False)
    model = base.model
    lora = write_lora(folder)
    unmerged = load_checkpoint(lora).build_model(device=device).eval()
    merged = load_merged_model(lora, device=device)

    batch = build_batch(atoms, model.pair_cutoff, dtype=torch.float64, device=device)

    def bare(network):
        return lambda: predict(network, batch, with_stress=True)

    programs = {
        "model, bare": (bare(model), "model, bare"),
        "model, calculator": (prepare_calculator(base, atoms), "model, bare"),
        "model, bare, LoRA merged": (bare(merged), "model, bare"),
        "model, bare, LoRA unmerged": (bare(unmerged), "model, bare"),
    }
    if device == "cpu":
        engine = PETCalculator(folder / CHECKPOINT, device=device, compile=True)
        network = FastNetwork(engine.model, "energy")
        merged_network = FastNetwork(merged, "energy")
        name = "engine, bare"
        programs |= {
            name: (lambda: network.predict(batch, with_stress=True), name),
            "engine, calculator": (prepare_calculator(engine, atoms), name),
            "engine, bare, LoRA merged": (
                lambda: merged_network.predict(batch, with_stress=True),
                name,
            ),
        }
    return programs


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_common_options(parser, rounds=41)
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore")
    torch.set_num_threads(arguments.threads)
    print(f"{describe(arguments)}, {FIRST} Si, {arguments.rounds} rounds\n")
    with tempfile.TemporaryDirectory() as folder:
        write_models(arguments.shape, arguments.dtype, Path(folder))
        programs = build_programs(arguments, Path(folder))
        seconds = time_programs(
            {name: program for name, (program, _) in programs.items()},
            arguments.rounds,
            arguments.device,
        )
    print("| program | ms | ms more than the bare network | times it |")
    print("|---|---|---|---|")
    for name, value in seconds.items():
        bare = seconds[programs[name][1]]
        print(
            f"| {name} | {1e3 * value:.2f} | {1e3 * (value - bare):+.2f} "
            f"| {value / bare:.2f} |"
        )


if __name__ == "__main__":
    main()
