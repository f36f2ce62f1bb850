"""LAMMPS dumps: frame by frame, and never with types taken for atomic numbers."""

import gzip

import ase.build
import numpy as np
import pytest
from support.frames import build_frames

from pet_calc.data.files import iterate_atoms
from pet_calc.errors import DataError


def write_dump(path, frames, elements=None, *, columns="id type x y z"):
    """Write frames as LAMMPS does; types are in the order of ``elements``."""
    names = elements or sorted({s for atoms in frames for s in atoms.symbols})
    lines = []
    for step, atoms in enumerate(frames):
        sizes = atoms.cell.lengths() if atoms.pbc.all() else np.full(3, 30.0)
        lines += ["ITEM: TIMESTEP", str(10 * step), "ITEM: NUMBER OF ATOMS"]
        kind = "pp pp pp" if atoms.pbc.all() else "ff ff ff"
        lines += [str(len(atoms)), f"ITEM: BOX BOUNDS {kind}"]
        lines += [f"0.0 {size:.10f}" for size in sizes]
        lines.append(f"ITEM: ATOMS {columns}")
        # LAMMPS leaves atoms in any order
        for i in reversed(range(len(atoms))):
            symbol = atoms.symbols[i]
            values = {"id": i + 1, "type": names.index(symbol) + 1, "element": symbol}
            values |= dict(zip("xyz", atoms.positions[i], strict=True))
            lines.append(" ".join(str(values[name]) for name in columns.split()))
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.fixture
def frames():
    return [atoms for atoms in build_frames(4) if atoms.pbc.all()]


@pytest.fixture
def waters():
    return [atoms for atoms in build_frames(6) if not atoms.pbc.any()]


def test_types_get_the_elements_that_are_named(tmp_path, waters):
    path = write_dump(tmp_path / "md.lammpstrj", waters, ["O", "H"])
    found = [read.atoms for read in iterate_atoms(path, elements=("O", "H"))]
    assert len(found) == len(waters)
    for one, other in zip(found, waters, strict=True):
        assert str(one.symbols) == str(other.symbols)
        np.testing.assert_allclose(one.positions, other.positions, atol=1e-12)


def test_types_without_elements_are_refused(tmp_path, waters):
    """They were taken for atomic numbers: oxygen became hydrogen."""
    path = write_dump(tmp_path / "md.dump", waters, ["O", "H"])
    with pytest.raises(DataError, match=r"md.dump, frame 0, line 1: .*--elements O,H"):
        list(iterate_atoms(path))


def test_a_column_of_elements_is_enough(tmp_path, waters, frames):
    path = write_dump(
        tmp_path / "md.dump", [*waters, *frames], columns="id type element x y z"
    )
    found = [read.atoms for read in iterate_atoms(path)]
    assert [str(a.symbols) for a in found] == [
        str(a.symbols) for a in [*waters, *frames]
    ]
    assert found[-1].pbc.all()
    np.testing.assert_allclose(found[-1].cell, frames[-1].cell, atol=1e-9)


def test_a_type_beyond_the_elements_is_named(tmp_path, waters):
    path = write_dump(tmp_path / "md.dump", waters, ["O", "H"])
    with pytest.raises(
        DataError, match="atoms of type 2, and elements of types 1 to 1"
    ):
        list(iterate_atoms(path, elements=("O",)))
    with pytest.raises(DataError, match=r"expected a chemical element .* got 'Xx'"):
        list(iterate_atoms(path, elements=("O", "Xx")))


def test_a_frame_that_is_cut_off_is_named_and_those_before_can_be_read(
    tmp_path, waters
):
    path = write_dump(tmp_path / "md.dump", waters, ["O", "H"])
    text = path.read_text()
    elements = ("O", "H")
    last = len(waters) - 1
    # within a line, at the end of one, before the atoms
    ends = [len(text) - 20, text.rstrip().rfind("\n"), text.rfind("ITEM: BOX")]
    for end in ends:
        path.write_text(text[:end])
        with pytest.raises(DataError, match=f"md.dump, frame {last}, .*ends within it"):
            list(iterate_atoms(path, elements=elements))
    before = list(iterate_atoms(f"{path}@:{last}", elements=elements))
    assert len(before) == last


def test_frames_are_read_as_they_are_needed(tmp_path, waters):
    path = write_dump(tmp_path / "md.dump", waters, ["O", "H"])
    path.write_text(path.read_text() + "ITEM: TIMESTEP\nnonsense\n")
    reads = iterate_atoms(path, elements=("O", "H"))
    assert len(next(reads).atoms) == 3


def test_compressed_dumps_are_read(tmp_path, waters):
    path = write_dump(tmp_path / "md.dump", waters, ["O", "H"])
    packed = tmp_path / "md.lammpstrj.gz"
    packed.write_bytes(gzip.compress(path.read_bytes()))
    assert len(list(iterate_atoms(packed, elements=("O", "H")))) == len(waters)


def test_elements_do_not_matter_to_other_files(tmp_path):
    path = tmp_path / "a.xyz"
    ase.build.molecule("H2O").write(path)
    (read,) = iterate_atoms(path, elements=("C",))
    assert str(read.atoms.symbols) == "OH2"
