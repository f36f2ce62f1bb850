"""One word a thing: old words stand nowhere but in names that others gave."""

import re
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).resolve().parents[1]
MADE = {"findings.md", "commands.md", "limits.md"}  # by docs/generate.py
# rooms in which a structure is a frame of a file, or a system of a batch
ROOMS = ("model", "lora", "config", "checkpoint", "data", "engine", "calculator")
ROOMS = (*ROOMS, "export", "evaluate", "train", "info", "hub", "system")


class Word(NamedTuple):
    """A word that is not used, what is said instead, and where it may stand."""

    pattern: str
    instead: str
    folders: tuple[str, ...]
    allowed: dict[str, tuple[str, ...]]
    """By file: what a line holds in which the word may stand."""


EVERYWHERE = ("pet_calc", "bases", "benchmarks", "examples", "docs")
EVERYWHERE = (*EVERYWHERE, "README.md", "CONTRIBUTING.md")
PACKAGE = ("pet_calc",)
AUTOGRAD = ("graph of the", "graph attached", "graph is not kept", "create_graph")

WORDS = [
    Word(
        # `.baseline` is the name of the tables in state dicts
        r"(?<!\.)[Bb]aseline|BASELINE|(\b|_)offsets?\b",
        "composition, energies per element",
        EVERYWHERE,
        {
            "pet_calc/model/tables.py": ('TABLES = "baseline"',),
            "pet_calc/config/historic.py": ('"atomic_baseline"',),
            "pet_calc/config/loss_options.py": ('old_name="--offsets"',),
            # the code of a finding: constants of totals, not of elements
            "pet_calc/check/against_base.py": ('"energy-offset"',),
            "pet_calc/check/codes.py": ('"energy-offset"',),
            "pet_calc/check/run.py": ('"energy-offset"',),
            "pet_calc/train/start/check.py": ('"energy-offset"',),
            "pet_calc/train/domain/frames.py": ('"energy-offset"',),
            # numpy's
            "pet_calc/checkpoint/tensormap.py": ("offset=start",),
        },
    ),
    Word(
        r"\b[Gg]raphs?\b|\w*Graph\b",
        "system",
        (*PACKAGE, "benchmarks", "docs"),
        {  # those of autograd
            "pet_calc/model/derivatives.py": AUTOGRAD,
            "pet_calc/train/loss.py": AUTOGRAD,
            "pet_calc/train/steps.py": AUTOGRAD,
            "pet_calc/train/recompute.py": AUTOGRAD,
            "pet_calc/model/memory.py": ("torch.autograd.graph",),
            "pet_calc/engine/training.py": ("attached to the graph", "graph leads to"),
            "docs/inside/engine.md": ("PyTorch frees the graph",),
            "docs/inside/architecture.md": AUTOGRAD,
        },
    ),
    Word(
        r"[Ss]tructures?\b|_structure|structure_",
        "frame in a file, system in a batch",
        tuple(f"pet_calc/{room}" for room in ROOMS),
        {
            "pet_calc/calculator/supported.py": ("stress needs a structure",),
            "pet_calc/checkpoint/metatrain.py": ("structure of a metatrain PET",),
            # metatrain's option, and the name in records of earlier versions
            "pet_calc/config/train_options.py": ("per_structure_targets",),
            "pet_calc/config/old_names.py": ("per_structure_targets",),
            "pet_calc/evaluate/prediction_file.py": ('"n_structures"',),
            # of the room of checks, where the same structure may be in two frames
            "pet_calc/train/domain/frames.py": ("pet_calc.check.structures",),
        },
    ),
    Word(
        r"\bshare: tuple|\bshare=\(|\brank, size = share",
        "ranks: Ranks",
        PACKAGE,
        {},
    ),
    Word(
        # of targets with these names the rest of the name follows
        r"non_conservative(?!_(force|stress))|NON_CONSERVATIVE",
        "direct",
        PACKAGE,
        {
            "pet_calc/config/train_options.py": ('"non_conservative_"',),
            "pet_calc/config/historic.py": ('"non_conservative_"',),
            # the argument of PETCalculator and of metatomic's calculator
            "pet_calc/calculator/calculator.py": (
                "non_conservative: ",
                "=non_conservative",
            ),
            "pet_calc/calculator/from_checkpoint.py": ("non_conservative=True",),
            "pet_calc/calculator/targets.py": (
                "non_conservative=False",
                '"non_conservative: expected',
            ),
            "pet_calc/calculator/metatomic_file.py": ("non_conservative=mode",),
            # LAMMPS's edge
            "pet_calc/lammps/compare.py": ("non_conservative",),
        },
    ),
    Word(
        r"ModelEngine|ExportedEngine|EngineInterface",
        "backend, network, switch; the compiled code alone is the engine",
        EVERYWHERE,
        {},
    ),
]


def list_files(folders):
    for folder in folders:
        path = ROOT / folder
        found = [path] if path.is_file() else sorted(path.rglob("*"))
        own = (f for f in found if f.suffix in (".py", ".md") and f.name not in MADE)
        yield from own


@pytest.mark.parametrize("word", WORDS, ids=lambda word: word.instead)
def test_old_words_stand_in_names_of_others_only(word):
    found, used = [], set()
    for path in list_files(word.folders):
        name = path.relative_to(ROOT).as_posix()
        for number, line in enumerate(path.read_text().splitlines(), start=1):
            if not re.search(word.pattern, line):
                continue
            allowed = [text for text in word.allowed.get(name, ()) if text in line]
            used.update((name, text) for text in allowed)
            if not allowed:
                found.append(f"{name}:{number}: {line.strip()}")
    assert not found, f"say {word.instead}:\n" + "\n".join(found)
    # a file's exceptions go when the file needs none
    assert {name for name, _ in used} == set(word.allowed)
    stale = {
        (name, text)
        for name, texts in word.allowed.items()
        if texts is not AUTOGRAD
        for text in texts
    } - used
    assert not stale
