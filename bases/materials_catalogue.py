"""The crystals of the materials base: structure types and the compounds given them.

Lattice constants here are only where a relaxation starts; compounds that do not exist
in a type, or relax away from it, are as welcome as real ones.
"""

from ase import Atoms
from ase.build import bulk
from ase.data import atomic_numbers, covalent_radii, reference_states
from ase.spacegroup import crystal

METALS = [
    "Li", "Na", "K", "Mg", "Ca", "Sr", "Ba", "La", "Al", "Ga", "In", "Sn", "Ti", "Zr",
    "V", "Nb", "Mo", "W", "Cr", "Mn", "Fe", "Co", "Ni", "Cu", "Zn", "Pd", "Ag", "Pt",
    "Au",
]  # fmt: skip
COVALENT = ["C", "Si", "Ge"]
OTHERS = ["B", "N", "O", "F", "P", "S", "Cl", "As", "Se"]
# large cations, whose covalent radii are too large for their compounds
CATIONS = [
    "Li", "Na", "K", "Mg", "Ca", "Sr", "Ba", "La", "Ti", "Zr", "V", "Nb", "Mo", "W",
    "Cr", "Mn",
]  # fmt: skip

BINARIES = {
    "rocksalt": "LiF LiCl NaF NaCl KF KCl AgCl MgO CaO SrO BaO TiO VO MnO FeO CoO NiO "
    "MgS CaS BaS MnS CaSe TiC ZrC NbC VC TiN ZrN NbN VN CrN AlN SiC ZnO",
    "zincblende": "SiC BN BP AlP AlAs AlN GaN GaP GaAs InP InAs ZnO ZnS ZnSe CuCl GeC "
    "MnS SiGe",
    "wurtzite": "AlN GaN InN ZnO ZnS SiC BN",
    "cesiumchloride": "NiAl FeAl CoAl CoTi FeTi NiTi CuZn LiAg MgAg AuZn AgZn PdAl "
    "PdTi CaPd NaCl MgLa LiPd NiGa FeCo",
    "fluorite": "CaF2 SrF2 BaF2 ZrO2 CoSi2 NiSi2 PtAl2 AuAl2",
    "antifluorite": "Li2O Na2O K2O Li2S Na2S K2S Li2Se Mg2Si Mg2Ge Mg2Sn",
}
TERNARIES = {  # type: compounds as A B C ... in the order of the type's sites
    "rutile": "Ti-O Sn-O Ge-O Mn-O V-O Nb-O Cr-O Mg-F Zn-F Fe-F Mn-F Si-O Ca-Cl Zn-Cl",
    "corundum": "Al-O Cr-O Fe-O Ti-O V-O Ga-O In-O Mn-O",
    "perovskite": "Sr-Ti-O Ba-Ti-O Ca-Ti-O Ba-Zr-O Sr-Zr-O La-Al-O K-Nb-O Na-Nb-O "
    "La-Mn-O La-Fe-O La-Co-O Sr-V-O Ca-Si-O K-Mg-F Na-Mg-F K-Mn-F Cl-O-Li Cl-O-Na "
    "Mg-C-Ni Sn-N-Mn Fe-N-Fe Al-C-Fe",
    "spinel": "Mg-Al-O Zn-Al-O Li-Mn-O Li-Ti-O Co-Co-O Fe-Fe-O Mn-Mn-O Mg-Cr-O Zn-Fe-O "
    "Ni-Fe-O Mg-In-S",
    "layered": "Li-Co-O Li-Ni-O Li-Mn-O Na-Co-O Na-Cr-O Li-Ti-S Cu-Al-O Na-Fe-O",
    "molybdenite": "Mo-S W-S Mo-Se Nb-S Ti-S",
    "l12": "Ni-Al Cu-Au Ni-Fe Al-Zr Fe-Pt Ni-Ga Ni-Si Cu-Pt Pd-Sn Al-Ti Ag-Mg",
    "l10": "Ti-Al Fe-Pt Co-Pt Cu-Au Fe-Pd Ni-Pt Mn-Ni",
    "heusler": "Fe-Fe-Al Fe-Fe-Si Cu-Mn-Al Ni-Mn-Ga Co-Fe-Si Ni-Ti-Al Fe-V-Al",
    "half_heusler": "Ni-Ti-Sn Ni-Zr-Sn Co-Nb-Sn Zn-Li-As Mg-Li-P Co-Ti-As",
    "laves": "Mg-Cu Zr-Cr Ca-Al La-Ni Zr-V Nb-Cr K-Na Ti-Co",
    "a15": "Nb-Sn V-Si Nb-Al Cr-Si Nb-Ge",
    "b20": "Fe-Si Co-Si Mn-Si Cr-Si Cr-Ge",
    "nickeline": "Fe-S Ni-As Co-S Ti-S V-S Mn-As Ni-S",
    "pyrite": "Fe-S Co-S Ni-S Mn-S Pt-P",
    "diboride": "Ti-B Mg-B Zr-B Al-B Nb-B",
    "hexaboride": "La-B Ca-B Ba-B",
    "carbide": "W-C Mo-C W-N Nb-N",
    "quartz": "Si-O Ge-O",
    "cristobalite": "Si-O Ge-O Si-S Zn-Cl",
    "rhenium_oxide": "W-O Al-F Fe-F Mo-O",
    "cuprite": "Cu-O Ag-O",
    "chalcopyrite": "Cu-Ga-S Cu-In-Se Ag-Ga-S Zn-Si-P Zn-Ge-P Li-Ga-S Cu-Fe-S",
    "calcite": "Ca-C-O Mg-C-O Na-N-O Li-N-O Zn-C-O Fe-C-O",
    "nitride": "Li-N Na-P",
    "thiophosphate": "Li-P-S Na-P-S K-P-S Li-As-S Na-P-Se Li-P-O Na-P-O Li-Si-S "
    "Na-Sn-S",
    "enargite": "Li-P-S Li-P-O Li-As-S Na-P-O Cu-P-S Li-Ge-S",
    "argyrodite": "Li-P-S-Cl Li-P-Se-Cl Li-P-S-F Li-As-S-Cl",
    "olivine": "Li-Fe-P-O Li-Mn-P-O Li-Co-P-O",
    "max_phase": "Ti-Al-C Cr-Al-C V-Al-C Nb-Sn-C Ti-Al-N",
}


