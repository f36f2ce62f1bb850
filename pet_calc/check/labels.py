"""Look at labels by themselves: missing, placeholders, outliers, odd magnitudes.

Limits are wide: a finding that is wrong once is not read the second time. Energies of
dissociated molecules and forces of rattled crystals have to pass.
"""

from collections.abc import Sequence

import numpy as np
from ase.data import chemical_symbols

from pet_calc.check.finding import Finding, list_sources, name_frames
from pet_calc.check.magnitudes import check_magnitudes
from pet_calc.check.presence import check_notes, check_origins, check_presence
from pet_calc.data.composition_fit import count_species
from pet_calc.data.frames import LabeledFrame
from pet_calc.data.labels import Array

# robust standard deviations, and eV/atom: converged energies of one composition
# scatter by 0.01 (MD) to 0.3 eV/atom (dissociated); a wrong functional or a missing
# atom is off by eV/atom
ENERGY_OUTLIER = (15.0, 0.5)
# frames per fitted element, below which the fit explains the outliers away
FRAMES_PER_ELEMENT = 3
# robust standard deviations of log |F|, and eV/Å
FORCE_OUTLIER = (8.0, 20.0)
# eV/Å per atom: rounding and grids of DFT codes leave 1e-3 and less
NET_FORCE = 1e-3


def check_labels(frames: Sequence[LabeledFrame]) -> list[Finding]:
    """Return what is to be said about the labels of some frames."""
    return [
        *check_presence(frames),
        *check_origins(frames),
        *check_notes(frames),
        *_check_zeros(frames),
        *_check_energy_outliers(frames),
        *_check_force_outliers(frames),
        *_check_net_forces(frames),
        *check_magnitudes(frames),
    ]


def _check_zeros(frames: Sequence[LabeledFrame]) -> list[Finding]:
    """Report labels that are exactly zero, as placeholders are."""
    findings = []
    zeros = {
        "energy": [f for f in frames if f.energy == 0.0],
        "forces": [
            f
            for f in frames
            if f.forces is not None and f.n_atoms > 1 and not f.forces.any()
        ],
        "stress": [f for f in frames if f.stress is not None and not f.stress.any()],
    }
    for label, those in zeros.items():
        if not those:
            continue
        n_labelled = sum(getattr(frame, label) is not None for frame in frames)
        is_all = len(those) == n_labelled
        # perfect crystals have no forces; no calculation gives an energy of 0
        severity = "error" if is_all and label == "energy" else "warning"
        findings.append(
            Finding(
                "note" if label == "forces" and not is_all else severity,  # type: ignore[arg-type]
                f"zero-{label}",
                f"{label} is exactly zero in {len(those)} of {n_labelled} frames: "
                f"{name_frames(those)}",
                f"if zeros stand for missing {label}, remove them from the file"
                + (" (crystals at rest do have none)" if label == "forces" else ""),
                frames=() if is_all else list_sources(those),
            )
        )
    return findings


def _check_energy_outliers(frames: Sequence[LabeledFrame]) -> list[Finding]:
    labelled = [frame for frame in frames if frame.energy is not None]
    types = sorted({int(z) for frame in labelled for z in np.unique(frame.numbers)})
    if len(labelled) < FRAMES_PER_ELEMENT * len(types) + 10:
        return []
    n_atoms = np.array([frame.n_atoms for frame in labelled], dtype=np.float64)
    energies = np.array([frame.energy for frame in labelled], dtype=np.float64)
    residuals = _fit_robustly(
        count_species(labelled, types) / n_atoms[:, None], energies / n_atoms
    )
    distances = np.abs(residuals - np.median(residuals))
    # 1.4826: from the median of the distances to a standard deviation
    scale = 1.4826 * float(np.median(distances))
    limit = max(ENERGY_OUTLIER[0] * scale, ENERGY_OUTLIER[1])
    order = np.argsort(-distances)
    found = [int(i) for i in order if distances[i] > limit]
    if not found:
        return []
    worst = found[0]
    symbols = ", ".join(chemical_symbols[z] for z in types)
    return [
        Finding(
            "warning",
            "energy-outliers",
            f"{len(found)} of {len(labelled)} energies are far from the rest, up to "
            f"{residuals[worst]:+.3g} eV/atom after a fit of {symbols} (typical "
            f"{scale:.2g}): {name_frames([labelled[i] for i in found])}",
            "look at these calculations: not converged, other settings, other charge, "
            "or a truncated structure",
            frames=list_sources([labelled[i] for i in found]),
        )
    ]


