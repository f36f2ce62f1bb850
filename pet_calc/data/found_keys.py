"""Compare the keys that files had with those that were looked for."""

import difflib
import logging

from pet_calc.data.labels import LabelKeys
from pet_calc.errors import DataError

logger = logging.getLogger(__name__)


def check_configured_keys(present: list[str], keys: LabelKeys, files: str) -> None:
    """Raise if a configured key was in no frame, with the nearest that was.

    Args:
        present: keys that there were, such as ``info['U0']``.
        keys: what was looked for.
        files: names them in the message.
    """
    wanted = {
        "energy": keys.energy,
        "forces": keys.forces,
        "stress": keys.stress,
        "virial": keys.virial,
        "direct forces": keys.direct_forces,
        "direct stress": keys.direct_stress,
        "charge": keys.charge,
        "spin_multiplicity": keys.spin_multiplicity,
        "weight": keys.weight,
        **keys.extras,
    }
    names = sorted({key[key.index("[") + 2 : -2] for key in present})
    for label, key in wanted.items():
        if key and not any(entry.endswith(f"[{key!r}]") for entry in present):
            near = difflib.get_close_matches(key, names, n=1)
            hint = f" (did you mean {near[0]!r}?)" if near else ""
            raise DataError(
                f"no frame of {files} has {key!r}, the key for {label}{hint}; keys "
                f"there are: {', '.join(present) or 'none'}"
            )


def warn_of_mixed_origins(origins: dict[str, set[str]]) -> None:
    """Warn of labels that come from several keys."""
    for label in ("energy", "forces", "stress"):
        found = sorted(origins.get(label, ()))
        if len(found) > 1:
            logger.warning(
                "%s comes from %s in different frames; set its key if these are not "
                "the same level of theory",
                label,
                " and ".join(found),
            )
