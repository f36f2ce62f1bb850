"""Write a LAMMPS run for a structure and a model: data file and input."""

import io
import os
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Literal

import numpy as np
from ase import Atoms
from ase.data import atomic_numbers
from ase.io.lammpsdata import write_lammps_data

from pet_calc.calculator.from_export import load_exported
from pet_calc.checkpoint.uncertainty import describe_missing
from pet_calc.data.labels import read_charge_and_spin
from pet_calc.errors import ConfigError, ModelError
from pet_calc.export.uncertainty import UNCERTAINTY, name_extra_output
from pet_calc.lammps.constraints import build_frozen
from pet_calc.lammps.orient import orient_for_lammps
from pet_calc.model.hypers import ENERGY, TargetSpec, choose_energy_target
from pet_calc.system.atomic import write_text_atomically

Ensemble = Literal["nve", "nvt", "npt", "minimize"]
OnUncertain = Literal["warn", "warn_all", "stop", "write"]

DATA_FILE = "structure.data"
INPUT_FILE = "in.lmp"
# LAMMPS rebuilds its ghosts when an atom has moved half of it, Å; a wider one only
# gives several ranks more atoms
SKIN = 1.0
# damping times of thermostat and barostat, in timesteps: LAMMPS's own advice
THERMOSTAT_STEPS = 100
BAROSTAT_STEPS = 1000
SEED = 4711
# of a model with an uncertainty that nobody looks at
_WATCH_HINT = """\
# The model knows its uncertainty: with `uncertainty_threshold 0.1` (eV, of an atom's
# energy) at the end of pair_style LAMMPS warns of atoms above it; `on_uncertain stop`
# ends the run, `on_uncertain write` writes such frames to uncertain.xyz.
"""


@dataclass(frozen=True)
class SimulationOptions:
    """What to simulate."""

    ensemble: Ensemble = "nvt"
    """``nve``, ``nvt``, ``npt`` (isotropic) or ``minimize``."""
    temperature: float = 300.0
    """K; velocities are drawn for it unless the structure has some."""
    pressure: float = 1.0
    """bar; for npt only."""
    timestep: float | None = None
    """fs; None means 0.5 with hydrogen and 1 without."""
    n_steps: int = 10000
    """Timesteps, or the most iterations of a minimisation."""
    device: str = "cpu"
    """Where the model runs."""
    variant: str | None = None
    """Energy output to use, such as ``pbe``."""
    uncertainty_threshold: float | None = None
    """eV, of an atom's energy; None looks at no uncertainties."""
    on_uncertain: OnUncertain = "warn"
    """What happens if an atom is more uncertain."""


def write_input(
    atoms: Atoms, model: str | Path, folder: str | Path, options: SimulationOptions
) -> Path:
    """Write ``structure.data`` and ``in.lmp`` into a folder; return the input's path.

    Args:
        atoms: any orientation; velocities are carried over, and ``FixAtoms`` and
            ``FixCartesian`` become groups and fixes.
        model: exported file; the input names it relative to the folder.
        folder: made if it is not there.
        options: what to simulate.

    Raises:
        ConfigError: for options that do not fit the structure, and for other
            constraints.
        DataError: if LAMMPS cannot hold the structure.
        ModelError: for a threshold of the uncertainty of a model that has none.
    """
    _check(atoms, options)
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    write_data(atoms, folder / DATA_FILE)
    path = folder / INPUT_FILE
    name = os.path.relpath(model, folder)
    text = build_input(atoms, name, options, model_file=model)
    write_text_atomically(path, text)
    return path


def write_data(atoms: Atoms, path: Path) -> None:
    """Write a data file in LAMMPS's orientation, velocities included."""
    buffer = io.StringIO()
    write_lammps_data(
        buffer,
        orient_for_lammps(atoms),
        specorder=list_elements(atoms),
        masses=True,
        velocities=_has_velocities(atoms),
        units="metal",
    )
    write_text_atomically(path, buffer.getvalue())


def list_elements(atoms: Atoms) -> list[str]:
    """Return the elements in the order of their LAMMPS types: by atomic number."""
    return sorted(set(atoms.get_chemical_symbols()), key=lambda s: atomic_numbers[s])


def build_setup(
    atoms: Atoms,
    model: str,
    options: SimulationOptions,
    *,
    model_file: str | Path | None = None,
) -> str:
    """Return the part of the input that defines atoms and model.

    Args:
        atoms: the structure.
        model: the exported file, as LAMMPS is to find it.
        options: what to simulate.
        model_file: the same, seen from here; None if that is ``model``.
    """
    elements = list_elements(atoms)
    # m: the box follows the atoms where it is open, but stays as large as in the file
    boundary = " ".join("p" if periodic else "m" for periodic in atoms.pbc)
    keywords = f"device {options.device}"
    if options.variant is not None:
        keywords += f" variant {options.variant}"
    keywords += _build_state(atoms, model_file or model)
    if options.uncertainty_threshold is not None:
        keywords += _build_watch(model_file or model, options)
    return f"""\
units          metal
atom_style     atomic
atom_modify    map array
boundary       {boundary}
read_data      {DATA_FILE}

pair_style     metatomic {_quote(model)} {keywords}
pair_coeff     * * {" ".join(elements)}
neighbor       {SKIN} bin
"""


def _build_state(atoms: Atoms, model: str | Path) -> str:
    """Return the keywords for charge and spin of a structure, if the model reads them.

    Raises:
        DataError: for values that no model reads.
    """
    if not {"charge", "spin", "spin_multiplicity"} & set(atoms.info):
        return ""
    if "charge" not in load_exported(model).requested_inputs(use_new_names=True):
        return ""
    charge, spin = read_charge_and_spin(atoms)
    return f" charge {charge} spin {spin}"


