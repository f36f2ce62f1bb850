"""The limits of a validation: one entry for each row, with its reason.

The documentation makes its page of limits from this table.
"""

from typing import NamedTuple


class Limit(NamedTuple):
    """What a row of the report is judged by."""

    unit: str
    warn: float
    """From here on the row is a warning."""
    fail: float
    """From here on it fails."""
    meaning: str
    """What the number says."""
    reason: str
    """Why the limits are where they are."""
    is_least: bool = False
    """Whether values below the limits are bad, and not those above."""
    in_float32: tuple[float, float] | None = None
    """Both limits for a model in float32, whose rounding would be found else."""

    def get(self, *, is_float32: bool) -> tuple[float, float]:
        """Return both limits for a model's precision."""
        if is_float32 and self.in_float32 is not None:
            return self.in_float32
        return self.warn, self.fail


# eV above the lowest point of a curve: a wall of that height is one
WALL = 10.0

_ROUNDING = (
    "It is exact but for rounding: a millionth of a meV in float64. A thousandth of a "
    "meV is still nothing beside errors of models; beyond it, something is wrong."
)
_ENERGY_TOO = " The energy, in meV/atom, is held to the same numbers."
_TURNS = (
    "A PET is not exactly invariant. The bundled ones spread by 0.02 and 0.08 meV/atom "
    "and by 0.3 and 1.5 meV/Å. Errors of good models begin at 1 meV/atom and 20 meV/Å: "
    "a spread of that size is as wrong as the model. At ten (five) times that it "
    "decides what a simulation does."
)
_WALL = (
    "Atoms cross a barrier of 2 eV within ten nanoseconds at 2000 K, and at once in "
    "starting structures that are not relaxed. Collisions in hot melts and "
    "under irradiation reach some eV; 10 eV are out of reach for any thermal run."
)
_JUMP = (
    "The path is halved to 1e-7 Å, over which a smooth energy changes by less than "
    "1e-3 meV and smooth forces by less than 0.1 meV/Å. Jumps heat a run, each time an "
    "atom passes: 1 meV is 4 % of kT at 300 K."
)

LIMITS: dict[str, Limit] = {
    "forces": Limit(
        "meV/Å",
        0.01,
        1.0,
        "minus the gradient of the energy",
        "Differences over 2e-3 Å of fourth order are good to 1e-4 meV/Å in float64. 1 "
        "meV/Å is below the error of any model, but what makes it is a bug.",
        in_float32=(5.0, 50.0),
    ),
    "stress": Limit(
        "meV/Å^3",
        0.001,
        0.1,
        "derivative of the energy in strain",
        "Like forces: 0.1 meV/Å^3 are 0.016 GPa.",
        in_float32=(0.5, 5.0),
    ),
    "translation": Limit(
        "meV/Å",
        1e-3,
        0.1,
        "moving the whole changes no force",
        _ROUNDING + _ENERGY_TOO,
        in_float32=(1.0, 10.0),
    ),
    "permutation": Limit(
        "meV/Å",
        1e-3,
        0.1,
        "the order of atoms changes no force",
        _ROUNDING + _ENERGY_TOO,
        in_float32=(1.0, 10.0),
    ),
    "extensivity": Limit(
        "meV/atom",
        1e-3,
        0.1,
        "twice the system, twice the energy",
        _ROUNDING,
        in_float32=(0.1, 1.0),
    ),
    "rotation": Limit(
        "meV/atom",
        1.0,
        10.0,
        "spread of the energy over orientations",
        _TURNS,
    ),
    "rotation, forces": Limit(
        "meV/Å",
        20.0,
        100.0,
        "spread of a force over orientations",
        _TURNS,
    ),
    "inversion": Limit(
        "meV/atom",
        1.0,
        10.0,
        "the mirror image has the same energy",
        _TURNS,
    ),
    "energy jump": Limit(
        "meV",
        0.01,
        1.0,
        "as neighbours come and go",
        _JUMP,
        in_float32=(0.5, 5.0),
    ),
    "force jump": Limit(
        "meV/Å",
        1.0,
        20.0,
        "as neighbours come and go",
        _JUMP,
        in_float32=(2.0, 20.0),
    ),
    "dimers": Limit(
        "eV",
        WALL,
        2.0,
        "lowest wall between two atoms alone",
        _WALL,
        is_least=True,
    ),
    "contacts": Limit(
        "eV",
        WALL,
        2.0,
        "lowest wall between two neighbours",
        _WALL,
        is_least=True,
    ),
    "drift": Limit(
        "meV/atom/ps",
        1.0,
        10.0,
        "of the total energy, without thermostat",
        "At 1 meV/atom/ps, 100 ps heat by 400 K if no thermostat takes it. A short run "
        "shows 0.1 meV/atom/ps or so of good models as well; a long one is needed to "
        "tell (examples/drift.py). Forces that are no gradient give ten and more.",
    ),
    "modes": Limit(
        "cm^-1",
        -10.0,
        -50.0,
        "lowest frequency (imaginary: below 0)",
        "33 cm^-1 are 1 THz. Relaxation to 1 meV/Å and displacements of 0.01 Å leave "
        "some cm^-1. Beyond, the structure lies on no minimum of the model; of phases "
        "that are none in nature (cubic perovskites, bcc titanium) that is right.",
        is_least=True,
    ),
    "elastic": Limit(
        "GPa",
        1.0,
        0.0,
        "smallest eigenvalue of the constants",
        "A crystal with a negative one deforms by itself (Born). Layered and molecular "
        "crystals have some GPa.",
        is_least=True,
    ),
}
