"""Find keys that look like a label or an input, though they are not read as one."""

import re
from collections.abc import Iterable, Mapping
from functools import lru_cache

from pet_calc.data.places import name_of

PREDICTED_PREFIX = "pet_"
"""Names under which ``eval`` writes predictions begin with this."""

PREDICTED_NAMES = frozenset(
    PREDICTED_PREFIX + what
    for what in (
        "energy",
        "forces",
        "stress",
        "energy_uncertainty",
        "energies_uncertainty",
        "model",
    )
)

_LIKE: Mapping[str, re.Pattern[str]] = {
    label: re.compile(pattern, re.I)
    for label, pattern in {
        "energy": r"energy|toten|^e(tot|_tot)?$|^u0$|^etotal$|^dft_e",
        "forces": r"force|grad",
        "stress": r"stress",
        "virial": r"virial",
        # settings of codes have these words in them, too: mix_charge_amp, nspin
        "charge": r"(^|[_ ])charge$|^charge_(tot|total|net|state)$|^qtot$|net_?charge",
        "spin": r"(^|[_ ])spin$|^spin_?(state|mult|total)|multiplicity|unpaired|^uhf$",
        # of a label (config_energy_weight) or of a molecule it is another thing
        "weight": r"^(?!config_|.*(mol|atom)).*weight$",
    }.items()
}
# what ASE and the formats put into info beside labels and inputs
_NEVER = re.compile(r"cut|tol|conv|per_atom|unit|calculate|time", re.I)
_NO_LABEL = re.compile(r"weight|self_charge|charges", re.I)


def find_near(label: str, keys: Iterable[str]) -> list[str]:
    """Return the keys whose names look like those of a label.

    Args:
        label: energy, forces, stress, virial, charge, spin or weight.
        keys: such as ``info['U0']``.
    """
    return [key for key in keys if looks_like(label, name_of(key))]


@lru_cache(maxsize=4096)
def looks_like(label: str, name: str) -> bool:
    """Return whether a name looks like that of a label; predictions never do."""
    if name.startswith(PREDICTED_PREFIX) or _NEVER.search(name):
        return False
    if label != "weight" and _NO_LABEL.search(name):
        return False
    return bool(_LIKE[label].search(name))
