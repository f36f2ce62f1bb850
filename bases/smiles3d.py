"""Turn a small SMILES subset into a starting geometry, with numpy and scipy only.

Only what the base data needs: atoms C N O F S Cl without brackets, branches, ring
digits, bonds - = #, implicit hydrogens, Kekulé rings, hypervalent N and S (nitro is
`N(=O)=O`, azide `N=N#N`). No charges, no stereo marks: chirality and cis/trans are
whatever the random start gives. GFN1-xTB relaxes what comes out of here.
"""

from dataclasses import dataclass, field

import numpy as np
from scipy.optimize import minimize

VALENCES = {"C": (4,), "N": (3, 5), "O": (2,), "F": (1,), "S": (2, 4, 6), "Cl": (1,)}
COVALENT_RADIUS = {
    "H": 0.31,
    "C": 0.76,
    "N": 0.71,
    "O": 0.66,
    "F": 0.60,
    "S": 1.04,
    "Cl": 1.00,
}
ORDER_SHORTENING = {1: 0.0, 2: 0.19, 3: 0.31}  # Å off the single bond
BOND_FACTOR = 1.27  # bonded below this multiple of the radius sum


@dataclass
class MolecularGraph:
    """Elements and bonds (order by sorted atom pair), hydrogens included."""

    symbols: list[str] = field(default_factory=list)
    orders: dict[tuple[int, int], int] = field(default_factory=dict)

    def neighbors(self, atom: int) -> list[int]:
        """List the atoms bonded to one atom."""
        return [b if a == atom else a for a, b in self.orders if atom in (a, b)]

    def order(self, a: int, b: int) -> int:
        """Return the bond order of a bonded pair."""
        return self.orders[min(a, b), max(a, b)]


def parse_smiles(smiles: str) -> MolecularGraph:
    """Read the SMILES subset and add the implicit hydrogens."""
    graph = MolecularGraph()
    stack: list[int | None] = []
    rings: dict[str, tuple[int, int]] = {}
    previous: int | None = None
    order, i = 1, 0
    while i < len(smiles):
        token = smiles[i : i + 2] if smiles[i : i + 2] == "Cl" else smiles[i]
        i += len(token)
        if token in VALENCES:
            graph.symbols.append(token)
            atom = len(graph.symbols) - 1
            if previous is not None:
                graph.orders[previous, atom] = order
            previous, order = atom, 1
        elif token in "-=#":
            order = "-=#".index(token) + 1
        elif token == "(":
            stack.append(previous)
        elif token == ")":
            previous = stack.pop()
        elif token.isdigit() and previous is not None:
            if token in rings:
                other, opening_order = rings.pop(token)
                pair = (min(other, previous), max(other, previous))
                graph.orders[pair] = max(order, opening_order)
            else:
                rings[token] = (previous, order)
            order = 1
        else:
            raise ValueError(f"{smiles}: '{token}' is not in the supported subset")
    if stack or rings:
        raise ValueError(f"{smiles}: unclosed branch or ring")
    _add_hydrogens(graph, smiles)
    return graph


def embed(graph: MolecularGraph, rng: np.random.Generator) -> np.ndarray:
    """Return rough positions [n_atoms, 3] in Å that satisfy the graph's distances."""
    n_atoms = len(graph.symbols)
    if n_atoms == 1:
        return np.zeros((1, 3))
    target, weight, is_floor = _distance_targets(graph)
    first, second = np.triu_indices(n_atoms, 1)
    target, weight = target[first, second], weight[first, second]
    is_floor = is_floor[first, second]

    def loss(flat: np.ndarray, squeeze: float) -> tuple[float, np.ndarray]:
        x = flat.reshape(n_atoms, -1)
        delta = x[first] - x[second]
        distance = np.sqrt((delta**2).sum(1)) + 1e-9
        error = distance - target
        error[is_floor & (error > 0)] = 0.0
        pull = (2 * weight * error / distance)[:, None] * delta
        gradient = np.zeros_like(x)
        np.add.at(gradient, first, pull)
        np.add.at(gradient, second, -pull)
        gradient[:, 3:] += 2 * squeeze * x[:, 3:]
        value = (weight * error**2).sum() + squeeze * (x[:, 3:] ** 2).sum()
        return value, gradient.ravel()

    best: tuple[float, np.ndarray] | None = None
    for _ in range(2):
        # a fourth dimension lets crossed bonds pass each other
        x = rng.normal(scale=1.5, size=(n_atoms, 4))
        for squeeze in (0.0, 0.3, 3.0):
            x = minimize(loss, x.ravel(), args=(squeeze,), jac=True, method="L-BFGS-B")
            x = x.x.reshape(n_atoms, 4)
        done = minimize(loss, x[:, :3].ravel(), args=(0.0,), jac=True)
        if best is None or done.fun < best[0]:
            best = (float(done.fun), done.x.reshape(n_atoms, 3))
    assert best is not None
    return best[1]