def _build_watch(model: str | Path, options: SimulationOptions) -> str:
    """Return the keywords for uncertain atoms.

    Raises:
        ModelError: if the model has no uncertainty.
    """
    target, is_there = _find_uncertainty(model, options)
    if not is_there:
        missing = describe_missing(os.fspath(model), target)
        raise ModelError(f"{missing}; then export it again")
    keywords = f" uncertainty_threshold {options.uncertainty_threshold:g}"
    return f"{keywords} on_uncertain {options.on_uncertain}"


def _build_hint(model: str | Path, options: SimulationOptions) -> str:
    """Return a comment if the model has an uncertainty that nobody looks at."""
    if options.uncertainty_threshold is not None:
        return ""
    return _WATCH_HINT if _find_uncertainty(model, options)[1] else ""


def _find_uncertainty(
    model: str | Path, options: SimulationOptions
) -> tuple[str, bool]:
    """Return the name of the energy, and whether the file has its uncertainty."""
    outputs = list(load_exported(model).capabilities().outputs)
    energies = [name for name in outputs if name.partition("/")[0] == ENERGY]
    target = choose_energy_target(
        {name: TargetSpec.for_energy(name) for name in energies}, options.variant
    )
    return target, name_extra_output(target, UNCERTAINTY) in outputs


def build_input(
    atoms: Atoms,
    model: str,
    options: SimulationOptions,
    *,
    model_file: str | Path | None = None,
) -> str:
    """Return the whole input file; the arguments are those of ``build_setup``."""
    elements = list_elements(atoms)
    types = ", ".join(f"{k} = {name}" for k, name in enumerate(elements, start=1))
    density = "density " if atoms.pbc.all() else ""
    every = max(1, min(100, options.n_steps // 10))
    return f"""\
# Written by pet-calc {version("pet-calc")}: {len(atoms)} atoms, types {types}.
# Run it in this folder: pet-calc lammps run {INPUT_FILE}
# Units: Å, eV, ps, K, bar. The cell is in LAMMPS's orientation.
{_build_hint(model_file or model, options)}\

{build_setup(atoms, model, options, model_file=model_file)}
thermo         {every}
thermo_style   custom step time temp pe etotal press {density}vol
# what a killed run has done is in its log
thermo_modify  flush yes
dump           trajectory all custom {every} trajectory.lammpstrj &
               id type element x y z vx vy vz
dump_modify    trajectory element {" ".join(elements)} sort id

{_build_motion(atoms, options)}
write_data     final.data
"""


def _build_motion(atoms: Atoms, options: SimulationOptions) -> str:
    frozen = build_frozen(atoms)
    if options.ensemble == "minimize":
        # eV/Å: below what a float32 model can tell from zero, it would run on for ever
        limit = 10 * options.n_steps
        run = f"minimize       0.0 1.0e-3 {options.n_steps} {limit}"
        return "\n".join([*frozen.groups, *frozen.holds, run])
    temperature, step = options.temperature, choose_timestep(atoms, options) / 1000
    damping = f"{temperature:g} {temperature:g} {THERMOSTAT_STEPS * step:g}"
    barostat = f"{options.pressure:g} {options.pressure:g} {BAROSTAT_STEPS * step:g}"
    fix = {
        "nve": "nve",
        "nvt": f"nvt temp {damping}",
        "npt": f"npt temp {damping} iso {barostat}",
    }[options.ensemble]
    lines = [*frozen.groups, f"timestep       {step:g}"]
    if not _has_velocities(atoms):
        # what is held still takes up momentum
        is_free = not frozen.holds
        rotation = "yes" if is_free and not atoms.pbc.any() else "no"
        lines.append(
            f"velocity       {frozen.mover} create {temperature:g} {SEED} "
            f"mom {'yes' if is_free else 'no'} rot {rotation} dist gaussian",
        )
    lines += frozen.holds
    lines.append(f"fix            motion {frozen.mover} {fix}")
    if frozen.holds:
        # the temperature of what moves: the centre of mass is not free of its own
        extra = f"extra/dof {frozen.n_components}"
        lines += [
            f"compute        mobile_temp {frozen.mover} temp",
            f"compute_modify mobile_temp {extra}",
            "thermo_modify  temp mobile_temp",
        ]
        if options.ensemble == "nvt":
            lines.append(f"compute_modify motion_temp {extra}")
    return "\n".join([*lines, f"run            {options.n_steps}"])


def choose_timestep(atoms: Atoms, options: SimulationOptions) -> float:
    """Return the timestep in fs."""
    if options.timestep is not None:
        return options.timestep
    return 0.5 if 1 in atoms.numbers else 1.0


def _check(atoms: Atoms, options: SimulationOptions) -> None:
    for name in ("temperature", "timestep", "n_steps", "uncertainty_threshold"):
        value = getattr(options, name)
        if value is not None and not value > 0:
            raise ConfigError(f"{name}: expected a positive number, got {value}")
    if options.ensemble == "npt" and not atoms.pbc.all():
        raise ConfigError(
            "npt needs a structure that is periodic in all directions; this one is "
            f"periodic along {atoms.pbc.tolist()}: use nvt"
        )
    if options.ensemble == "npt" and build_frozen(atoms).holds:
        raise ConfigError(
            "npt moves all atoms with the box, and some of this structure are fixed: "
            "use nvt, or remove the constraints (atoms.set_constraint())"
        )
    build_frozen(atoms)  # refuses before anything is written


def _has_velocities(atoms: Atoms) -> bool:
    return bool(atoms.has("momenta") and np.any(atoms.get_momenta()))


def _quote(text: str) -> str:
    return f'"{text}"' if " " in text else text
