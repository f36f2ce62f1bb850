import hashlib
import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from ase.io import read

ROOT = Path(__file__).parents[2]
BASES, DATA = ROOT / "bases", ROOT / "data"
DFT = DATA / "dft"
BUILD = BASES / "build"
SPLITS = ("train", "val", "test", "test_ood")


def _base_files():
    path = BASES / "base_summary.json"
    files = json.loads(path.read_text())["files"] if path.exists() else {}
    if not files or not all((BUILD / name).exists() for name in files):
        pytest.skip("bases/build is not made here: run bases/base_molecules.py")
    return files


def test_dft_files_match_their_checksums():
    files = json.loads((DFT / "summary.json").read_text())["files"]
    for name, entry in files.items():
        content = (DFT / name).read_bytes()
        assert hashlib.sha256(content).hexdigest() == entry["sha256"], name
        assert len(read(DFT / name, ":")) == entry["frames"], name


def test_every_dft_frame_has_energy_and_balanced_forces():
    for path in DFT.glob("*.xyz"):
        for frame in read(path, ":"):
            assert np.isfinite(frame.get_potential_energy())
            # the forces contain the grid's response, so they sum to zero
            assert np.abs(frame.get_forces().sum(0)).max() < 1e-5, path


def test_dft_splits_share_no_trajectory():
    seen = {}
    for split in SPLITS:
        path = DFT / f"{split}.xyz"
        for frame in read(path, ":") if path.exists() else []:
            assert seen.setdefault(frame.info["system"], split) == split


def test_dft_forces_passed_their_finite_difference_check():
    path = DFT / "checks.json"
    if not path.exists():
        pytest.skip("the check runs after the first twelve frames")
    assert json.loads(path.read_text())["worst_error"] < 2e-4


def test_dft_atoms_cover_the_elements_of_the_frames():
    atoms = read(DFT / "atoms.xyz", ":")
    assert {a.info["config_type"] for a in atoms} == {"IsolatedAtom"}
    elements = {a.get_chemical_symbols()[0] for a in atoms}
    frames = read(DFT / "train.xyz", ":")
    assert elements == {s for f in frames for s in f.get_chemical_symbols()}


def test_base_files_match_their_summary_and_share_no_system():
    seen = {}
    for name, entry in _base_files().items():
        content = (BUILD / name).read_bytes()
        assert content.count(b"Properties=") == entry["frames"], name
        for frame in read(BUILD / name, "::20"):
            assert np.isfinite(frame.get_forces()).all()
            assert ("stress" in frame.calc.results) == bool(frame.pbc.all())
            assert seen.setdefault(frame.info["system"], name) == name


def test_a_short_base_run_makes_labelled_frames_and_resumes(tmp_path):
    if importlib.util.find_spec("tblite") is None:
        pytest.skip("tblite is not installed: pip install -r bases/requirements.txt")
    script = str(BASES / "base_molecules.py")
    command = [sys.executable, script, "--limit", "3", "--out", str(tmp_path)]
    subprocess.run(command, check=True, capture_output=True)
    frames = read(tmp_path / "base_train.xyz", ":")
    assert len(frames) > 7
    assert {f.info["group"] for f in frames} >= {"atom"}
    assert all(np.isfinite(f.get_potential_energy()) for f in frames)
    before = (tmp_path / "base_train.xyz").read_bytes()
    unit = sorted((tmp_path / "units").glob("*.xyz"))[1]
    unit.unlink()
    again = subprocess.run(command, check=True, capture_output=True, text=True)
    assert "1 systems in" in again.stdout
    assert (tmp_path / "base_train.xyz").read_bytes() == before


def _identify_material(frame):
    # held out together: all structures of the same elements
    elements = sorted(set(frame.get_chemical_symbols()))
    return "-".join(elements) if len(elements) > 1 else frame.info["system"]


@pytest.mark.parametrize(
    ("kind", "identify"),
    [("base", lambda f: f.info["system"]), ("materials", _identify_material)],
    ids=["base", "materials"],
)
def test_excerpts_are_labelled_and_share_no_system(kind, identify):
    parts = [
        read(DATA / "excerpts" / f"{kind}_{s}.xyz", ":") for s in ("test", "train")
    ]
    names = [{identify(frame) for frame in part} for part in parts]
    assert min(map(len, names)) > 20
    assert not names[0] & names[1]
    for frame in parts[0] + parts[1]:
        assert np.isfinite(frame.get_potential_energy())
        assert np.isfinite(frame.get_forces()).all()
