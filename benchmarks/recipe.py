"""Which recipe fine-tunes best: one question, all sets, several seeds, one table.

    python benchmarks/recipe.py targets --data ../shared/data -o /tmp/recipe
    python benchmarks/recipe.py rank --data ../shared/data -o /tmp/recipe --seeds 0

A question is a list of recipes; the first is what the others are compared with. All
recipes of a set have the same base, frames and number of steps; errors are those of the
best model on test frames in random orientation, as medians over the seeds. Ratios are
geometric means over the sets. Rows that are done are not run again, whichever question
asked for them; one that was cut off is resumed. Rows of another ``--base``, length or
``--training``, such as '{energy_warmup: 0}', need a folder ``-o`` of their own. Needs
the public data sets.
"""

import argparse
import json
import math
import statistics
from pathlib import Path
from typing import NamedTuple

import yaml
from finetune_table import LAYERS, SETS, count_frames, make_slug, run_row

from pet_calc.checkpoint.open import load_record
from pet_calc.config import default_learning_rate

ROOT = Path(__file__).resolve().parents[1]
MOLECULES, MATERIALS = "pet-gfn1-xs", "pet-sevennet-xs"


class Case(NamedTuple):
    """One set with its base and what a run on it costs."""

    parts: tuple[str, str, str]
    base: str
    n_steps: int
    batch_size: int


CASES = {
    "glycol": Case(SETS["glycol"], MOLECULES, 400, 8),
    "aspirin-50": Case(SETS["aspirin-50"], MOLECULES, 400, 8),
    "acac-50": Case(("acac_train_300K.xyz@:50", *SETS["acac"][1:]), MOLECULES, 400, 8),
    "ethanol-20": Case(
        ("rmd17_ethanol_train.xyz@:20", *SETS["ethanol"][1:]), MOLECULES, 200, 8
    ),
    "Si-100": Case(("mlearn_Si_train.xyz@::2", *SETS["Si"][1:]), MATERIALS, 300, 4),
    "Li3PS4": Case(SETS["Li3PS4"], MATERIALS, 400, 4),
    "water": Case(SETS["water"], MOLECULES, 150, 1),
    "carbon": Case(
        tuple(f"carbon_reduced_100.xyz@{part}" for part in ("::2", "1::4", "3::4")),
        MATERIALS,
        400,
        8,
    ),
}
# on demand: the same test frames after other numbers of frames, and the sets that
# unseen_sets.py makes
OTHER_CASES = {
    f"acac-{n}": Case(
        (f"acac_train_300K.xyz@:{n}", *SETS["acac"][1:]), MOLECULES, 400, 8
    )
    for n in (20, 200)
} | {
    name: Case(
        tuple(f"{name}_{part}.xyz@:" for part in ("train", "val", "test")),
        base,
        400,
        batch_size,
    )
    for name, base, batch_size in (
        ("alloy", MATERIALS, 4),
        ("mixture", MOLECULES, 8),
        ("base-pair", MOLECULES, 8),
    )
}
ATTENTION = ["input_linear", "output_linear"]
ALL_LINEAR = [*LAYERS, "center"]
DEFAULT = {"targets": ["edges"], "head_mode": "lora"}
BEFORE = {
    "warmup_fraction": 0.01,
    "energy_warmup": 0.0,
    "adam_beta2": 0.999,
    "best_model_metric": "loss",
}

# squared up to about the error of a good base, absolute beyond; eV and Å
HUBER = {
    "energy": {
        "type": "huber",
        "delta": 0.03,
        "weight": 10.0,
        "forces": {"type": "huber", "delta": 0.1},
        "stress": {"type": "huber", "delta": 0.1},
    }
}


def lora(
    targets=LAYERS,
    rank=8,
    alpha=None,
    config=None,
    rate=2.0,
    head_mode="freeze",
    **others,
):
    """A recipe with LoRA; alpha is twice the rank unless it is given."""
    config = {
        "rank": rank,
        "alpha": float(2 * rank if alpha is None else alpha),
        "target_modules": list(targets),
        **(config or {}),
    }
    finetune = {"method": "lora", "config": config, "head_mode": head_mode}
    return {"finetune": finetune, "rate": rate, **others}


def train_heads(rate):
    """A recipe that trains the heads alone."""
    return {"finetune": {"method": "heads"}, "rate": rate}


def train_all(rate, **others):
    """A recipe that trains all weights."""
    return {"finetune": {"method": "full"}, "rate": rate, **others}


