"""Make the odd files of this folder anew: python tests/odd_files/make.py."""

import gzip
from io import StringIO
from pathlib import Path

import ase.db
import ase.io
import numpy as np
from ase.build import molecule
from ase.calculators.emt import EMT
from ase.calculators.singlepoint import SinglePointCalculator

HERE = Path(__file__).resolve().parent


def build(n_frames=8, *, seed=0, box=None):
    """Rattled water, labelled by EMT."""
    frames = []
    rng = np.random.default_rng(seed)
    for _ in range(n_frames):
        atoms = molecule("H2O")
        atoms.positions = np.round(
            atoms.positions + 0.05 * rng.standard_normal((3, 3)), 4
        )
        if box:
            atoms.set_cell([box] * 3)
            atoms.pbc = True
        atoms.calc = EMT()
        results = {
            "energy": round(float(atoms.get_potential_energy()), 6),
            "forces": np.round(atoms.get_forces(), 6),
        }
        if box:
            results["stress"] = np.round(atoms.get_stress(), 8)
        atoms.calc = SinglePointCalculator(atoms, **results)
        frames.append(atoms)
    return frames


def to_text(frames):
    text = StringIO()
    ase.io.write(text, frames, format="extxyz")
    return text.getvalue()


def write(name, content):
    path = HERE / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())


def change(edit, **options):
    """Return the text of frames after ``edit(atoms, results, number)``."""
    frames = build(**options)
    for i, atoms in enumerate(frames):
        results = dict(atoms.calc.results)
        atoms.calc = None
        edit(atoms, results, i)
        if results:
            atoms.calc = SinglePointCalculator(atoms, **results)
    return to_text(frames)


def give_info(**values):
    def edit(atoms, results, i):
        atoms.info |= values

    return edit


def fix(atoms, results, i):
    results["forces"][2] = 0.0


def break_labels(atoms, results, i):
    if i == 3:
        results["forces"] = results["forces"].copy()
        results["forces"][0, 0] = np.nan
    if i == 5:
        results["energy"] = np.inf


def weigh(atoms, results, i):
    if i in (2, 5):
        atoms.info["config_weight"] = 0
        results["energy"] = 1e6


def predict(atoms, results, i):
    atoms.info |= {"pet_energy": results.pop("energy"), "pet_model": "a.ckpt"}
    atoms.arrays["pet_forces"] = results.pop("forces")


def predict_beside(atoms, results, i):
    atoms.info |= {"pet_energy": -1.0, "pet_model": "a.ckpt"}


def name_odd(atoms, results, i):
    atoms.info["dft_energy"] = results.pop("energy")
    atoms.arrays["dft_forces"] = results.pop("forces")


def mix(atoms, results, i):
    if i % 2:
        atoms.info["REF_energy"] = results.pop("energy")


def name_virial(atoms, results, i):
    atoms.info["Virial"] = results.pop("stress") * -atoms.get_volume()


def put_virial(atoms, results, i):
    results["stress"] = results["stress"] * -atoms.get_volume()


def put_close(atoms, results, i):
    if i == 4:
        atoms.positions[2] = atoms.positions[1] + [0, 0, 0.2]


def put_onto(atoms, results, i):
    if i == 4:
        atoms.positions[2] = atoms.positions[1]


def exchange(atoms, results, i):
    if i == 4:
        atoms.numbers[0] = 92


def main():
    """Write all files."""
    text = to_text(build())
    frames = [to_text([atoms]) for atoms in build()]
    lines = text.splitlines(keepends=True)
    write("blank_between.xyz", text + "\n" + to_text(build(seed=1)))
    write("blank_after_each.xyz", "\n\n".join(frames) + "\n\n\n")
    write("blank_compressed.xyz.gz", gzip.compress("\n".join(frames).encode(), mtime=0))
    write("junk_at_end.xyz", text + "# end of file\n")
    write("count_too_small.xyz", "".join(["2\n", *lines[1:]]))
    write("count_too_large.xyz", "".join([*lines[:20], "4\n", *lines[21:]]))
    write("truncated.xyz", "".join(lines[:-1]))
    undeclared = text.replace(":forces:R:3", "")
    write("undeclared_forces.xyz", undeclared)
    write("colons_in_column.xyz", text.replace("forces:R:3", "mtt::forces:R:3"))
    write("byte_order_mark.xyz", b"\xef\xbb\xbf" + text.encode())
    write("utf_16.xyz", text.encode("utf-16"))
    write("windows_lines.xyz", text.replace("\n", "\r\n"))
    write("deuterium.xyz", text.replace("\nH ", "\nD "))
    write("fortran_numbers.xyz", text.replace("0.00630000", "0.00630D00", 1))
    write("energy_is_text.xyz", text.replace("energy=", "energy=about", 1))
    write("forces_of_two.xyz", text.replace("forces:R:3", "forces:R:2:rest:R:1"))
    write("empty.xyz", "")
    write("only_blank.xyz", "\n  \n\n")
    write("no_atoms.xyz", text + "0\n\n")
    write("no_cell.xyz", text.replace('pbc="F F F"', 'pbc="T T T"'))
    write("charge_nearly_zero.xyz", change(give_info(charge=1.2e-7)))
    write("charge_is_half.xyz", change(give_info(charge=0.5)))
    write("total_charge.xyz", change(give_info(total_charge=1, total_spin=2)))
    write("weight_0.xyz", change(weigh))
    write("odd_weight.xyz", change(give_info(weight=0.5)))
    write("not_finite.xyz", change(break_labels))
    write("fixed_atoms.xyz", change(fix))
    write("predictions_only.xyz", change(predict))
    write("predictions_beside.xyz", change(predict_beside))
    write("odd_names.xyz", change(name_odd))
    write("mixed_names.xyz", change(mix))
    write("virial_by_name.xyz", change(name_virial, box=6.0))
    write("virial_as_stress.xyz", change(put_virial, box=6.0))
    write("close_atoms.xyz", change(put_close))
    write("same_place.xyz", change(put_onto))
    write("unknown_element.xyz", change(exchange))
    atoms = [ase.Atoms("H"), ase.Atoms("O", cell=[9, 9, 9], pbc=True)]
    for atom in atoms:
        atom.info["config_type"] = "isolated_atom"
        atom.calc = SinglePointCalculator(atom, energy=-1.5)
    write("isolated_atoms.xyz", text + to_text(atoms))
    path = HERE / "beside_the_calculator.json"
    path.unlink(missing_ok=True)
    with ase.db.connect(path) as database:
        for atoms in build():
            energy, forces = atoms.get_potential_energy(), atoms.get_forces()
            atoms.calc = SinglePointCalculator(atoms, energy=energy)
            database.write(atoms, data={"dft_forces": forces.tolist()})
    ase.io.write(HERE / "cut.traj", build())
    content = (HERE / "cut.traj").read_bytes()
    (HERE / "cut.traj").write_bytes(content[: len(content) // 2])


if __name__ == "__main__":
    main()
