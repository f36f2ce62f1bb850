"""Recognise units by the size of forces, stress and energies, without a base."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from pet_calc.check.finding import Finding
from pet_calc.check.units import find_energy_units
from pet_calc.data.advice import advise, spell_label_flag
from pet_calc.data.frames import LabeledFrame
from pet_calc.units import energy_factor, stress_factor

# eV/Å, root mean square over all frames in the median: MD up to 3000 K has 0.5 to 3,
# and kcal/mol/A makes 12 and more of that
LARGE_FORCES = 8.0
# eV/Å, likewise: nothing that holds together has these
ABSURD_FORCES = 100.0
# eV/Å^3, likewise: 100 GPa is more than in the Earth's mantle, and 1.6 TPa more than
# in the core of Saturn
LARGE_STRESS, ABSURD_STRESS = 0.6, 10.0
# eV/atom, the median of energies that are all above 0: formation energies and those
# above a minimum are below 1, and what is bound has negative ones to free atoms
POSITIVE_ENERGY = 2.0
# how near an energy has to be to that of all electrons; the formula is good to 1 %
ALL_ELECTRON = 0.03


def check_magnitudes(frames: Sequence[LabeledFrame]) -> list[Finding]:
    """Report sizes that point to another unit than eV and eV/Å."""
    findings = []
    sizes = [
        float(np.sqrt((f.forces**2).mean())) for f in frames if f.forces is not None
    ]
    typical = float(np.median(sizes)) if sizes else 0.0
    if typical > LARGE_FORCES:
        findings.append(
            Finding(
                "error" if typical > ABSURD_FORCES else "warning",
                "large-forces",
                f"forces of {typical:.3g} eV/A (root mean square) are not those of "
                f"matter near equilibrium; in kcal/mol/A they would be "
                f"{typical * 0.04336:.2g} eV/A, in meV/A {typical * 0.001:.2g} eV/A",
                f"{advise(energy_unit='kcal/mol')} if that is the unit of the file",
            )
        )
    findings += _check_stress_size(frames)
    findings += _check_energy_sign(frames)
    ratio = _compare_with_all_electrons(frames)
    units = find_energy_units(ratio, 1.0) if ratio is not None and ratio > 0 else []
    for unit in units:
        if unit == "eV":
            findings.append(
                Finding(
                    "note",
                    "all-electron",
                    "energies are totals of all electrons, in eV",
                    "nothing; only a base with energies of valence electrons needs "
                    "its energies per element (E0) fitted anew, which is the default",
                )
            )
        elif _is_near(ratio, unit):
            findings.append(
                Finding(
                    "warning",
                    "energy-unit",
                    f"energies are {ratio:.4g} times those of all electrons in eV, as "
                    f"totals in {unit} are",
                    advise(energy_unit=unit),
                )
            )
    return findings


def _check_stress_size(frames: Sequence[LabeledFrame]) -> list[Finding]:
    """Report stresses beyond what matter can bear, and the units that explain them."""
    sizes = [
        float(np.sqrt((f.stress**2).mean())) for f in frames if f.stress is not None
    ]
    typical = float(np.median(sizes)) if sizes else 0.0
    if typical <= LARGE_STRESS:
        return []
    in_gpa = typical / stress_factor("GPa")
    others = ", ".join(
        f"{typical * stress_factor(name) / stress_factor('GPa'):.2g} GPa in {name}"
        for name in ("GPa", "kbar", "bar")
    )
    return [
        Finding(
            "error" if typical > ABSURD_STRESS else "warning",
            "large-stress",
            f"stress of {typical:.3g} eV/A^3 (root mean square), which is "
            f"{in_gpa:.3g} GPa: more than matter bears; read in another unit the same "
            f"numbers would be {others}",
            f"{advise(stress_unit='kbar')} (or GPa, bar) if that is the unit of the "
            f"file, or {spell_label_flag('virial_key')} if it is a virial",
        )
    ]


def _check_energy_sign(frames: Sequence[LabeledFrame]) -> list[Finding]:
    """Report energies far above those of free atoms, as binding energies are."""
    values = np.array([f.energy / f.n_atoms for f in frames if f.energy is not None])
    if not len(values) or values.min() <= 0 or np.median(values) < POSITIVE_ENERGY:
        return []
    return [
        Finding(
            "warning",
            "energy-sign",
            f"energies are {np.median(values):+.3g} eV/atom (median), all above 0: "
            "nothing that is bound has more than its free atoms",
            "negate them in the file if they are binding energies (minus the energy)",
        )
    ]


def estimate_all_electron(numbers: npt.ArrayLike) -> float:
    """Return about the energy of free atoms with all electrons, in eV.

    Thomas-Fermi with the corrections of Scott and Schwinger: 1 % off from carbon on.
    """
    z = np.asarray(numbers, dtype=np.float64)
    hartree = -0.768745 * z ** (7 / 3) + 0.5 * z**2 - 0.2699 * z ** (5 / 3)
    return float(hartree.sum()) * 27.2114


def is_all_electron(frames: Sequence[LabeledFrame]) -> bool:
    """Return whether the energies are, in eV, about those of all electrons."""
    ratio = _compare_with_all_electrons(frames)
    return ratio is not None and abs(ratio - 1.0) < ALL_ELECTRON


def _is_near(ratio: float | None, unit: str) -> bool:
    return ratio is not None and abs(ratio * energy_factor(unit) - 1) < ALL_ELECTRON


def _compare_with_all_electrons(frames: Sequence[LabeledFrame]) -> float | None:
    """Return energy over that of all electrons in eV; None if frames disagree."""
    labelled = [f for f in frames if f.energy is not None]
    if not labelled:
        return None
    ratios = np.array(
        [(f.energy or 0.0) / estimate_all_electron(f.numbers) for f in labelled]
    )
    low, middle, high = np.quantile(ratios, [0.1, 0.5, 0.9])
    # hydrogen is the worst of the formula, 8 %: tolerated in few frames only
    is_one = high - low <= 2 * ALL_ELECTRON * abs(middle)
    return float(middle) if is_one else None