def list_crystals() -> list[str]:
    """Return the names of all crystals, ``composition:type``."""
    names = [f"{s}:{kind}" for s in METALS for kind in ("fcc", "bcc", "hcp")]
    names += [f"{s}:{k}" for s in COVALENT for k in ("diamond", "fcc", "bcc", "sc")]
    names += ["C:graphite", "C:lonsdaleite", "Sn:diamond", "Sn:beta_tin"]
    names += ["Si:beta_tin", "Ge:beta_tin", "B:alpha", "P:black", "As:gray", "P:sc"]
    names += ["As:sc", "Se:chain", "S:chain", "B:fcc", "B:diamond", "P:gray"]
    names += [f"{s}:{k}" for k, listed in BINARIES.items() for s in listed.split()]
    names += ["BN:graphitic"]
    names += [f"{s}:{k}" for k, listed in TERNARIES.items() for s in listed.split()]
    return names


def split_name(name: str) -> list[str]:
    """Return the elements in a crystal's name, in order."""
    composition = name.partition(":")[0].replace("-", "")
    return list(dict.fromkeys(Atoms(composition).get_chemical_symbols()))


def is_reference(name: str) -> bool:
    """Return whether this is the structure in which an element is found."""
    symbol, _, kind = name.partition(":")
    if symbol not in METALS:
        return name in ("C:diamond", "C:graphite", "Si:diamond", "Ge:diamond")
    return (reference_states[atomic_numbers[symbol]] or {}).get("symmetry") == kind


def build_crystal(name: str) -> Atoms:
    """Return the primitive cell with a guessed lattice constant."""
    composition, _, kind = name.partition(":")
    if kind in BINARIES or composition == "BN":
        return _build_binary(composition, kind)
    if kind in TERNARIES:
        symbols = composition.split("-")
        return _TYPES[kind](*symbols)
    return _build_element(composition, kind)


