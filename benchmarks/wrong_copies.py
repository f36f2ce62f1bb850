"""How often ``pet-calc check`` sees wrong labels, and refuses right ones.

    python benchmarks/wrong_copies.py --data ../shared/data
    python benchmarks/wrong_copies.py --data ../shared/data --right-only --seed 1
    python benchmarks/wrong_copies.py --quick        # what is in this repository, fast

Labels of known unit, sign and order are written in every other unit, with the other
sign and with their shear components in every other order, and read as if they were in
eV and Å. Each copy is checked on random draws of 5, 20 and 200 frames: with a bundled
base of the data's chemistry, with random weights in its shape, and without a base.
A base is run once on each set, on 200 frames and 5,000 atoms at most, so that all of
it takes some minutes on one core. Sets of ``--data`` that are not there are left out,
and named. ``--right-only`` counts false alarms, on eight times as many draws.
"""

import argparse
import sys
from collections import Counter
from itertools import permutations, product
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from pet_calc.check.against_base import compare_with_base
from pet_calc.check.energy_and_forces import check_work, compute_work_fit
from pet_calc.check.magnitudes import check_magnitudes
from pet_calc.check.run import build_predictor, check_known, sample_frames
from pet_calc.checkpoint.open import load_merged_model
from pet_calc.data.frames import LabeledFrame, read_frames
from pet_calc.data.labels import LabelUnits
from pet_calc.model.hypers import choose_energy_target
from pet_calc.model.pet import PET
from pet_calc.units import energy_factor, force_factor, stress_factor

REPOSITORY = Path(__file__).resolve().parents[1]
MOLECULES, MATERIALS = "pet-gfn1-xs", "pet-sevennet-xs"


class Source(NamedTuple):
    """A set of frames whose labels are known to be right."""

    file: str
    base: str
    index: str = ":"
    units: LabelUnits = LabelUnits()


# in the repository, and public ones
OWN = {
    "molecules": Source("data/excerpts/base_test.xyz", MOLECULES),
    "glycol": Source("data/dft/train.xyz", MOLECULES),
    "materials": Source("data/excerpts/materials_test.xyz", MATERIALS),
}
PUBLIC = {
    "ethanol": Source("rmd17_ethanol_train.xyz", MOLECULES, ":200"),
    "aspirin": Source("rmd17_aspirin_train.xyz", MOLECULES, ":200"),
    "acac": Source("acac_train_300K.xyz", MOLECULES, ":200"),
    "water": Source("water192_train.xyz", MOLECULES),
    "Li3PS4": Source("Li3PS4-sample_train.xyz", MATERIALS),
    "Si": Source("mlearn_Si_train.xyz", MATERIALS),
    "carbon": Source("carbon_reduced_100.xyz", MATERIALS),
    "MAD": Source("MAD-sample_test.xyz", MATERIALS, units=LabelUnits(stress_sign=-1)),
}
SIZES = (5, 20, 200)
# draws of each size; of sets with no more than 200 frames there is one of all
DRAWS = {5: 8, 20: 4, 200: 1}

STRESS_UNITS = (
    "eV/A^3",
    "GPa",
    "kbar",
    "bar",
    "MPa",
    "Pa",
    "Hartree/bohr^3",
    "Ry/bohr^3",
    "kcal/mol/A^3",
)
FORCE_UNITS = (
    "eV/A",
    "kcal/mol/A",
    "kJ/mol/A",
    "meV/A",
    "Hartree/bohr",
    "Ry/bohr",
    "Hartree/A",
    "eV/bohr",
)
ENERGY_UNITS = ("eV", "kcal/mol", "kJ/mol", "meV", "Hartree", "Ry")
# of energies and forces of one program
PAIRS = (
    ("eV", "eV/A"),
    ("kcal/mol", "kcal/mol/A"),
    ("kJ/mol", "kJ/mol/A"),
    ("meV", "meV/A"),
    ("Hartree", "Hartree/bohr"),
    ("Hartree", "Hartree/A"),
    ("Ry", "Ry/bohr"),
)
# places of yz, xz, xy in a tensor
SHEAR = ((1, 2), (0, 2), (0, 1))
PLAIN = (0, 1, 2)
# codes that speak of a quantity
CODES = {
    "stress": ("stress-sign", "stress-unit", "stress-order", "large-stress"),
    "forces": (
        *("forces-sign", "forces-unit", "forces-factor", "forces-per-bohr"),
        *("forces-axes", "large-forces", "energy-force-units", "base-sign"),
    ),
    "energy": ("energy-sign", "energy-unit", "energy-force-units"),
}
# what answers as a base, and its name in the tables
KINDS = {"base": "bundled base", "random": "random weights", "none": "no base"}
CODES["energy and forces"] = tuple({*CODES["forces"], *CODES["energy"]})


