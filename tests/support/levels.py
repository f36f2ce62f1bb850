"""Data sets at two levels of theory."""

import ase.io
import yaml
from support.frames import build_frames

from pet_calc.config import read_options

SHIFT = 7.0  # eV an atom between the levels


def write_levels(folder):
    """Three files: one level each, and one whose frames have both."""
    for name, seed, levels in (("a", 0, "a"), ("b", 1, "b"), ("both", 2, "ab")):
        frames = []
        for atoms in build_frames(9, seed=seed):
            energy, forces = atoms.get_potential_energy(), atoms.get_forces()
            atoms.calc = None
            if "a" in levels:
                atoms.info["e_a"] = energy
                atoms.arrays["f_a"] = forces
            if "b" in levels:
                atoms.info["e_b"] = 1.5 * energy + SHIFT * len(atoms)
                atoms.arrays["f_b"] = 1.5 * forces
            frames.append(atoms)
        ase.io.write(folder / f"{name}.xyz", frames)


def read_both(folder):
    """The data set whose frames have both levels, from the file that is there."""
    values = {
        "systems": str(folder / "both.xyz"),
        "targets": {
            f"energy/{n}": {"key": f"e_{n}", "forces": {"key": f"f_{n}"}} for n in "ab"
        },
    }
    options = {"training_set": values}
    (folder / "both.yaml").write_text(yaml.safe_dump(options))
    return read_options(folder / "both.yaml").training_set[0]
