"""Name the molecules of the base data: a systematic grammar and hand-picked ones."""

from collections.abc import Iterator
from itertools import combinations_with_replacement
from pathlib import Path

import numpy as np

# ASE's g2 entries with an even electron count that are no closed-shell singlets
G2_TRIPLETS = {"O", "S", "C", "O2", "S2", "SO", "NH", "CH2_s3B1d"}

ALKYL = ["C", "CC", "CCC", "CC(C)", "CC(C)(C)", "CCCC", "C=C", "C#C", "C1CC1"]
GROUPS = [
    "", "O", "S", "N", "F", "Cl", "C#N", "C=O", "C(=O)O", "C(=O)N", "C(=O)C", "OC",
    "SC", "NC", "N(C)C", "C(F)(F)F", "N(=O)=O", "C(=O)OC", "OC=O", "NC=O", "C(=O)Cl",
    "C=C", "C#C", "CO", "CN", "CS", "S(=O)C", "SSC", "ON", "N=C", "C=NO", "N=C=O",
]  # fmt: skip
ENDS = ["O", "N", "S", "F", "Cl", "C#N", "C=O", "C(=O)O", "OC", "C=C", "C(=O)N"]
BENZENE_GROUPS = [
    "", "C", "O", "N", "F", "Cl", "S", "C#N", "C=O", "OC", "C=C", "C#C", "CO",
    "C(=O)O", "N(=O)=O", "C(=O)N", "NC", "C(F)(F)F", "NO",
]  # fmt: skip
AROMATICS = [  # the last atom written takes the substituent
    "N1=CC=CC=C1{}", "C1=CN=CC=C1{}", "C1=NC=CC(=C1){}", "N1C=CC=C1{}", "O1C=CC=C1{}",
    "S1C=CC=C1{}", "O1C=CC(=C1){}", "S1C=CC(=C1){}", "N1C=NC=C1{}", "N1N=CC=C1{}",
    "O1C=NC=C1{}", "S1C=NC=C1{}", "N1=CN=CC=C1{}", "N1=CC=NC=C1{}", "N1=NC=CC=C1{}",
]  # fmt: skip
AROMATIC_GROUPS = ["", "C", "O", "N", "F", "Cl", "C#N", "C=O"]
RINGS = [
    "C1CC1{}", "C1CCC1{}", "C1CCCC1{}", "O1CC1{}", "O1CCC1{}", "O1CCCC1{}", "N1CC1{}",
    "N1CCC1{}", "N1CCCC1{}", "S1CC1{}", "S1CCCC1{}", "C1=CCCC1{}", "C1OCCO1",
    "O1CCOCC1", "N1CCOCC1", "N1CCNCC1", "C1CCCCC1", "N1CCCCC1", "O1CCCCC1",
    "C1=CCC=CC1", "C1=CCCCC1",
]  # fmt: skip
RING_GROUPS = ["", "C", "O", "N", "F", "C#N", "C=O", "=O"]
HALOMETHANES = ["F", "Cl", "C#N", "O"]

HAND_PICKED = Path(__file__).with_name("hand_picked.smi").read_text().split()

DISUBSTITUTED_BENZENES = [
    "OC1=CC=CC=C1{}", "OC1=CC(=CC=C1){}", "OC1=CC=C(C=C1){}", "NC1=CC=C(C=C1){}",
    "NC1=CC=CC=C1{}", "CC1=CC=CC=C1{}", "FC1=CC=CC=C1{}", "ClC1=CC=C(C=C1){}",
]  # fmt: skip
DISUBSTITUTED_GROUPS = ["O", "N", "F", "Cl", "C=O", "C#N", "C", "N(=O)=O"]

