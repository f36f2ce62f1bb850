"""Frames of materials: strained, rattled, with defects, surfaces, alloys and melts."""

import numpy as np
from ase import Atoms
from ase.build import make_supercell, surface
from ase.data import covalent_radii
from ase.neighborlist import neighbor_list
from materials_catalogue import (
    COVALENT,
    METALS,
    OTHERS,
    build_crystal,
    is_reference,
    list_crystals,
    split_name,
)
from runs import generator
from sevennet import label, molecular_dynamics, relax

N_ATOMS = 12  # smaller cells are doubled while they stay within it
MIN_RATIO = 0.6  # of the covalent radius sum, for what is placed at random

SURFACES = {
    "fcc": ((1, 1, 1), (1, 0, 0)),
    "bcc": ((1, 1, 0), (1, 0, 0)),
    "hcp": ((0, 0, 1),),
    "diamond": ((1, 1, 1), (1, 0, 0)),
    "rocksalt": ((1, 0, 0),),
    "zincblende": ((1, 1, 0),),
    "rutile": ((1, 1, 0),),
    "antifluorite": ((1, 1, 1),),
    "perovskite": ((1, 0, 0),),
    "cesiumchloride": ((1, 1, 0),),
    "thiophosphate": ((1, 0, 0),),
}
ALLOYS = [  # base structure and what is mixed in, in a ratio drawn per system
    *[(f"{a}:{kind}", (a, b)) for kind, pairs in {
        "fcc": "Al-Cu Al-Mg Al-Zn Al-Si Al-Li Cu-Ni Cu-Zn Cu-Ag Ag-Au Au-Pt Ni-Cr "
        "Ni-Fe Ni-Pd Pd-Ag Pt-Co Ca-Mg Co-Cr",
        "bcc": "Fe-Cr Fe-Mn Mo-W Nb-Zr Nb-V Li-Na Na-K V-Ti W-V Cr-Mo Fe-C",
        "hcp": "Ti-Al Ti-Zr Mg-Al Mg-Zn Zn-Cu Zr-Nb Ti-O Zr-O Mg-Li",
        "diamond": "Si-Ge Si-C Si-P Si-B Ge-As Ge-Sn Si-Al Si-Ga C-N",
    }.items() for pair in pairs.split() for a, b in [pair.split("-")]],
]  # fmt: skip
MELTS = [  # composition of a random packing, and Å^3 per atom
    *[(f"{s}16", v) for s, v in {
        "Si": 19, "C": 9, "Al": 18, "Cu": 12.5, "Ni": 11.8, "Fe": 12.5, "Ti": 18.5,
        "Zr": 24, "Mg": 25, "Li": 22, "Na": 40, "Ge": 22, "Ag": 18.5, "Zn": 16.5,
        "Mo": 16.5, "W": 17, "Pt": 16.5, "Ga": 19.5, "Sn": 29, "B": 8.5,
    }.items()],
    ("Li8S4", 17), ("Li12P4S16", 19), ("Li14P6S22", 20), ("P4S10", 24), ("Li6P2S8", 18),
    ("Li9P3S12", 21), ("Li6PS5Cl", 18), ("Na6P2S8", 24), ("Li6P2O8", 12),
    ("Na8Cl8", 30), ("Li8F8", 11), ("Mg8O8", 12), ("Si6O12", 16), ("Al6O9", 13),
    ("Ti5O10", 13.5), ("Ca6F12", 17), ("Li8O4", 10), ("Zr5O10", 15), ("Si8C8", 12),
    ("Ga8As8", 22), ("Al8N8", 12.5), ("B8N8", 9), ("Zn8S8", 23), ("Ge6Se12", 25),
    ("Cu6Zr10", 20), ("Al10Ni6", 14.5), ("Fe12C4", 10.8), ("Fe12B4", 10.8),
    ("Ti8Ni8", 15), ("Si10Ge6", 20.5), ("Li10Si6", 17), ("Na4Si4O10", 17),
    ("Ca3Si4O11", 15), ("K4Al4F16", 17), ("Na5Al2F11", 16), ("Li4C4O12", 11),
    ("Fe6S10", 15), ("Co6O8", 11.5), ("Mn6O9", 12), ("Ni6P3", 12), ("Mo5S10", 19),
    ("Sr3Ti3O9", 13.5), ("Ba3Cl6", 33), ("La4O6", 17),
]  # fmt: skip


def list_units() -> list[tuple[str, str]]:
    """Return (group, name) of every unit; of elements, only real structures are cut."""
    units = [("crystal", name) for name in list_crystals()]
    for name in list_crystals():
        is_odd = len(split_name(name)) == 1 and not is_reference(name)
        for miller in () if is_odd else SURFACES.get(name.partition(":")[2], ()):
            units.append(("surface", f"{name}:{''.join(map(str, miller))}"))
    units += [("alloy", f"{base}:{'-'.join(pair)}") for base, pair in ALLOYS]
    return units + [("melt", formula) for formula, _ in MELTS]


