"""Odd structures in LAMMPS, by the engine and without: as in the calculator.

The other half of ``tests/calculator/test_routes.py``.
"""

import zipfile
import zlib

import numpy as np
import pytest
import torch
from support.models import build_model
from support.structures import build_water

from pet_calc import PETCalculator
from pet_calc.export import export_model

pytestmark = pytest.mark.lammps

DTYPES = {"float32": torch.float32, "float64": torch.float64}
ENGINES = ["on", "off"]
# Å to which the box is moved, and the length of its third side, if not its own
PLACES = {
    "at home": (0.0, None),
    "100 A away": (100.0, None),
    "1e6 A away": (1e6, None),
    "a needle": (0.0, 1e6),
    "a rod": (0.0, 3e4),
}


def move_box(path, distance, length):
    """Move the box of a data file and all in it; give it another height."""
    lines = []
    in_atoms = False
    for line in path.read_text().splitlines():
        words = line.split()
        if words[-1:] and words[-1] in ("xhi", "yhi", "zhi"):
            low, high = (float(w) + distance for w in words[:2])
            if words[-1] == "zhi" and length:
                high = low + length
            line = f"{low:.17g} {high:.17g} {' '.join(words[2:])}"
        in_atoms = in_atoms or line.startswith("Atoms")
        if in_atoms and len(words) >= 5 and words[0].isdigit():
            moved = [f"{float(w) + distance:.17g}" for w in words[2:5]]
            line = " ".join([*words[:2], *moved])
        lines.append(line)
    path.write_text("\n".join(lines) + "\n")


def build():
    atoms = build_water((2, 2, 2))
    atoms.cell[2, 2] += 6.0  # a layer with space above, the same however much
    return atoms


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory, new_batch, orient):
    folder = tmp_path_factory.mktemp("models")
    batch = new_batch()
    atoms = orient(build())
    for name, dtype in DTYPES.items():
        path = export_model(build_model(dtype=dtype), folder / f"{name}.pt")
        for engine in ENGINES:
            for place, (distance, length) in PLACES.items():
                case = f"{name}-{engine}-{place.replace(' ', '-')}"
                batch.add(case, atoms, f"{path} device cpu engine {engine}")
                move_box(batch.folder / f"{case}.data", distance, length)
    return batch.run(), atoms


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("name", DTYPES)
@pytest.mark.parametrize("place", PLACES)
def test_the_place_of_the_box_does_not_matter(place, name, engine, outcomes):
    found, atoms = outcomes
    found = found[f"{name}-{engine}-{place.replace(' ', '-')}"]
    atoms = atoms.copy()
    atoms.calc = PETCalculator(build_model(dtype=DTYPES[name]), compile=False)
    # 1e6 Å are known to 1e-10 Å; float32 to 1e-6 of 10 eV/Å
    tolerance = 1e-7 if name == "float64" else 1e-4
    np.testing.assert_allclose(found.forces, atoms.get_forces(), rtol=0, atol=tolerance)
    assert found.energy == pytest.approx(
        atoms.get_potential_energy(), abs=tolerance * len(atoms)
    )
    height = PLACES[place][1] or atoms.cell[2, 2]
    # LAMMPS divides by the volume, in bar
    virial = found.stress * height / atoms.cell[2, 2]
    np.testing.assert_allclose(virial, atoms.get_stress(), rtol=0, atol=10 * tolerance)


def test_a_damaged_file_is_refused(tmp_path, new_batch, run_and_fail):
    path = export_model(build_model(), tmp_path / "m.pt", check=False)
    content = bytearray(path.read_bytes())
    with zipfile.ZipFile(path) as archive:
        stored = [e for e in archive.infolist() if "/data/" in e.filename]
        largest = max(stored, key=lambda entry: entry.file_size)
        place = content.index(archive.read(largest)) + largest.file_size // 2
    content[place] ^= 1
    path.write_bytes(content)
    batch = new_batch()
    batch.add("water", build_water((1, 1, 1)), f"{path} device cpu")
    message = run_and_fail(batch.folder, batch.texts[0])
    assert "is damaged" in message


@pytest.mark.parametrize("part", ["code", "data"])
@pytest.mark.parametrize("is_changed", [False, True])
def test_compressed_entries_are_verified(
    part, is_changed, tmp_path, new_batch, run_and_fail
):
    path = export_model(build_model(), tmp_path / "m.pt", check=False)
    with zipfile.ZipFile(path) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    suffix = ".py" if part == "code" else ""
    name = max(
        (n for n in entries if f"/{part}/" in n and n.endswith(suffix)),
        key=lambda name: len(entries[name]),
    )
    content = entries[name]
    if is_changed:
        middle = len(content) // 2
        entries[name] = (
            content + b"\n"
            if part == "code"
            else content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]
        )
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for each, values in entries.items():
            archive.writestr(each, values)
    # as damage leaves it: the content is another, the checksum that of what was written
    new, old = (zlib.crc32(c).to_bytes(4, "little") for c in (entries[name], content))
    path.write_bytes(path.read_bytes().replace(new, old))
    batch = new_batch()
    batch.add("water", build_water((1, 1, 1)), f"{path} device cpu")
    if is_changed:
        message = run_and_fail(batch.folder, batch.texts[0])
        assert f"is damaged ({name} differs from its checksum)" in " ".join(
            message.split()
        )
    else:
        assert np.isfinite(batch.run()["water"].energy)
