"""The scripts of the materials base: the catalogue, and a short run where sevenn is."""

import hashlib
import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from ase.data import covalent_radii
from ase.io import read
from ase.neighborlist import neighbor_list

ROOT = Path(__file__).parents[2]
BASES, DATA = ROOT / "bases", ROOT / "data"
SUMMARY = BASES / "materials_summary.json"
BUILD = BASES / "build" / "materials"


@pytest.fixture
def catalogue(monkeypatch):
    monkeypatch.syspath_prepend(str(BASES))
    return importlib.import_module("materials_catalogue")


def test_every_crystal_of_the_catalogue_is_a_plausible_cell(catalogue):
    names = catalogue.list_crystals()
    assert len(names) == len(set(names)) > 400
    for name in names:
        atoms = catalogue.build_crystal(name)
        first, second, distances = neighbor_list("ijd", atoms, 5.0)
        radii = covalent_radii[atoms.numbers]
        ratio = (distances / (radii[first] + radii[second])).min()
        assert 0.65 < ratio < 1.2, name
        assert len(atoms) <= 28, name
        assert set(atoms.get_chemical_symbols()) == set(catalogue.split_name(name))


@pytest.mark.parametrize(
    ("name", "formula", "coordination", "cutoff"),
    [  # textbook: atoms of the primitive cell, neighbours of the first element
        ("Si:diamond", "Si2", 4, 1.2),
        ("Cu:fcc", "Cu", 12, 1.2),
        ("Fe:bcc", "Fe", 8, 1.1),
        ("NaCl:rocksalt", "ClNa", 6, 1.2),
        ("CaF2:fluorite", "CaF2", 8, 1.2),
        ("Ti-O:rutile", "O4Ti2", 6, 1.2),
        ("Mg-Al-O:spinel", "Al4Mg2O8", 4, 1.2),
        ("Al-O:corundum", "Al4O6", 6, 1.25),
        ("Si-O:quartz", "O6Si3", 4, 1.2),
        ("Sr-Ti-O:perovskite", "O3SrTi", 12, 1.2),
        ("Li-P-S-Cl:argyrodite", "ClLi6PS5", 3, 1.2),
        ("Mg-Cu:laves", "Cu4Mg2", 12, 1.2),
    ],
)
def test_structure_types_are_what_their_names_say(
    catalogue, name, formula, coordination, cutoff
):
    atoms = catalogue.build_crystal(name)
    assert atoms.get_chemical_formula() == formula
    first, second, distances = neighbor_list("ijd", atoms, 5.0)
    symbols = np.array(atoms.get_chemical_symbols())
    element = catalogue.split_name(name)[0]
    is_first = first == np.flatnonzero(symbols == element)[0]
    if len(set(symbols)) > 1:
        is_first &= symbols[second] != element
    nearest = distances[is_first].min()
    assert (distances[is_first] < cutoff * nearest).sum() == coordination


def test_materials_files_match_their_summary_and_share_no_system():
    if not SUMMARY.exists() or not (BUILD / "materials_train.xyz").exists():
        pytest.skip("bases/build/materials is not made here: run bases/materials.py")
    seen = {}
    for name, entry in json.loads(SUMMARY.read_text())["files"].items():
        content = (BUILD / name).read_bytes()
        assert hashlib.sha256(content).hexdigest() == entry["sha256"], name
        for frame in read(BUILD / name, "::20"):
            assert np.isfinite(frame.get_forces()).all()
            assert np.isfinite(frame.get_stress()).all()
            elements = "-".join(sorted(set(frame.get_chemical_symbols())))
            if "-" in elements:
                assert seen.setdefault(elements, name) == name


def test_labels_passed_their_finite_difference_check():
    if not SUMMARY.exists():
        pytest.skip("bases/materials_summary.json is not made yet")
    checks = json.loads(SUMMARY.read_text())["finite_differences"]
    assert len(checks["frames"]) >= 12
    # energies are float32: 1e-5 eV of noise over 0.02 Å, or over a strain of 0.005
    assert checks["worst_force_error"] < 5e-3
    assert checks["worst_stress_error"] < 1e-4


@pytest.mark.slow
def test_a_short_materials_run_makes_labelled_frames_and_resumes(tmp_path):
    if importlib.util.find_spec("sevenn") is None:
        pytest.skip("sevenn is not installed: see bases/requirements-materials.txt")
    script = str(BASES / "materials.py")
    command = [sys.executable, script, "--limit", "3", "--out", str(tmp_path)]
    subprocess.run(command, check=True, capture_output=True)
    frames = read(tmp_path / "materials_train.xyz", ":")
    assert len(frames) > 10
    assert all(np.isfinite(f.get_stress()).all() for f in frames)
    before = (tmp_path / "materials_train.xyz").read_bytes()
    (tmp_path / "units" / "00001.xyz").unlink()
    again = subprocess.run(command, check=True, capture_output=True, text=True)
    assert "1 units in" in again.stdout
    assert (tmp_path / "materials_train.xyz").read_bytes() == before