def main():
    arguments = parse_arguments()
    torch.set_num_threads(arguments.threads)
    sets = load_sets(arguments)
    if arguments.sets:
        unknown = set(arguments.sets) - set(sets)
        if unknown:
            sys.exit(f"no set {', '.join(unknown)}; there are {', '.join(sets)}")
        sets = {name: sets[name] for name in arguments.sets}
    counts = {}
    for name, frames in sets.items():
        print(f"{name}: {len(frames)} frames", file=sys.stderr, flush=True)
        source = {**OWN, **PUBLIC}[name]
        counts[name] = count_set(frames, source.base, arguments)
    print_right(counts)
    if arguments.right_only:
        return
    for quantity in ("stress", "forces", "energy", "energy and forces"):
        print_wrong(quantity, counts)


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, help="folder of the public sets")
    parser.add_argument("--sets", nargs="+", metavar="SET", help="only these")
    parser.add_argument(
        "--right-only", action="store_true", help="no wrong copies, but more draws"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument(
        "--quick", action="store_true", help="few frames, copies and draws"
    )
    return parser.parse_args()


def load_sets(arguments):
    """Return the frames of each set that is there, those its base knows."""
    found = {name: (REPOSITORY / source.file, source) for name, source in OWN.items()}
    missing = list(PUBLIC)
    if arguments.data is not None:
        there = {
            name: (arguments.data / source.file, source)
            for name, source in PUBLIC.items()
            if (arguments.data / source.file).is_file()
        }
        missing = [name for name in PUBLIC if name not in there]
        found |= there
    if missing:
        print(f"not at hand, left out: {', '.join(missing)}\n")
    sets = {}
    for name, (path, source) in found.items():
        model = load_merged_model(source.base)
        frames = read_frames(path, index=source.index, units=source.units)
        known = [f for f in frames if not check_known(model, [f])]
        # what a base is run on in a check is so bounded as well
        sets[name] = sample_frames(known)[: 12 if arguments.quick else None]
    return sets


def count_set(frames, base, arguments):
    """Return, by (base, quantity, copy, size), how its draws were judged.

    Each value is a Counter of ``error``, ``warning`` or ``unseen``, the gravest of a
    draw, of ``all``, and of the codes of findings.
    """
    predictors = build_predictors(frames, base)
    counts = {}
    for quantity, copies in list_copies(arguments.quick).items():
        if arguments.right_only:
            copies = copies[:1]
        labelled = [frame for frame in frames if has(frame, quantity)]
        if len(labelled) < SIZES[0]:
            continue
        draws = draw(len(labelled), arguments)
        for copy in copies:
            labels = [write_copy(frame, quantity, copy) for frame in labelled]
            for (size, chosen), kind in product(draws, predictors):
                found = check_labels([labels[i] for i in chosen], predictors[kind])
                counter = counts.setdefault((kind, quantity, copy, size), Counter())
                judge(found, quantity, counter)
    return counts


def build_predictors(frames, base):
    """Return what answers for copies of the frames: evaluated once, found by place."""
    model = load_merged_model(base)
    target = choose_energy_target(model.targets, None)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        specs = list(model.targets.values())
        untrained = PET(model.hypers, model.atomic_types, specs)
    predictors = {}
    for kind, network in (("base", model), ("random", untrained.eval())):
        predictions = build_predictor(network, target)(frames)
        by_place = {
            id(frame.positions): p for frame, p in zip(frames, predictions, strict=True)
        }

        def look_up(asked, by_place=by_place):
            # copies share the positions with their original
            return [by_place[id(f.positions)]._replace(frame=f) for f in asked]

        predictors[kind] = look_up
    return {**predictors, "none": None}


def draw(n_frames, arguments):
    """Return pairs of a size and indices of frames; the largest draw is all of them."""
    rng = np.random.default_rng(arguments.seed)
    sizes = SIZES[:1] if arguments.quick else SIZES
    draws = []
    for size in sizes:
        n_draws = DRAWS[size] * (8 if arguments.right_only else 1)
        for _ in range(1 if arguments.quick or size >= n_frames else n_draws):
            chosen = rng.choice(n_frames, min(size, n_frames), replace=False)
            draws.append((size, sorted(chosen.tolist())))
    return draws


def has(frame, quantity):
    return all(getattr(frame, name) is not None for name in quantity.split(" and "))


class Copy(NamedTuple):
    """What was done to the labels; the first of all copies are right."""

    unit: str
    sign: int = 1
    order: tuple[int, ...] = PLAIN


def list_copies(is_quick):
    """Return the copies of each quantity, the right one first."""
    orders = [PLAIN, (1, 0, 2)] if is_quick else list(permutations(PLAIN))
    units = [*STRESS_UNITS, "eV, a virial"]
    copies = {
        "stress": [
            Copy(u, s, o)
            for o in orders
            for u in (units[:3] if is_quick else units)
            for s in (1, -1)
        ],
        "forces": [Copy(u, s) for u in FORCE_UNITS for s in (1, -1)],
        "energy": [Copy(u, s) for u in ENERGY_UNITS for s in (1, -1)],
        "energy and forces": [Copy(f"{e}, {f}", s) for e, f in PAIRS for s in (1, -1)],
    }
    if is_quick:
        copies |= {name: copies[name][:4] for name in copies if name != "stress"}
    return copies


def write_copy(frame: LabeledFrame, quantity: str, copy: Copy) -> LabeledFrame:
    """Return the frame as it is read when nobody says what the copy's unit is."""
    if quantity == "stress":
        return frame.relabel(stress=write_stress(frame, copy))
    if quantity == "forces":
        return frame.relabel(forces=copy.sign * frame.forces / force_factor(copy.unit))
    if quantity == "energy":
        energy = copy.sign * frame.energy / energy_factor(copy.unit)
        return frame.relabel(energy=energy)
    energy_unit, force_unit = copy.unit.split(", ")
    # of the forces only: that of both is a matter of definition
    return frame.relabel(
        energy=frame.energy / energy_factor(energy_unit),
        forces=copy.sign * frame.forces / force_factor(force_unit),
    )


def write_stress(frame, copy):
    if copy.unit == "eV, a virial":
        factor = -abs(np.linalg.det(frame.cell))
    else:
        factor = 1 / stress_factor(copy.unit)
    stress = copy.sign * factor * frame.stress
    written = stress.copy()
    for place, source in zip(SHEAR, copy.order, strict=True):
        written[place] = written[place[::-1]] = stress[SHEAR[source]]
    return written


def check_labels(frames, predictor):
    """Return what the parts of a check that judge sizes, signs and orders find."""
    work = compute_work_fit(frames)
    findings = [*check_magnitudes(frames), *check_work(work)]
    if predictor is not None:
        findings += compare_with_base(predictor(frames), work=work)[1]
    return findings


def judge(findings, quantity, counter):
    """Count what a check said of the quantity."""
    found = [f for f in findings if f.code in CODES[quantity] and f.severity != "note"]
    severities = {f.severity for f in found}
    gravest = next((s for s in ("error", "warning") if s in severities), "unseen")
    counter.update([gravest, "all", *{f.code for f in found}])


def add(counters):
    total = Counter()
    for counter in counters:
        total += counter
    return total


def print_right(counts):
    """Print how many draws of right labels raise an alarm, and which."""
    print("## Right labels\n")
    print(
        f"Sets: {', '.join(counts)}. Alarms, in brackets refusals, of all draws; each "
        "draw counts for each quantity (stress, forces, energy, both) that it has.\n"
    )
    print("| base | 5 frames | 20 frames | up to 200 frames |\n|---|---|---|---|")
    alarms = Counter()
    for kind, title in KINDS.items():
        cells = []
        for size in SIZES:
            total = Counter()
            for name, those in counts.items():
                for (k, _, copy, n), counter in those.items():
                    if k == kind and n == size and is_right(copy):
                        total += counter
                        codes = [code for code in counter if "-" in code]
                        alarms.update((title, name, code) for code in codes)
            n_seen = total["all"] - total["unseen"]
            cells.append(f"{n_seen} ({total['error']}) of {total['all']}")
        print(f"| {title} | {' | '.join(cells)} |")
    for title, name, code in alarms:
        print(f"\n{title}: {code} on {name}")


def is_right(copy):
    units = ("eV", "eV/A", "eV/A^3", "eV, eV/A")
    return copy.unit in units and copy.sign == 1 and copy.order == PLAIN


def print_wrong(quantity, counts):
    """Print, for each wrong copy, how many percent of the draws it is seen in."""
    sets = [name for name in counts if any(k[1] == quantity for k in counts[name])]
    if not sets:
        return
    print(f"\n## {quantity.capitalize()}: wrong copies\n")
    print(
        f"Sets: {', '.join(sets)}. Percent of the draws of 5, 20 and up to 200 frames "
        "that are seen, in brackets those refused.\n"
    )
    rows, by_set = {}, {}
    for name in sets:
        for (kind, q, copy, size), counter in counts[name].items():
            if q == quantity and not is_right(copy):
                order = "right" if copy.order == PLAIN else "other"
                sign = "right" if copy.sign == 1 else "other"
                row = rows.setdefault((copy.unit, sign, order), {})
                row.setdefault((kind, size), []).append(counter)
                row = by_set.setdefault(name, {})
                row.setdefault((kind, size), []).append(counter)
    lines = {key: format_cells(row) for key, row in rows.items()}
    # a line for all copies of a unit, or of its sign, where they are judged alike
    if quantity == "stress":
        lines = merge_alike(lines, 2, "any")
    lines = merge_alike(lines, 1, "either")
    bases = " | ".join(KINDS.values())
    if quantity == "stress":
        print(f"| unit | sign | shear order | {bases} |\n|" + "---|" * 6)
    else:
        print(f"| unit | sign | {bases} |\n|" + "---|" * 5)
    for (unit, sign, order), cells in lines.items():
        words = [unit, sign, *([order] if quantity == "stress" else []), *cells]
        print("| " + " | ".join(words) + " |")
    print(f"\nThe same by set:\n\n| set | {bases} |\n|---|---|---|---|")
    for name, row in by_set.items():
        print("| " + " | ".join([name, *format_cells(row)]) + " |")


def merge_alike(lines, place, word):
    """Put lines that differ in one word only, and are judged alike, into one."""
    merged = {}
    for key, cells in lines.items():
        others = [k for k in lines if without(k, place) == without(key, place)]
        is_alike = len(others) > 1 and all(lines[k] == cells for k in others)
        if is_alike:
            key = (*key[:place], word, *key[place + 1 :])
        merged[key] = cells
    return merged


def without(key, place):
    return (*key[:place], *key[place + 1 :])


def format_cells(row):
    return [
        ", ".join(format_cell(add(row.get((kind, size), []))) for size in SIZES)
        for kind in KINDS
    ]


def format_cell(counter):
    if not counter["all"]:
        return "-"
    seen = counter["all"] - counter["unseen"]
    percent = round(100 * seen / counter["all"])
    refused = round(100 * counter["error"] / counter["all"])
    return f"{percent} ({refused})"


if __name__ == "__main__":
    main()
