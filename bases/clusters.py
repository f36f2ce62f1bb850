"""Frames of dimers and small clusters: approached, relaxed a little, and from MD."""

from itertools import combinations_with_replacement

import numpy as np
from ase import Atoms
from molecules import relaxed_with_modes
from runs import generator
from sampling import displace_along_modes, label, molecular_dynamics, relax

VDW_RADIUS = {"H": 1.2, "C": 1.7, "N": 1.55, "O": 1.52, "F": 1.47, "S": 1.8, "Cl": 1.75}
# contact over van der Waals distance: deep repulsion, hydrogen bonds, contact, far
APPROACH = (0.52, 0.6, 0.7, 0.8, 0.95, 1.25, 1.7)

# grouped by how often they meet: the first with everything, the second among each other
EVERYWHERE = ["O", "CO"]
COMMON = ["CCO", "N", "CN", "C=O", "OC=O", "NC=O", "CC(=O)C", "COC", "CC#N", "S", "CNC"]
OTHERS = [
    "C", "CC", "C=C", "C#C", "F", "Cl", "CS", "CF", "CCl", "N#C", "g2:CO2", "g2:N2",
    "g2:H2", "g2:Cl2", "g2:C6H6", "CC(=O)O", "CC(=O)N", "NC(=O)N", "CCC", "CSC", "OO",
    "N1C=CC=C1", "N1C=NC=C1", "N1=CC=CC=C1", "O1C=CC=C1", "ClCCl", "CC=O", "C(=O)OC",
    "OCCO", "NCCO", "CNC(=O)C", "O=S=O", "S=C=S", "FC(F)F", "CCF", "C1CC1", "CCN",
    "NN",
]  # fmt: skip
RANDOM_PAIRS = 40
WATER_CLUSTERS = (2, 3, 4, 5, 6)
CLUSTERS = [
    "O O CO", "O O CCO", "O O N", "O O CN", "O O C=O", "O O OC=O", "O O NC=O",
    "O CO CO", "CO CO CO", "CO CO CO CO", "CCO CCO O", "N N N", "F F F", "N N O",
    "O O O CO", "O O O N", "O O O CCO", "O O CO CO", "S S O", "F O O", "Cl O O",
    "O O COC", "O O CC(=O)C", "O O C", "C C C", "O O S", "CO N O", "O CS CO",
    "CC O CO", "C#N C#N O", "O O CC#N", "OC=O OC=O O", "NC=O NC=O O", "O O O C=O",
    "CN O CO",
]  # fmt: skip


def list_pairs(seed: int) -> list[tuple[str, str]]:
    """Return the pairs of molecules that become dimers (water dimer excluded)."""
    pool = EVERYWHERE + COMMON + OTHERS
    pairs = {tuple(sorted((a, b))) for a in EVERYWHERE for b in pool}
    pairs |= {tuple(sorted(p)) for p in combinations_with_replacement(COMMON, 2)}
    pairs |= {(a, a) for a in pool}
    rng = generator(seed, "pairs")
    wanted = len(pairs) + RANDOM_PAIRS
    while len(pairs) < wanted:
        pairs.add(tuple(sorted(str(s) for s in rng.choice(pool, 2, replace=False))))
    return sorted(pairs - {("O", "O")})


def dimer_frames(pair: tuple[str, str], seed: int) -> list[Atoms]:
    """Return labelled frames of one pair: approaches, a relaxed one, its MD."""
    rng = generator(seed, "dimer", *pair)
    system = "+".join(pair)
    frames = []
    for factor in rng.choice(APPROACH, 4, replace=False):
        draft = pack(pair, seed, rng, contact=float(factor))
        frames.append(label(draft, kind="approach", system=system))
    best = pack(pair, seed, rng, contact=0.78)
    best = relax(best, fmax=0.05, steps=40)
    frames.append(label(best, kind="relaxed", system=system))
    temperature = int(rng.choice((200, 300, 500)))
    for snapshot in molecular_dynamics(best, temperature, 2, 40, rng):
        frames.append(label(snapshot, kind=f"md_{temperature}K", system=system))
    return [f for f in frames if f is not None]


def cluster_frames(
    members: tuple[str, ...], starts: int, seed: int, system: str
) -> list[Atoms]:
    """Return labelled frames of a cluster from several packings."""
    rng = generator(seed, "cluster", *members)
    frames = []
    for _ in range(starts):
        contact = float(rng.choice((0.62, 0.7, 0.78, 0.9)))
        packed = pack(members, seed, rng, contact=contact)
        frames.append(label(packed, kind="packed", system=system))
        best = relax(packed, fmax=0.05, steps=30)
        frames.append(label(best, kind="relaxed", system=system))
        temperature = int(rng.choice((200, 300, 400)))
        for snapshot in molecular_dynamics(best, temperature, 2, 40, rng):
            frames.append(label(snapshot, kind=f"md_{temperature}K", system=system))
    return [f for f in frames if f is not None]


def pack(
    members: tuple[str, ...],
    seed: int,
    rng: np.random.Generator,
    contact: float,
    first: Atoms | None = None,
) -> Atoms:
    """Return vibrating monomers pushed together until the closest contact is reached.

    Args:
        members: molecule names.
        seed: seed of the relaxed monomers.
        rng: draws orientations, directions and vibrations (150-600 K).
        contact: closest distance between monomers over the van der Waals sum.
        first: geometry to take for the first member instead.
    """
    result = Atoms() if first is None else first.copy()
    for name in members if first is None else members[1:]:
        atoms, modes = relaxed_with_modes(name, seed)
        temperature = rng.uniform(150, 600)
        guest = displace_along_modes(atoms, modes, temperature, rng)
        guest.positions -= guest.positions.mean(0)
        random_rotation(guest, rng)
        if len(result):
            _dock(result, guest, contact, rng)
        result += guest
        result.positions -= result.positions.mean(0)
    return result


def random_rotation(atoms: Atoms, rng: np.random.Generator) -> None:
    """Turn atoms about the origin by a uniformly random rotation, in place."""
    matrix, triangle = np.linalg.qr(rng.normal(size=(3, 3)))
    matrix *= np.sign(np.diag(triangle))
    if np.linalg.det(matrix) < 0:
        matrix[:, 0] *= -1
    atoms.positions = atoms.positions @ matrix.T


def contact_ratios(host: Atoms, guest: Atoms) -> np.ndarray:
    """Return distance over van der Waals sum, [n_host, n_guest]."""
    first = np.array([VDW_RADIUS[s] for s in host.get_chemical_symbols()])
    second = np.array([VDW_RADIUS[s] for s in guest.get_chemical_symbols()])
    delta = host.positions[:, None] - guest.positions[None]
    return np.linalg.norm(delta, axis=-1) / (first[:, None] + second[None])


def _dock(host: Atoms, guest: Atoms, contact: float, rng: np.random.Generator) -> None:
    """Move the guest from far outside along a random ray to the contact, in place."""
    direction = rng.normal(size=3)
    direction /= np.linalg.norm(direction)
    origin = guest.positions.copy()
    far = 30.0
    while far > 0:
        guest.positions = origin + far * direction
        if contact_ratios(host, guest).min() < contact:
            break
        far -= 0.02
    guest.positions = origin + (far + 0.02) * direction
