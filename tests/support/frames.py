"""Small labelled sets, and stand-ins for a base, that many tests share."""

from pathlib import Path

import ase.build
import ase.io
import numpy as np
import pytest
from ase.calculators.emt import EMT
from ase.calculators.singlepoint import SinglePointCalculator

from pet_calc.data.frames import LabeledFrame, read_frames
from pet_calc.evaluate.predict import FramePrediction

SHARED_DATA = Path(__file__).resolve().parents[3] / "shared" / "data"


def read_shared(name, index=":"):
    """Frames of a public reference file, or skip."""
    path = SHARED_DATA / name
    if not path.is_file():
        pytest.skip(f"reference data is not here: {path}")
    return read_frames(path, index=index)


def build_labelled(n_frames=16, *, seed=0, strain=0.03, name="al.xyz"):
    """Strained, rattled aluminium with one copper, labelled by EMT."""
    rng = np.random.default_rng(seed)
    frames = []
    for i in range(n_frames):
        atoms = ase.build.bulk("Al", "fcc", 4.05, cubic=True)
        atoms.numbers[0] = 29
        change = rng.uniform(-strain, strain, (3, 3))
        atoms.set_cell(atoms.cell @ (np.eye(3) + change + change.T), scale_atoms=True)
        atoms.positions += rng.uniform(0.01, 0.1) * rng.standard_normal((4, 3))
        atoms.calc = EMT()
        frames.append(
            LabeledFrame.from_atoms(atoms, source=f"{name}, frame {i}").relabel(
                energy=atoms.get_potential_energy(),
                forces=atoms.get_forces(),
                stress=atoms.get_stress(voigt=False),
            )
        )
    return frames


def predict_as(frames, truth=None, *, noise=0.0, soft=1.0, seed=1):
    """What a base would say that knows ``truth`` up to relative noise and softness."""
    rng = np.random.default_rng(seed)
    truth = frames if truth is None else truth

    def size_of(name):
        values = [getattr(f, name) for f in truth if getattr(f, name) is not None]
        return np.sqrt(np.mean(np.concatenate([np.ravel(v) for v in values]) ** 2))

    def disturb(values, size):
        values = np.asarray(values)
        return soft * (values + noise * size * rng.standard_normal(values.shape))

    energies = [f.energy for f in truth if f.energy is not None]
    force_size = size_of("forces")
    predictions = []
    for frame, real in zip(frames, truth, strict=True):
        stress = None
        if real.stress is not None:
            stress = disturb(real.stress, size_of("stress"))
            stress = 0.5 * (stress + stress.T)
        energy = float(disturb(real.energy or 0.0, np.std(energies)))
        forces = disturb(real.forces, force_size)
        predictions.append(FramePrediction(frame, energy, forces, stress))
    return predictions


def scale(frames, *, energy=1.0, forces=1.0, stress=1.0):
    """The frames with labels multiplied."""
    return [
        f.relabel(
            energy=None if f.energy is None else energy * f.energy,
            forces=None if f.forces is None else forces * f.forces,
            stress=None if f.stress is None else stress * f.stress,
        )
        for f in frames
    ]


def get_codes(findings, severity=None):
    """The codes of findings, all or those of one severity."""
    return {f.code for f in findings if severity in (None, f.severity)}


def find(findings, code):
    """The one finding of a code."""
    found = [finding for finding in findings if finding.code == code]
    assert len(found) == 1, findings
    return found[0]


N_FRAMES = 12


def build_frames(n_frames=N_FRAMES, seed=0):
    """Rattled aluminium cells (with stress) and molecules, labelled by ASE's EMT."""
    frames = []
    rng = np.random.default_rng(seed)
    for i in range(n_frames):
        if i % 3:
            atoms = ase.build.molecule("H2O")
        else:
            atoms = ase.build.bulk("Al", "fcc", 4.05, cubic=True)
            atoms.set_cell(atoms.cell * rng.uniform(0.97, 1.03), scale_atoms=True)
        atoms.positions += 0.05 * rng.standard_normal(atoms.positions.shape)
        atoms.calc = EMT()
        results = {"energy": atoms.get_potential_energy(), "forces": atoms.get_forces()}
        if atoms.pbc.all():
            results["stress"] = atoms.get_stress()
        atoms.calc = SinglePointCalculator(atoms, **results)
        frames.append(atoms)
    return frames


def write_frames(folder, n_frames=N_FRAMES, seed=0, name="train.xyz"):
    """Write the frames; return the file's name."""
    path = folder / name
    ase.io.write(path, build_frames(n_frames, seed))
    return str(path)
