"""Frames of small periodic cells with stress: ices, molecular packings, dense boxes.

tblite samples the Gamma point only. Covalent solids are therefore left out (8-atom
diamond is off by 0.8 eV/atom against its double cell), and so are cells thinner than
5.5 Å; what remains differs from its double cell by a few meV/atom and ~20 meV/Å.
"""

import numpy as np
from ase import Atoms
from ase.build import make_supercell
from ase.neighborlist import neighbor_list
from ase.spacegroup import crystal
from clusters import VDW_RADIUS, random_rotation
from molecules import relaxed_with_modes
from runs import generator
from sampling import displace_along_modes, label, molecular_dynamics, relax

MIN_HEIGHT = 5.5  # Å between opposite cell faces
FCC_PACKED = [
    "g2:CO2", "g2:N2", "C", "C#C", "C=C", "CC", "N", "S", "g2:Cl2", "CF", "CCl", "C=O",
    "CO", "CC#N", "NC=O", "OC=O", "C#N", "C(F)(F)(F)F", "S=C=S", "O=S=O", "F", "Cl",
    "CS", "ClCCl", "C1CC1", "CN",
]  # fmt: skip
BOXES = [
    ("O",) * 8, ("O",) * 9, ("O",) * 10, ("O",) * 6 + ("CO",), ("O",) * 6 + ("N",),
    ("O",) * 5 + ("CCO",), ("O",) * 6 + ("C=O",), ("O",) * 5 + ("NC=O",), ("CO",) * 5,
    ("CO",) * 3 + ("O",) * 4, ("N",) * 7, ("C",) * 6, ("CCO",) * 3, ("F",) * 12,
    ("S",) * 8, ("N",) * 4 + ("O",) * 4, ("NC=O",) * 5, ("OC=O",) * 5, ("C=O",) * 7,
    ("g2:C6H6", "g2:C6H6"), ("CC#N",) * 4, ("ClCCl",) * 5, ("CS",) * 5, ("C=C",) * 5,
    ("CC(=O)C",) * 3, ("COC",) * 3, ("O",) * 7 + ("C",), ("g2:CO2",) * 9,
    ("OCCO",) * 3,
]  # fmt: skip
ICES = {"ice_Ic": 3, "ice_Ih": 2}  # proton orders of each


def list_cells() -> list[tuple[str, str]]:
    """Return (group, name) of every periodic system."""
    names = [("crystal", f"{ice}:{i}") for ice, n in ICES.items() for i in range(n)]
    names += [("crystal", "urea")]
    names += [("crystal", f"fcc:{name}") for name in FCC_PACKED]
    return names + [("box", "box:" + "+".join(members)) for members in BOXES]


def cell_members(name: str) -> list[str]:
    """Return the molecules in a cell, to tie its split to theirs."""
    if name.startswith("ice"):
        return ["O"]
    if name == "urea":
        return ["NC(=O)N"]
    return sorted(set(name.partition(":")[2].split("+")))


def cell_frames(name: str, seed: int) -> list[Atoms]:
    """Return labelled frames of one cell: strained, rattled, and short MD for boxes."""
    rng = generator(seed, "cell", name)
    if name.startswith("box:"):
        atoms = _random_box(name[4:].split("+"), seed, rng)
        temperature = int(rng.choice((250, 350, 500)))
        atoms = relax(atoms, fmax=0.3, steps=25)
        drafts = [("relaxed", atoms)]
        for snapshot in molecular_dynamics(atoms, temperature, 4, 12, rng):
            drafts.append((f"md_{temperature}K", snapshot))
            strained = _strained(snapshot, rng, 0.05)
            drafts.append((f"md_{temperature}K_strained", strained))
    else:
        atoms = relax(_crystal(name, seed, rng), fmax=0.1, steps=12)
        drafts = [("relaxed", atoms)]
        for scale in (0.02, 0.04, 0.06, 0.08):
            for _ in range(2):
                draft = _strained(atoms, rng, 0.05)
                draft.positions += rng.normal(scale=scale, size=draft.positions.shape)
                drafts.append((f"rattled_{scale}", draft))
    heights = atoms.get_volume() / np.linalg.norm(_face_vectors(atoms), axis=1)
    assert heights.min() > 0.93 * MIN_HEIGHT, f"{name}: cell too thin: {heights}"
    return [f for kind, draft in drafts if (f := label(draft, kind=kind, system=name))]


def _crystal(name: str, seed: int, rng: np.random.Generator) -> Atoms:
    if name.startswith("ice"):
        return _ice(name.partition(":")[0], rng)
    if name == "urea":  # P-421m, doubled along the thin axis
        sites = [(0, 0.5, 0.328), (0, 0.5, 0.5962), (0.1459, 0.6459, 0.1766)]
        sites += [(0.2575, 0.7575, 0.2827), (0.1441, 0.6441, -0.038)]
        cell = [5.565, 5.565, 4.684, 90, 90, 90]
        unit = crystal(list("CONHH"), sites, spacegroup=113, cellpar=cell)
        return Atoms(unit.repeat((1, 1, 2)))
    return _fcc_packing(name.partition(":")[2], seed, rng)