def _build_element(symbol: str, kind: str) -> Atoms:
    nearest = 2.0 * _radius(symbol)
    if kind in ("fcc", "bcc", "hcp", "sc", "diamond"):
        ratio = {"fcc": 2**0.5, "bcc": 2 / 3**0.5, "hcp": 1.0, "sc": 1.0}
        length = nearest * ratio.get(kind, 4 / 3**0.5)
        return bulk(symbol, kind, length)
    if kind == "graphite":
        return _make([symbol] * 2, [(0, 0, 0.25), (1 / 3, 2 / 3, 0.25)], 194,
                     (2.46, 2.46, 6.7, 90, 90, 120))  # fmt: skip
    if kind == "lonsdaleite":
        return _make([symbol], [(1 / 3, 2 / 3, 0.063)], 194,
                     (2.51, 2.51, 4.17, 90, 90, 120))  # fmt: skip
    if kind == "beta_tin":
        a = nearest * 2.06
        return _make([symbol], [(0, 0, 0)], 141, (a, a, 0.546 * a, 90, 90, 90))
    if kind == "alpha":
        sites = [(0.1187, -0.1187, 0.8914), (0.1968, -0.1968, 0.0243)]
        return _make([symbol] * 2, sites, 166, (4.91, 4.91, 12.57, 90, 90, 120))
    if kind == "black":
        return _make(
            [symbol], [(0, 0.1034, 0.0806)], 64, (3.31, 10.48, 4.38, 90, 90, 90)
        )
    if kind == "gray":
        a = nearest * 1.55
        return _make([symbol], [(0, 0, 0.227)], 166, (a, a, 2.8 * a, 90, 90, 120))
    assert kind == "chain", kind
    a = nearest * 1.85
    return _make([symbol], [(0.225, 0, 1 / 3)], 152, (a, a, 1.14 * a, 90, 90, 120))


def _build_binary(composition: str, kind: str) -> Atoms:
    first, second = split_name(composition)
    bond = _bond(first, second)
    if kind == "graphitic":
        sites = [(1 / 3, 2 / 3, 0.25), (1 / 3, 2 / 3, 0.75)]
        return _make([first, second], sites, 194, (2.51, 2.51, 6.7, 90, 90, 120))
    if kind == "rocksalt":
        return bulk(first + second, kind, 2.0 * bond * 1.04)
    if kind == "zincblende":
        return bulk(first + second, kind, 4 / 3**0.5 * bond)
    if kind == "wurtzite":
        return bulk(first + second, kind, bond * (8 / 3) ** 0.5)
    if kind == "cesiumchloride":
        return bulk(first + second, kind, 2 / 3**0.5 * bond)
    cation, anion = (first, second) if kind == "fluorite" else (second, first)
    return _make([cation, anion], [(0, 0, 0), (0.25, 0.25, 0.25)], 225,
                 (4 / 3**0.5 * bond * 1.03,) * 3 + (90, 90, 90))  # fmt: skip


def _radius(symbol: str) -> float:
    return float(covalent_radii[atomic_numbers[symbol]])


def _bond(first: str, second: str) -> float:
    return sum(_radius(s) * (0.87 if s in CATIONS else 1.0) for s in (first, second))


def _make(symbols: list[str], sites: list, group: int, cell: tuple) -> Atoms:
    atoms = crystal(
        symbols, sites, spacegroup=group, cellpar=cell, primitive_cell=True,
        symprec=1e-3, onduplicates="keep",
    )  # fmt: skip
    return Atoms(atoms.numbers, atoms.positions, cell=atoms.cell, pbc=True)


def _cubic(symbols: list[str], sites: list, group: int, length: float) -> Atoms:
    return _make(symbols, sites, group, (length, length, length, 90, 90, 90))


def _hexagonal(
    symbols: list[str], sites: list, group: int, a: float, c: float
) -> Atoms:
    return _make(symbols, sites, group, (a, a, c, 90, 90, 120))


def _rutile(m: str, x: str) -> Atoms:
    a = 2.33 * _bond(m, x) * 1.02
    return _make([m, x], [(0, 0, 0), (0.305, 0.305, 0)], 136,
                 (a, a, 0.65 * a, 90, 90, 90))  # fmt: skip


def _corundum(m: str, x: str) -> Atoms:
    a = 2.5 * _bond(m, x)
    return _hexagonal([m, x], [(0, 0, 0.352), (0.306, 0, 0.25)], 167, a, 2.73 * a)