def crystal_frames(name: str, seed: int) -> list[Atoms]:
    """Return labelled frames of a crystal: volumes, strains, defects, short MD."""
    rng = generator(seed, "crystal", name)
    primitive = relax(build_crystal(name))
    drafts = [("relaxed", primitive)]
    for low, high in ((-0.05, -0.01), (0.01, 0.06)):
        drafts.append(("volume", _scaled(primitive, rng.uniform(low, high))))
    big = _repeat(primitive)
    for sigma in (0.03, 0.08, 0.15):
        drafts.append((f"rattled_{sigma}", _rattled(_strained(big, rng), sigma, rng)))
    sheared = _rattled(_strained(big, rng, 0.06), 0.05, rng)
    drafts.append(("strained", sheared))
    vacant = _strained(big, rng, 0.02)
    del vacant[int(rng.integers(len(vacant)))]
    drafts.append(("vacancy", _rattled(vacant, 0.06, rng)))
    drafts.append(("substituted", _rattled(_substituted(big, rng), 0.06, rng)))
    if len(set(big.numbers)) > 1:
        drafts.append(("swapped", _rattled(_swapped(big, rng), 0.06, rng)))
    temperature = int(rng.choice((300, 700, 1200)))
    hot = _strained(big, rng, 0.02)
    (snapshot,) = molecular_dynamics(hot, temperature, 1, 8, rng)
    drafts.append((f"md_{temperature}K", snapshot))
    # drawn apart, so that the frames before stay what they are
    rng = generator(seed, "hot", name)
    for temperature in (600, 1500):
        hot = _strained(big, rng, 0.03)
        (snapshot,) = molecular_dynamics(hot, temperature, 1, 10, rng, start=8)
        drafts.append((f"md_{temperature}K", snapshot))
    return _label_all(drafts, name)


def surface_frames(name: str, seed: int) -> list[Atoms]:
    """Return labelled frames of a slab with 10 Å of vacuum: rattled, strained, MD."""
    rng = generator(seed, "surface", name)
    base, _, miller = name.rpartition(":")
    conventional = _conventional(relax(build_crystal(base)), base)
    indices = tuple(int(n) for n in miller)
    layers = 2 if len(conventional) > 4 else 4
    slab = surface(conventional, indices, layers, vacuum=5.0, periodic=True)
    slab = Atoms(slab.numbers, slab.positions, cell=slab.cell, pbc=True)
    if len(slab) > 32:
        raise RuntimeError(f"the slab has {len(slab)} atoms")
    drafts = [("surface", slab)]
    for sigma in (0.05, 0.1):
        drafts.append(("surface_rattled", _rattled(slab, sigma, rng)))
    strained = slab.copy()
    strained.set_cell(slab.cell * (1 + rng.uniform(-0.03, 0.05)), scale_atoms=True)
    drafts.append(("surface_strained", _rattled(strained, 0.05, rng)))
    (snapshot,) = molecular_dynamics(slab, int(rng.choice((300, 800))), 1, 6, rng)
    drafts.append(("surface_md", snapshot))
    return _label_all(drafts, base)