# `rate` is a factor of the rate by size alone, which heads take, None for the method's
# default; everything else stands under `training` as in an options file. LoRA is
# as with replay, heads frozen, where nothing else is said
QUESTIONS = {
    "targets": {
        "r8": lora(),
        "attention r8": lora(ATTENTION),
        "attention, mlp r8": lora([*ATTENTION, "mlp"]),
        "attention, compress r8": lora([*ATTENTION, "compress"]),
        "all linear r8": lora(ALL_LINEAR),
        "combinations r8": lora(DEFAULT["targets"]),
        "full, rate x0.1": train_all(0.1),
        "full, rate x0.3": train_all(0.3),
        "full, rate x1": train_all(1.0),
        "heads": train_heads(1.0),
        "heads, rate x0.3": train_heads(0.3),
        "heads, rate x3": train_heads(3.0),
    },
    # the defaults of before: of attention alone, of all layers, with the weight of the
    # energy whole from the start, with a best epoch by squares
    "before": {
        "attention r8, rate x1": lora(ATTENTION, rate=1.0, **BEFORE),
        "all linear r8, rate x1": lora(ALL_LINEAR, rate=1.0, **BEFORE),
        "r8, energy whole": lora(**{**BEFORE, "warmup_fraction": 0.1}),
        "r8, by squares": lora(best_model_metric="loss"),
        "r8": lora(),
    },
    "beta2": {
        "r8": lora(),
        **{
            f"r8, beta2 {beta2}": lora(adam_beta2=beta2) for beta2 in (0.9, 0.99, 0.999)
        },
        "full, rate x0.3": train_all(0.3),
        "full, rate x0.3, beta2 0.9": train_all(0.3, adam_beta2=0.9),
    },
    "energies": {
        "r8": lora(),
        "r8, energy whole": lora(energy_warmup=0.0),
        "r8, energy by 0.5": lora(energy_warmup=0.5),
        "r8, energy by 1": lora(energy_warmup=1.0),
    },
    "rank": {
        "r8": lora(),
        "r4": lora(rank=4),
        "r16": lora(rank=16),
        "r16, alpha 16": lora(rank=16, alpha=16.0),
        "r32": lora(rank=32),
        "r32, alpha 16": lora(rank=32, alpha=16.0),
        "r32, alpha 32": lora(rank=32, alpha=32.0),
    },
    "rate": {
        "r8": lora(),
        "r8, rate x0.7": lora(rate=2 / 3),
        "r8, rate x1": lora(rate=1.0),
        "r8, rate x1.3": lora(rate=4 / 3),
        "r8, rate x3": lora(rate=3.0),
        "r8, rate x4": lora(rate=4.0),
        "r8, rate x6": lora(rate=6.0),
        "r8, rate x12": lora(rate=12.0),
        "r16": lora(rank=16),
        "r16, rate x1": lora(rank=16, rate=1.0),
        "r16, rate x4": lora(rank=16, rate=4.0),
        "r32, rate x4": lora(rank=32, rate=4.0),
        "default, rate x0.7": lora(**DEFAULT, rate=2 / 3),
        "default, rate x6": lora(**DEFAULT, rate=6.0),
    },
    "warm-up": {
        "r8": lora(),
        "r8, warm-up 0.01": lora(warmup_fraction=0.01),
        "r8, warm-up 0.05": lora(warmup_fraction=0.05),
        "r8, warm-up 0.2": lora(warmup_fraction=0.2),
        "r8, rate x3, warm-up 0.01": lora(rate=3.0, warmup_fraction=0.01),
        "r16, warm-up 0.01": lora(rank=16, warmup_fraction=0.01),
        "all linear r8, warm-up 0.01": lora(ALL_LINEAR, warmup_fraction=0.01),
        "full, rate x0.3": train_all(0.3),
        "full, rate x0.3, warm-up 0.01": train_all(0.3, warmup_fraction=0.01),
    },
    # the same scale as that of rank 8 by default, 2, at rank 8
    "stabilized": {
        "r8": lora(),
        **{
            f"r{rank}, alpha / sqrt(r)": lora(
                rank=rank, alpha=2 * 8**0.5, config={"rank_stabilized": True}
            )
            for rank in (4, 16, 32, 64)
        },
    },
    "ratio": {
        "r8": lora(),
        **{
            f"r8, B at x{ratio}": lora(config={"b_rate": float(ratio)})
            for ratio in (1, 2, 4, 16)
        },
    },
    # DoRA, and PiSSA, whose B is as large as A from the start
    "variants": {
        "r8": lora(),
        "DoRA r8": lora(variant="dora"),
        **{
            f"principal r8, rate x{rate:.1g}": lora(
                config={"b_rate": 1.0}, rate=rate, variant="principal"
            )
            for rate in (0.1, 0.3, 1.0, 2.0)
        },
    },
    # for --base: whether the rules by size hold
    "size": {
        "r8": lora(),
        "r8, default rate": lora(rate=None),
        "r8, rate x0.7": lora(rate=2 / 3),
        "r8, rate x4": lora(rate=4.0),
        "r8, rate x6": lora(rate=6.0),
        "r16": lora(rank=16),
        "r32": lora(rank=32),
        "full, rate x0.1": train_all(0.1),
        "full, rate x0.3": train_all(0.3),
        "full, rate x1": train_all(1.0),
    },
    "loss": {
        "r8": lora(),
        "r8, energy 1": lora(loss={"energy": {"weight": 1.0}}),
        "r8, energy 3": lora(loss={"energy": {"weight": 3.0}}),
        "r8, energy 30": lora(loss={"energy": {"weight": 30.0}}),
        "r8, Huber": lora(loss=HUBER),
        "full, rate x0.3": train_all(0.3),
        "full, rate x0.3, Huber": train_all(0.3, loss=HUBER),
        "r8, weight decay 0.1": lora(weight_decay=0.1),
        "r8, mean of 1/5": lora(ema_decay=0.9875),
    },
    # as many passes over the frames
    "batch": {
        "r8": lora(),
        "r8, batch of 2": lora(batch_size=2),
        "r8, batch of 16": lora(batch_size=16),
    },
    "heads": {
        "r8": lora(),
        "r8, heads trained": lora(head_mode="train"),
        "r8, heads by LoRA": lora(head_mode="lora"),
        "combinations, heads by LoRA": lora(**DEFAULT),
    },
}


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("question", choices=list(QUESTIONS))
    parser.add_argument("--data", type=Path, required=True, help="folder of the data")
    cases = CASES | OTHER_CASES
    parser.add_argument("--sets", nargs="*", choices=list(cases), default=list(CASES))
    parser.add_argument("--only", nargs="*", metavar="RECIPE", help="of the question")
    parser.add_argument("--seeds", nargs="*", type=int, default=[0, 1, 2])
    parser.add_argument(
        "--training", type=yaml.safe_load, default={}, help="options of all recipes"
    )
    parser.add_argument("--base", help="checkpoint, in place of each set's own")
    parser.add_argument(
        "--length", type=float, default=1.0, help="times the steps of every set"
    )
    parser.add_argument("-o", "--output", type=Path, required=True)
    arguments = parser.parse_args()
    recipes = QUESTIONS[arguments.question]
    if arguments.only:
        recipes = {name: recipes[name] for name in arguments.only}
    # a seed of all sets and recipes first: the table says something early
    for seed in arguments.seeds:
        for name in arguments.sets:
            for recipe, training in recipes.items():
                folder = find_folder(arguments.output, name, recipe, seed)
                folder.mkdir(parents=True, exist_ok=True)
                case = cases[name]
                case = case._replace(
                    base=arguments.base or case.base,
                    n_steps=round(arguments.length * case.n_steps),
                )
                training = {**training, **arguments.training}
                options = build_options(arguments.data, case, training, seed)
                title = f"{name}, seed {seed}"
                run_row(folder, options, title, recipe, training.get("variant", ""))
    print(format_table(arguments, recipes))