def _perovskite(a: str, b: str, x: str) -> Atoms:
    sites = [(0, 0, 0), (0.5, 0.5, 0.5), (0.5, 0.5, 0)]
    length = max(2.0 * _bond(b, x), 2**0.5 * _bond(a, x) * 0.98)
    return _cubic([a, b, x], sites, 221, length)


def _spinel(a: str, b: str, x: str) -> Atoms:
    sites = [(0, 0, 0), (5 / 8,) * 3, (0.387,) * 3]
    return _cubic([a, b, x], sites, 227, 4.15 * _bond(b, x))


def _layered(a: str, m: str, x: str) -> Atoms:
    length = 1.42 * _bond(m, x)
    is_linear = a == "Cu"  # delafossite: O-Cu-O dumbbells
    sites = [(0, 0, 0), (0, 0, 0.5), (0, 0, 0.11 if is_linear else 0.24)]
    return _hexagonal([a, m, x], sites, 166, length, length * (5.9 if is_linear else 5))


def _molybdenite(m: str, x: str) -> Atoms:
    a = 1.33 * _bond(m, x)
    sites = [(1 / 3, 2 / 3, 0.25), (1 / 3, 2 / 3, 0.621)]
    return _hexagonal([m, x], sites, 194, a, 3.87 * a)


def _thiophosphate(a: str, p: str, s: str) -> Atoms:
    """PS4 tetrahedra on a bcc lattice, cations between (cubic Na3PS4)."""
    bond = _bond(p, s)
    length = 3.35 * bond if a == "Na" else (3.1 if a == "Li" else 3.7) * bond
    x = bond / length / 3**0.5
    return _cubic([p, s, a], [(0, 0, 0), (x, x, x), (0, 0.5, 0.5)], 217, length)


def _enargite(a: str, p: str, s: str) -> Atoms:
    """Gamma-Li3PS4: tetrahedra in hexagonally packed sulfur."""
    scale = _bond(p, s) / 2.05 * (1.12 if a == "Na" else 1.0)
    sites = [
        (0.244, 0.328, 0.007), (0, 0.155, 0.491), (0, 0.819, 0), (0.220, 0.669, 0.885),
        (0, 0.818, 0.331), (0, 0.113, 0.890),
    ]  # fmt: skip
    cell = (7.71 * scale, 6.54 * scale, 6.14 * scale, 90, 90, 90)
    return _make([a, a, p, s, s, s], sites, 31, cell)


def _argyrodite(a: str, p: str, s: str, x: str) -> Atoms:
    """Li6PS5Cl with lithium on the ordered half of its sites."""
    sites = [(0.25, 0.018, 0.25), (0, 0, 0.5), (0.118, 0.118, 0.618),
             (0.25, 0.25, 0.75), (0, 0, 0)]  # fmt: skip
    return _cubic([a, p, s, s, x], sites, 216, 4.78 * _bond(p, s))


def _olivine(a: str, m: str, p: str, o: str) -> Atoms:
    sites = [
        (0, 0, 0), (0.282, 0.25, 0.975), (0.095, 0.25, 0.418), (0.097, 0.25, 0.743),
        (0.457, 0.25, 0.206), (0.166, 0.046, 0.285),
    ]  # fmt: skip
    return _make([a, m, p, o, o, o], sites, 62, (10.33, 6.01, 4.69, 90, 90, 90))


def _max_phase(m: str, a: str, x: str) -> Atoms:
    length = 1.43 * _bond(m, x)
    sites = [(1 / 3, 2 / 3, 0.084), (1 / 3, 2 / 3, 0.75), (0, 0, 0)]
    return _hexagonal([m, a, x], sites, 194, length, 4.45 * length)


def _calcite(m: str, c: str, o: str) -> Atoms:
    a = 2.12 * _bond(m, o)
    sites = [(0, 0, 0), (0, 0, 0.25), (1.29 / a, 0, 0.25)]
    return _hexagonal([m, c, o], sites, 167, a, 3.4 * a)


def _chalcopyrite(a: str, b: str, x: str) -> Atoms:
    length = 4 / 3**0.5 * _bond(b, x)
    sites = [(0, 0, 0), (0, 0, 0.5), (0.25, 0.25, 0.125)]
    return _make([a, b, x], sites, 122, (length, length, 1.95 * length, 90, 90, 90))