def alloy_frames(name: str, seed: int) -> list[Atoms]:
    """Return labelled frames of random substitutional alloys in one structure."""
    rng = generator(seed, "alloy", name)
    host, kind, pair = name.split(":")
    guest = pair.split("-")[1]
    lattice = _repeat(relax(build_crystal(f"{host}:{kind}")))
    drafts = []
    for k in range(4):
        atoms = lattice.copy()
        n_guests = int(rng.integers(1, max(2, len(atoms) // 2 + 1)))
        chosen = rng.permutation(len(atoms))[:n_guests]
        symbols = np.array(atoms.get_chemical_symbols(), dtype=object)
        symbols[chosen] = guest
        atoms.set_chemical_symbols(list(symbols))
        atoms = relax(atoms, steps=5)
        drafts.append((f"alloy_{k}", atoms))
        drafts.append(
            (f"alloy_{k}_rattled", _rattled(_strained(atoms, rng), 0.08, rng))
        )
    return _label_all(drafts, f"{host}:{kind}")


def melt_frames(formula: str, seed: int) -> list[Atoms]:
    """Return labelled frames of two random packings on their way through hot MD."""
    drafts = []
    for words in ((), ("again",)):
        rng = generator(seed, "melt", formula, *words)
        atoms = _pack(formula, dict(MELTS)[formula], rng)
        calm = relax(atoms, steps=8)
        temperature = int(rng.choice((1000, 1800, 2500)))
        drafts.append(("packed", calm))
        for snapshot in molecular_dynamics(calm, temperature, 4, 6, rng, start=6):
            drafts.append((f"melt_{temperature}K", snapshot))
        drafts.append(("melt_strained", _strained(drafts[-1][1], rng, 0.04)))
    return _label_all(drafts, formula)


def shortest_contact(atoms: Atoms) -> float:
    """Return the smallest distance over the covalent radius sum, images included."""
    first, second, distances = neighbor_list("ijd", atoms, 4.0)
    if not len(distances):
        return 9.0
    radii = covalent_radii[atoms.numbers]
    return float((distances / (radii[first] + radii[second])).min())


def _label_all(drafts: list[tuple[str, Atoms]], system: str) -> list[Atoms]:
    """Label what has no contact that is far too short; the rest is not evaluated."""
    return [
        frame
        for kind, draft in drafts
        if shortest_contact(draft) > MIN_RATIO
        and (frame := label(draft, kind=kind, system=system)) is not None
    ]


def _repeat(atoms: Atoms) -> Atoms:
    """Double the shortest axis while the cell has no more than N_ATOMS atoms."""
    times = [1, 1, 1]
    while len(atoms) * np.prod(times) * 2 <= N_ATOMS:
        lengths = atoms.cell.lengths() * times
        times[int(np.argmin(lengths))] *= 2
    return atoms.repeat(times)


def _conventional(atoms: Atoms, name: str) -> Atoms:
    """Return the cubic cell of a cubic crystal, others as they are."""
    matrix = {
        "fcc": [[-1, 1, 1], [1, -1, 1], [1, 1, -1]],
        "bcc": [[0, 1, 1], [1, 0, 1], [1, 1, 0]],
    }
    kind = name.partition(":")[2]
    of_lattice = {"bcc": "bcc", "thiophosphate": "bcc"}
    for other in ("fcc", "diamond", "rocksalt", "zincblende", "antifluorite"):
        of_lattice[other] = "fcc"
    if kind not in of_lattice:
        return atoms
    return make_supercell(atoms, matrix[of_lattice[kind]])


def _scaled(atoms: Atoms, strain: float) -> Atoms:
    result = atoms.copy()
    result.set_cell(atoms.cell * (1 + strain), scale_atoms=True)
    return result


def _strained(atoms: Atoms, rng: np.random.Generator, size: float = 0.03) -> Atoms:
    strain = rng.uniform(-size, size, size=(3, 3))
    strain = 0.5 * (strain + strain.T) + rng.uniform(-0.02, 0.03) * np.eye(3)
    result = atoms.copy()
    result.set_cell(atoms.cell @ (np.eye(3) + strain), scale_atoms=True)
    return result


def _rattled(atoms: Atoms, sigma: float, rng: np.random.Generator) -> Atoms:
    result = atoms.copy()
    result.positions += rng.normal(scale=sigma, size=result.positions.shape)
    return result


def _substituted(atoms: Atoms, rng: np.random.Generator) -> Atoms:
    """Replace one atom by another element of its kind, metal by metal and so on."""
    result = atoms.copy()
    index = int(rng.integers(len(result)))
    symbol = result[index].symbol
    pool = METALS if symbol in METALS else [*COVALENT, *OTHERS]
    radius = covalent_radii[result.numbers[index]]
    near = [
        other
        for other in pool
        if other != symbol
        and abs(covalent_radii[Atoms(other).numbers[0]] - radius) < 0.3
    ]
    result[index].symbol = str(rng.choice(near))
    return result


def _swapped(atoms: Atoms, rng: np.random.Generator) -> Atoms:
    """Exchange two atoms of different elements."""
    result = atoms.copy()
    first = int(rng.integers(len(result)))
    others = np.flatnonzero(result.numbers != result.numbers[first])
    second = int(rng.choice(others))
    result.numbers[[first, second]] = result.numbers[[second, first]]
    return result


def _pack(formula: str, volume: float, rng: np.random.Generator) -> Atoms:
    """Place atoms at random in a cube, contacts as long as they can be."""
    symbols = Atoms(formula).get_chemical_symbols()
    length = (volume * len(symbols)) ** (1 / 3)
    ratio = 1.0
    while True:
        result = Atoms(cell=[length] * 3, pbc=True)
        for symbol in rng.permutation(symbols):
            for _ in range(60):
                trial = result + Atoms(str(symbol), [rng.uniform(0, length, size=3)])
                if shortest_contact(trial) > ratio:
                    break
            else:
                break
            result = trial
        if len(result) == len(symbols):
            return result
        ratio *= 0.97
