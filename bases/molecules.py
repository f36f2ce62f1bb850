"""Frames of single atoms and single molecules."""

from functools import lru_cache

import numpy as np
from ase import Atoms
from ase.build import molecule
from ase.collections import g2
from molecule_list import (
    G2_TRIPLETS,
    MOST_DRAWN_ATOMS,
    drawn_smiles,
    systematic_smiles,
)
from runs import generator
from sampling import (
    displace_along_modes,
    has_bonds_of,
    label,
    molecular_dynamics,
    movable_bonds,
    relax,
    rotatable_bonds,
    stretch,
    topology_key,
    turn,
    vibrations,
    xtb,
)
from smiles3d import (
    COVALENT_RADIUS,
    MolecularGraph,
    bonded_pairs,
    embed,
    parse_smiles,
)

# unpaired electrons of the ground states; they set GFN1's occupations
UNPAIRED = {"H": 1, "C": 2, "N": 3, "O": 2, "F": 1, "S": 2, "Cl": 1}
MD_TEMPERATURES = (300, 500, 700, 1000)
MODE_TEMPERATURES = (300, 600, 1000, 1500)


def list_molecules() -> list[tuple[str, str]]:
    """Return (name, topology key) of every molecule once: g2 first, then SMILES."""
    found: dict[str, str] = {}
    for name in g2.names:
        atoms = molecule(name)
        symbols = atoms.get_chemical_symbols()
        is_covered = set(symbols) <= set(COVALENT_RADIUS)
        is_singlet = atoms.numbers.sum() % 2 == 0 and name not in G2_TRIPLETS
        if is_covered and is_singlet:
            key = topology_key(symbols, bonded_pairs(symbols, atoms.positions))
            found.setdefault(key, f"g2:{name}")
    for _, smiles in systematic_smiles():
        graph = parse_smiles(smiles)
        found.setdefault(topology_key(graph.symbols, set(graph.orders)), smiles)
    return [(name, key) for key, name in found.items()]


def list_drawn(seed: int, count: int) -> list[str]:
    """Return the SMILES of molecules drawn at random that are not listed already."""
    seen = {key for _, key in list_molecules()}
    drawn: list[str] = []
    for smiles in drawn_smiles(generator(seed, "drawn")):
        if len(drawn) == count:
            break
        try:
            graph = parse_smiles(smiles)
        except ValueError:  # more bonds than an atom has
            continue
        key = topology_key(graph.symbols, set(graph.orders))
        if key not in seen and len(graph.symbols) <= MOST_DRAWN_ATOMS:
            seen.add(key)
            drawn.append(smiles)
    return drawn


def molecule_key(name: str) -> str:
    """Return the topology key of a molecule by SMILES or `g2:name`."""
    graph = _graph(name)
    return topology_key(graph.symbols, set(graph.orders))


@lru_cache(maxsize=400)
def relaxed(name: str, seed: int) -> tuple[Atoms, MolecularGraph]:
    """Return the GFN1-xTB minimum and graph of a molecule; do not change them.

    Raises RuntimeError when no start leads to a minimum with the wanted bonds.
    """
    graph = _graph(name)
    for attempt in range(6):
        rng = generator(seed, "start", name, attempt)
        if name.startswith("g2:"):
            start = molecule(name[3:])
            start.positions += rng.normal(scale=0.01, size=start.positions.shape)
        else:
            start = Atoms(graph.symbols, embed(graph, rng))
        try:
            atoms = relax(start)
        except RuntimeError:
            continue
        if has_bonds_of(graph, atoms):
            atoms.positions -= atoms.get_center_of_mass()
            return atoms, graph
    raise RuntimeError(f"{name}: no relaxed geometry keeps the bonds")


@lru_cache(maxsize=60)
def relaxed_with_modes(
    name: str, seed: int
) -> tuple[Atoms, tuple[np.ndarray, np.ndarray]]:
    """Return the minimum and its vibrations, for monomers used many times."""
    atoms, _ = relaxed(name, seed)
    return atoms, vibrations(atoms)