def find_folder(output, name, recipe, seed):
    return output / name / make_slug(recipe).replace("/", "-") / str(seed)


def build_options(data, case, training, seed):
    """Return an options file as data."""
    folder = ROOT / "data" / "dft" if case.parts is SETS["glycol"] else data
    train, validation, test = (str(folder / part) for part in case.parts)
    n_epochs = round(case.n_steps / math.ceil(count_frames(train) / case.batch_size))
    training = {key: value for key, value in training.items() if key != "variant"}
    rate = training.pop("rate")
    if rate is not None:
        rate *= default_learning_rate("heads", count_weights(case.base))
    return {
        "seed": seed,
        "device": "cpu",
        "architecture": {
            "name": "pet",
            "training": {
                "num_epochs": max(1, n_epochs),
                "batch_size": case.batch_size,
                "learning_rate": rate,
                **training,
                "finetune": {**training["finetune"], "read_from": case.base},
            },
        },
        "training_set": train,
        "validation_set": validation,
        "test_set": test,
    }


def count_weights(base):
    return sum(value.numel() for value in load_record(base).state.values())


def format_table(arguments, recipes):
    """Return medians over seeds, and means over sets relative to the first recipe."""
    sets = arguments.sets

    def read_rows(name, recipe):
        folders = (
            find_folder(arguments.output, name, recipe, s) for s in arguments.seeds
        )
        return [json.loads((folder / "row.json").read_text()) for folder in folders]

    lines = [
        f"{arguments.question}: energy meV/atom, forces meV/Å (and half the range over "
        f"{len(arguments.seeds)} seeds); means over the sets relative to the first row",
        "",
        "| recipe | " + " | ".join(sets) + " | energy | forces | time |",
        "|" + "---|" * (len(sets) + 4),
    ]
    first = None
    for recipe in recipes:
        rows = {name: read_rows(name, recipe) for name in sets}
        medians = {name: summarize(values) for name, values in rows.items()}
        first = first or medians
        cells = [recipe]
        for name in sets:
            energy, forces, _ = medians[name]
            spread = half_range(rows[name], "forces_mae")
            cells.append(f"{energy:.2f}, {forces:.1f} ({spread:.1f})")
        for k in range(3):
            logs = [math.log(medians[name][k] / first[name][k]) for name in sets]
            cells.append(f"{math.exp(statistics.fmean(logs)):.2f}")
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def summarize(rows):
    """Median energy error meV/atom, force error meV/Å, and seconds of training."""
    return (
        1000 * statistics.median(row["report"]["test"]["energy_mae"] for row in rows),
        1000 * statistics.median(row["report"]["test"]["forces_mae"] for row in rows),
        statistics.median(row["seconds"] for row in rows),
    )


def half_range(rows, key):
    values = [1000 * row["report"]["test"][key] for row in rows]
    return (max(values) - min(values)) / 2


if __name__ == "__main__":
    main()