def _fit_robustly(rows: Array, values: Array) -> Array:
    """Return residuals of the fit of least absolute deviations (reweighted squares)."""
    weights = np.ones(len(values))
    residuals = values
    for _ in range(30):
        solution, *_ = np.linalg.lstsq(
            rows * weights[:, None], values * weights, rcond=None
        )
        residuals = values - rows @ solution
        weights = 1.0 / np.sqrt(np.maximum(np.abs(residuals), 1e-4))
    return residuals


def _check_force_outliers(frames: Sequence[LabeledFrame]) -> list[Finding]:
    labelled = [f for f in frames if f.forces is not None and f.forces.any()]
    if len(labelled) < 10:
        return []
    largest = np.array([_norms(frame.forces).max() for frame in labelled])
    logs = np.log(largest)
    centre = np.median(logs)
    # 0.1: sets of nearly equal frames would make outliers of harmless ones
    scale = max(1.4826 * float(np.median(np.abs(logs - centre))), 0.1)
    is_far = (logs - centre > FORCE_OUTLIER[0] * scale) & (largest > FORCE_OUTLIER[1])
    found = [int(i) for i in np.argsort(-largest) if is_far[i]]
    if not found:
        return []
    return [
        Finding(
            "warning",
            "force-outliers",
            f"{len(found)} of {len(labelled)} frames have forces far above the rest, "
            f"up to {largest[found[0]]:.3g} eV/A (typical largest "
            f"{np.exp(centre):.2g}): {name_frames([labelled[i] for i in found])}",
            "look at these calculations; a few such frames can rule the loss",
            frames=list_sources([labelled[i] for i in found]),
        )
    ]


def _check_net_forces(frames: Sequence[LabeledFrame]) -> list[Finding]:
    labelled = [f for f in frames if f.forces is not None and f.n_atoms > 1]
    if not labelled:
        return []
    means = np.array(
        [np.linalg.norm(np.mean(np.asarray(f.forces), axis=0)) for f in labelled]
    )
    found = [int(i) for i in np.argsort(-means) if means[i] > NET_FORCE]
    if not found:
        return []
    fixed = [i for i in found if _count_forceless(labelled[i])]
    findings = []
    if fixed:
        findings.append(_report_fixed([labelled[i] for i in sorted(fixed)], labelled))
        found = [i for i in found if i not in set(fixed)]
    if not found:
        return findings
    worst = labelled[found[0]]
    floor = 1000 * float(np.sqrt((means**2).mean()))
    return [
        *findings,
        Finding(
            "warning",
            "net-forces",
            f"the forces of {len(found)} of {len(labelled)} frames do not sum to zero, "
            f"worst {means[found[0]] * worst.n_atoms:.3g} eV/A in {worst.source} "
            f"({floor:.2g} meV/A per atom over all frames)",
            "no potential can learn this part: subtract the mean force of each frame, "
            "or converge grids and SCF better",
            frames=list_sources([labelled[i] for i in found]),
        ),
    ]


def _count_forceless(frame: LabeledFrame) -> int:
    """Return how many atoms have a force of exactly zero, if others have one."""
    n_without = int((~np.asarray(frame.forces).any(axis=1)).sum())
    return n_without if n_without < frame.n_atoms else 0


def _report_fixed(those: list[LabeledFrame], labelled: list[LabeledFrame]) -> Finding:
    """Report forces that constraints have set to zero, so that the rest has a sum."""
    counts = [_count_forceless(frame) for frame in those]
    low, high = min(counts), max(counts)
    n_atoms = f"{low}" if low == high else f"{low} to {high}"
    return Finding(
        "warning",
        "fixed-atoms",
        f"{n_atoms} atoms have a force of exactly zero in {len(those)} of "
        f"{len(labelled)} frames whose forces do not sum to zero, as fixed atoms do: "
        f"{name_frames(those)}",
        "training would learn these zeros: write the forces without constraints (in "
        "ASE get_forces(apply_constraint=False)), or leave the forces of these frames "
        "out",
        frames=list_sources(those),
    )


def _norms(forces: Array | None) -> Array:
    assert forces is not None  # the caller's choice
    norms: Array = np.linalg.norm(forces, axis=1)
    return norms