def atom_frames() -> list[Atoms]:
    """Return the seven isolated atoms, by unpaired electrons of their ground state."""
    frames = []
    for symbol, unpaired in UNPAIRED.items():
        atom = Atoms(symbol, [[0.0, 0.0, 0.0]])
        frame = label(atom, kind="atom", config_type="IsolatedAtom")
        atom.calc = xtb(0.1, multiplicity=unpaired + 1)
        assert frame is not None
        frame.calc.results["energy"] = atom.get_potential_energy()
        frame.info["system"] = f"atom_{symbol}"  # "F" alone reads back as False
        frames.append(frame)
    return frames


def drawn_frames(name: str, seed: int) -> list[Atoms]:
    """Return five labelled frames of a drawn molecule: modes, MD, a stretched bond."""
    rng = generator(seed, "frames", name)
    atoms, graph = relaxed(name, seed)
    modes = vibrations(atoms)
    drafts = []
    for kelvin in (300, 1000):
        moved = displace_along_modes(atoms, modes, kelvin, rng)
        drafts.append((f"modes_{kelvin}K", turned(moved, graph, rng)))
    temperature = int(rng.choice(MD_TEMPERATURES))
    start = turned(atoms, graph, rng)
    for snapshot in molecular_dynamics(start, temperature, 2, 30, rng):
        drafts.append((f"md_{temperature}K", snapshot))
    base = displace_along_modes(atoms, modes, 600, rng)
    drafts.append(("internal", _internal(base, graph, rng)))
    return [f for kind, draft in drafts if (f := label(draft, kind=kind, system=name))]


def molecule_frames(name: str, seed: int) -> list[Atoms]:
    """Return all labelled frames of one molecule, the relaxed one first."""
    rng = generator(seed, "frames", name)
    atoms, graph = relaxed(name, seed)
    modes = vibrations(atoms)
    is_small = len(atoms) <= 6
    drafts = [("relaxed", atoms)]
    for temperature in MODE_TEMPERATURES[: 4 if is_small else 3]:
        moved = displace_along_modes(atoms, modes, temperature, rng)
        drafts.append((f"modes_{temperature}K", moved))
    temperature = int(rng.choice(MD_TEMPERATURES))
    start = turned(atoms, graph, rng)
    for snapshot in molecular_dynamics(start, temperature, 2, 40, rng):
        drafts.append((f"md_{temperature}K", snapshot))
    base = displace_along_modes(atoms, modes, 300, rng)
    for _ in range(4 if is_small else 1):
        drafts.append(("internal", _internal(base, graph, rng)))
    for _ in range(min(1, len(rotatable_bonds(graph)))):
        warm = displace_along_modes(atoms, modes, 300, rng)
        drafts.append(("torsion", turned(warm, graph, rng)))
    return [f for kind, draft in drafts if (f := label(draft, kind=kind, system=name))]


def turned(atoms: Atoms, graph: MolecularGraph, rng: np.random.Generator) -> Atoms:
    """Return a copy with every rotatable bond at a random angle, clashes avoided."""
    bonds = rotatable_bonds(graph)
    for _ in range(20):
        result = atoms
        for bond in bonds:
            axis = result.positions[bond[1]] - result.positions[bond[0]]
            result = turn(result, bond, rng.uniform(-180, 180), axis)
        if has_bonds_of(graph, result):
            return result.copy()
    return atoms.copy()


def _graph(name: str) -> MolecularGraph:
    if not name.startswith("g2:"):
        return parse_smiles(name)
    atoms = molecule(name[3:])
    symbols = atoms.get_chemical_symbols()
    # bond orders are not needed for what g2 molecules go through: all torsions turn
    pairs = bonded_pairs(symbols, atoms.positions)
    return MolecularGraph(symbols, dict.fromkeys(sorted(pairs), 1))


def _internal(atoms: Atoms, graph: MolecularGraph, rng: np.random.Generator) -> Atoms:
    """Return a copy with one bond stretched or compressed and one angle bent."""
    bonds = movable_bonds(graph)
    if not bonds:  # all in rings: breathe instead
        moved = atoms.copy()
        moved.positions *= rng.uniform(0.93, 1.08)
        return moved
    bond = bonds[rng.integers(len(bonds))]
    moved = stretch(atoms, bond, rng.uniform(0.85, 1.35))
    if len(atoms) > 2:
        bond = bonds[rng.integers(len(bonds))]
        axis = rng.normal(size=3)
        moved = turn(moved, bond, rng.uniform(-18, 18), axis / np.linalg.norm(axis))
    return moved