def _fcc_packing(name: str, seed: int, rng: np.random.Generator) -> Atoms:
    """Put four molecules on an fcc lattice, long axes along the four diagonals (Pa-3).

    The true arrangement for CO2, N2 and C2H2; for the others a plausible packing.
    """
    monomer, _ = relaxed_with_modes(name, seed)
    monomer = monomer.copy()
    monomer.positions -= monomer.positions.mean(0)
    _, _, axes = np.linalg.svd(monomer.positions)
    length = max(5.6, (4 * _molecular_volume(monomer) / 0.60) ** (1 / 3))
    result = Atoms(cell=[length] * 3, pbc=True)
    sites = [(0, 0, 0), (0, 0.5, 0.5), (0.5, 0, 0.5), (0.5, 0.5, 0)]
    diagonals = [(1, 1, 1), (-1, 1, -1), (-1, -1, 1), (1, -1, -1)]
    for site, diagonal in zip(sites, diagonals, strict=True):
        placed = monomer.copy()
        placed.rotate(axes[0], diagonal)
        placed.rotate(rng.uniform(0, 360), diagonal)
        placed.positions += length * np.array(site)
        result += placed
    return result


def _ice(kind: str, rng: np.random.Generator) -> Atoms:
    """Build ice Ic (8 waters) or Ih (12 waters) with a random ice-rule proton order."""
    if kind == "ice_Ic":
        lattice = crystal(
            "O", [(0, 0, 0)], spacegroup=227, cellpar=[6.37] * 3 + [90] * 3
        )
    else:
        cell = [4.50, 4.50, 7.34, 90, 90, 120]
        unit = crystal("O", [(1 / 3, 2 / 3, 0.0625)], spacegroup=194, cellpar=cell)
        big = [[1, -1, 0], [1, 2, 0], [0, 0, 1]]
        lattice = make_supercell(unit, big)
    lattice = Atoms(lattice.numbers, lattice.positions, cell=lattice.cell, pbc=True)
    first, second, vectors = neighbor_list("ijD", lattice, 3.0)
    half = [
        k for k in range(len(first)) if _is_first_half(first[k], second[k], vectors[k])
    ]
    assert len(half) == 2 * len(lattice), "every oxygen needs four neighbors"
    forward = rng.random(len(half)) < 0.5

    def donors() -> np.ndarray:
        owner = np.where(forward, first[half], second[half])
        return np.bincount(owner, minlength=len(lattice))

    cost = ((donors() - 2) ** 2).sum()
    while cost:
        k = rng.integers(len(half))
        forward[k] ^= True
        new = ((donors() - 2) ** 2).sum()
        if new > cost:
            forward[k] ^= True
        else:
            cost = new
    result = lattice.copy()
    for is_forward, k in zip(forward, half, strict=True):
        owner, sign = (first[k], 1) if is_forward else (second[k], -1)
        bond = sign * vectors[k] / np.linalg.norm(vectors[k])
        result += Atoms("H", [lattice.positions[owner] + 0.98 * bond])
    return result


def _is_first_half(a: int, b: int, vector: np.ndarray) -> bool:
    return bool(a < b or (a == b and tuple(vector) > (0, 0, 0)))


def _random_box(members: list[str], seed: int, rng: np.random.Generator) -> Atoms:
    """Pack molecules at random into a cube at 0.48-0.66 van der Waals filling."""
    monomers = [relaxed_with_modes(name, seed) for name in members]
    volume = sum(_molecular_volume(atoms) for atoms, _ in monomers)
    length = max(5.6, (volume / rng.uniform(0.48, 0.66)) ** (1 / 3))
    contact = 0.85
    while True:
        result = Atoms(cell=[length] * 3, pbc=True)
        for atoms, modes in monomers:
            guest = displace_along_modes(atoms, modes, 300, rng)
            if not _insert(result, guest, contact, rng):
                break
            result += guest
        else:
            return result
        contact *= 0.985


def _insert(
    host: Atoms, guest: Atoms, contact: float, rng: np.random.Generator
) -> bool:
    length = host.cell[0, 0]
    radii = np.array([VDW_RADIUS[s] for s in host.get_chemical_symbols()])
    own = np.array([VDW_RADIUS[s] for s in guest.get_chemical_symbols()])
    for _ in range(60):
        guest.positions -= guest.positions.mean(0)
        random_rotation(guest, rng)
        guest.positions += rng.uniform(0, length, size=3)
        if not len(host):
            return True
        delta = host.positions[:, None] - guest.positions[None]
        delta -= length * np.round(delta / length)
        ratio = np.linalg.norm(delta, axis=-1) / (radii[:, None] + own[None])
        if ratio.min() > contact:
            return True
    return False


def _strained(atoms: Atoms, rng: np.random.Generator, size: float) -> Atoms:
    strain = rng.uniform(-size, size, size=(3, 3))
    strain = 0.5 * (strain + strain.T) + rng.uniform(-0.04, 0.06) * np.eye(3)
    result = atoms.copy()
    result.set_cell(atoms.cell @ (np.eye(3) + strain), scale_atoms=True)
    return result


def _molecular_volume(atoms: Atoms) -> float:
    """Estimate the van der Waals volume in Å^3 on a 0.25 Å grid."""
    radii = np.array([VDW_RADIUS[s] for s in atoms.get_chemical_symbols()])
    low, high = atoms.positions.min(0) - 2, atoms.positions.max(0) + 2
    axes = [np.arange(low[k], high[k], 0.25) for k in range(3)]
    grid = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 3)
    inside = np.zeros(len(grid), dtype=bool)
    for position, radius in zip(atoms.positions, radii, strict=True):
        inside |= ((grid - position) ** 2).sum(1) < radius**2
    return float(inside.sum() * 0.25**3)


def _face_vectors(atoms: Atoms) -> np.ndarray:
    a, b, c = np.asarray(atoms.cell)
    return np.array([np.cross(b, c), np.cross(c, a), np.cross(a, b)])