def bonded_pairs(symbols: list[str], positions: np.ndarray) -> set[tuple[int, int]]:
    """Return the bonds a geometry shows, as sorted atom pairs."""
    radii = np.array([COVALENT_RADIUS[s] for s in symbols])
    distances = np.linalg.norm(positions[:, None] - positions[None], axis=-1)
    close = distances < BOND_FACTOR * (radii[:, None] + radii[None])
    return {
        (int(a), int(b)) for a, b in zip(*np.nonzero(np.triu(close, 1)), strict=True)
    }


def _add_hydrogens(graph: MolecularGraph, smiles: str) -> None:
    for atom in range(len(graph.symbols)):
        used = sum(graph.order(atom, b) for b in graph.neighbors(atom))
        allowed = [v for v in VALENCES[graph.symbols[atom]] if v >= used]
        if not allowed:
            raise ValueError(f"{smiles}: atom {atom} has {used} bonds")
        for _ in range(allowed[0] - used):
            graph.symbols.append("H")
            graph.orders[atom, len(graph.symbols) - 1] = 1


def _distance_targets(
    graph: MolecularGraph,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return target distance, weight and 'is only a lower bound', each [n, n]."""
    n = len(graph.symbols)
    heavy = np.array([s != "H" for s in graph.symbols])
    target = 2.2 + 0.3 * heavy[:, None] + 0.4 * heavy[None, :]
    target = np.maximum(target, target.T)
    weight = np.full((n, n), 0.3)
    is_floor = np.ones((n, n), dtype=bool)

    def fix(a: int, b: int, value: float, strength: float) -> None:
        target[a, b] = target[b, a] = value
        weight[a, b] = weight[b, a] = strength
        is_floor[a, b] = is_floor[b, a] = False

    length = {}
    for (a, b), order in graph.orders.items():
        radii = COVALENT_RADIUS[graph.symbols[a]] + COVALENT_RADIUS[graph.symbols[b]]
        length[a, b] = length[b, a] = radii - ORDER_SHORTENING[order]
    for center in range(n):
        around = graph.neighbors(center)
        for i, a in enumerate(around):
            for b in around[i + 1 :]:
                angle = np.deg2rad(_angle(graph, a, center, b))
                la, lb = length[a, center], length[b, center]
                value = np.sqrt(la**2 + lb**2 - 2 * la * lb * np.cos(angle))
                fix(a, b, value, 0.5)
    for (a, b), value in length.items():
        fix(a, b, value, 2.0)
    return target, weight, is_floor


def _angle(graph: MolecularGraph, a: int, center: int, b: int) -> float:
    ring = _smallest_ring(graph, a, center, b)
    if ring in (3, 4):
        return (60.0, 90.0)[ring - 3]
    around = graph.neighbors(center)
    symbol = graph.symbols[center]
    orders = [graph.order(center, c) for c in around]
    if symbol in "CN" and len(around) == 2 and (3 in orders or sum(orders) >= 4):
        return 180.0
    is_planar = 2 in orders or (symbol in "NO" and _next_to_pi(graph, center))
    if is_planar and symbol != "S":
        return 108.0 if ring == 5 else 120.0
    if ring == 5:
        return 104.0
    return 109.5 if len(around) > 2 else 105.0


def _next_to_pi(graph: MolecularGraph, atom: int) -> bool:
    return any(
        graph.symbols[b] in "CN"
        and any(graph.order(b, c) > 1 for c in graph.neighbors(b))
        for b in graph.neighbors(atom)
    )


def _smallest_ring(graph: MolecularGraph, a: int, center: int, b: int) -> int:
    """Return the size of the smallest ring through a-center-b, 0 for none."""
    frontier, seen, size = {a}, {a, center}, 2
    while frontier:
        size += 1
        frontier = {c for f in frontier for c in graph.neighbors(f)} - seen
        if b in frontier:
            return size
        seen |= frontier
    return 0
