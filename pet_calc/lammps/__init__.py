"""Run exported models in stock LAMMPS: compile the plugin, start ``lmp``.

The plugin's sources are in ``plugin/``, under the GPL like LAMMPS; all else here is
BSD. Nothing is compiled, and torch is not imported, before it is asked for.
"""

from pet_calc.lammps.build import build_plugin
from pet_calc.lammps.run import load_mpi, run_lammps

__all__ = ["build_plugin", "load_mpi", "run_lammps"]