def _heusler(y: str, z: str, x: str) -> Atoms:
    sites = [(0.25, 0.25, 0.25), (0, 0, 0), (0.5, 0.5, 0.5)]
    return _cubic([y, z, x], sites, 225, 4 / 3**0.5 * 1.08 * _bond(y, x))


_TYPES = {
    "rutile": _rutile,
    "corundum": _corundum,
    "perovskite": _perovskite,
    "spinel": _spinel,
    "layered": _layered,
    "molybdenite": _molybdenite,
    "thiophosphate": _thiophosphate,
    "enargite": _enargite,
    "argyrodite": _argyrodite,
    "olivine": _olivine,
    "max_phase": _max_phase,
    "calcite": _calcite,
    "chalcopyrite": _chalcopyrite,
    "heusler": _heusler,
    "half_heusler": lambda y, z, x: _cubic(
        [y, z, x], [(0.25,) * 3, (0, 0, 0), (0.5,) * 3], 216,
        4 / 3**0.5 * 1.0 * _bond(y, x),
    ),
    "l12": lambda a, b: _cubic([a, b], [(0, 0.5, 0.5), (0, 0, 0)], 221,
                               2**0.5 * _bond(a, b)),
    "l10": lambda a, b: _make(
        [a, b], [(0, 0, 0), (0.5, 0.5, 0.5)], 123,
        (_bond(a, b), _bond(a, b), 2**0.5 * _bond(a, b), 90, 90, 90),
    ),
    "laves": lambda a, b: _cubic([a, b], [(0, 0, 0), (5 / 8,) * 3], 227,
                                 4.2 * max(1.35 * _radius(b), _radius(a))),
    "a15": lambda a, b: _cubic([a, b], [(0.25, 0, 0.5), (0, 0, 0)], 223,
                               1.8 * _bond(a, b)),
    "b20": lambda a, b: _cubic([a, b], [(0.137,) * 3, (0.842,) * 3], 198,
                               1.87 * _bond(a, b)),
    "nickeline": lambda a, b: _hexagonal(
        [a, b], [(0, 0, 0), (1 / 3, 2 / 3, 0.25)], 194, 1.45 * _bond(a, b),
        2.2 * _bond(a, b),
    ),
    "pyrite": lambda a, b: _cubic([a, b], [(0, 0, 0), (0.385,) * 3], 205,
                                  2.4 * _bond(a, b)),
    "diboride": lambda a, b: _hexagonal(
        [a, b], [(0, 0, 0), (1 / 3, 2 / 3, 0.5)], 191, 3.08, 3.3
    ),
    "hexaboride": lambda a, b: _cubic([a, b], [(0, 0, 0), (0.2, 0.5, 0.5)], 221, 4.18),
    "carbide": lambda a, b: _hexagonal(
        [a, b], [(0, 0, 0), (1 / 3, 2 / 3, 0.5)], 187, 1.34 * _bond(a, b),
        1.3 * _bond(a, b),
    ),
    "quartz": lambda a, b: _hexagonal(
        [a, b], [(0.47, 0, 1 / 3), (0.413, 0.266, 0.214)], 152, 2.85 * _bond(a, b),
        3.15 * _bond(a, b),
    ),
    "cristobalite": lambda a, b: _cubic([a, b], [(0, 0, 0), (1 / 8,) * 3], 227,
                                        8 / 3**0.5 * 0.96 * _bond(a, b)),
    "rhenium_oxide": lambda a, b: _cubic([a, b], [(0, 0, 0), (0.5, 0, 0)], 221,
                                         2.0 * _bond(a, b)),
    "cuprite": lambda a, b: _cubic([a, b], [(0.25,) * 3, (0, 0, 0)], 224,
                                   4 / 3**0.5 * _bond(a, b)),
    "nitride": lambda a, b: _hexagonal(
        [a, a, b], [(0, 0, 0.5), (1 / 3, 2 / 3, 0), (0, 0, 0)], 191, 3.65 *
        _bond(a, b) / 1.82, 3.87 * _bond(a, b) / 1.82,
    ),
}  # fmt: skip