# What drawn molecules consist of: a core with two or three open ends, filled at random.
CORES = [
    "C({}){}", "C({})C{}", "C({})CC{}", "C({})CCC{}", "C({})(C){}", "C({})C(C){}",
    "C({})=C{}", "C({})=CC{}", "C({})C=C{}", "C({})C#C{}", "C({})#C{}", "C(=C{}){}",
    "C({})OC{}", "C({})NC{}", "C({})SC{}", "C({})N(C)C{}", "C(=O)(C{})C{}",
    "C(=O)(OC{})C{}", "C(=O)(NC{})C{}", "C(=O)(SC{})C{}", "C(=NC{})C{}",
    "C(=NO)(C{}){}",
    "S(=O)(C{})C{}", "S(=O)(=O)(C{})C{}", "C({})({})C{}", "C({})C({})C{}", "N(C{})C{}",
    "C1({})=CC=CC=C1{}", "C1({})=CC=CC(=C1){}", "C1({})=CC=C(C=C1){}",
    "C1({})=NC=CC=C1{}", "C1({})=NC=CC(=C1){}", "C1({})=NC=C(C=C1){}",
    "C1({})=CC=CN=C1{}", "C1({})=CN=CN=C1{}", "C1({})=NC=CN=C1{}", "C1({})=NN=CC=C1{}",
    "C1({})=CC=CO1{}", "C1({})=CC=C(O1){}", "C1({})=CC=C(S1){}", "C1({})=CC=C(N1){}",
    "C1({})=CC=CN1{}", "C1({})=CSC=C1{}", "C1({})=CN=C(N1){}", "C1({})=CN=C(O1){}",
    "C1({})=CN=C(S1){}", "C1({})=NN=C(O1){}", "C1({})=CC=NN1{}", "C1({})=CC=NO1{}",
    "C1({})CC1{}", "C1({})CCC1{}", "C1({})CCCC1{}", "C1({})CC(C1){}", "C1({})OC1{}",
    "C1({})COC1{}", "C1({})COCC1{}", "C1({})CCOC1{}", "C1({})CNCC1{}", "C1({})NC1{}",
    "C1({})CSCC1{}", "C1({})OCCO1", "C1({})=CCCC1{}", "C1({})CCCCC1{}",
    "C1({})COCCN1{}",
    "C1({})CC(=O)N1{}", "C1({})CCC(=O)O1", "C1({})CCC(=O)C1{}", "C1({})=CC(=O)CC1{}",
    "C1({})=CC(=O)C(=CN1){}", "C1({})=CC(=O)NC(=O)N1", "C1({})C2CC2C1{}",
    "C1({})CC2CCC1C2{}", "C1({})=CC2=CC=CC=C2N1{}", "C1({})=CC2=CC=CC=C2O1",
    "C1({})=CC=CC2=CC=CC=C12", "C1({})=NC=NC2=C1N=CN2",
]  # fmt: skip
ENDINGS = [
    "C", "C", "C", "CC", "O", "O", "N", "F", "F", "Cl", "S", "C#N", "C=O", "C(=O)O",
    "C(=O)N", "C(=O)C", "OC", "SC", "NC", "N(C)C", "C(F)(F)F", "N(=O)=O", "C(=O)OC",
    "OC=O", "NC=O", "C=C", "C#C", "CO", "CN", "CCl", "CF", "C1CC1", "S(=O)C",
    "S(=O)(=O)N", "N=C=O", "N=C=S", "N=N#N", "NO", "ON", "C=NO", "NN", "OC(F)F", "SSC",
]  # fmt: skip
MOST_DRAWN_ATOMS = 20  # hydrogens included


def drawn_smiles(rng: np.random.Generator) -> Iterator[str]:
    """Yield SMILES of cores with random substituents, without end, some twice."""
    while True:
        core = str(rng.choice(CORES))
        endings = [
            # bare hydrogen closes an end in one of eight
            str(rng.choice(ENDINGS)) if rng.random() < 0.875 else ""
            for _ in range(core.count("{}"))
        ]
        yield core.format(*endings).replace("()", "")


def systematic_smiles() -> Iterator[tuple[str, str]]:
    """Yield (subset, SMILES); the same molecule may come twice, spelt differently."""
    for alkyl in ALKYL:
        for group in GROUPS:
            yield "chain", alkyl + group
    for first, second in combinations_with_replacement(ENDS, 2):
        yield "bifunctional", f"{_reversed(first)}CC{second}"
        if first != second or first in ("F", "Cl"):
            yield "bifunctional", f"{_reversed(first)}C{second}"
    for count in range(1, 5):
        for picked in combinations_with_replacement(HALOMETHANES, count):
            if picked.count("O") < 2:
                branches = "".join(f"({group})" for group in picked[:-1])
                yield "halide", f"C{branches}{picked[-1]}"
    for group in BENZENE_GROUPS:
        yield "aromatic", f"C1=CC=CC=C1{group}"
    for ring in AROMATICS:
        for group in AROMATIC_GROUPS:
            yield "aromatic", ring.format(group)
    for ring in DISUBSTITUTED_BENZENES:
        for group in DISUBSTITUTED_GROUPS:
            yield "aromatic", ring.format(group)
    for ring in RINGS:
        if "{}" not in ring:
            yield "ring", ring
            continue
        for group in RING_GROUPS:
            yield "ring", ring.format(group)
    for smiles in HAND_PICKED:
        yield "picked", smiles


def _reversed(group: str) -> str:
    """Write a substituent so that it can stand in front of the chain."""
    in_front = {"C#N": "N#C", "C=O": "O=C", "C(=O)O": "OC(=O)", "OC": "CO"}
    return {**in_front, "C(=O)N": "NC(=O)", "C=C": "C=C"}.get(group, group)
