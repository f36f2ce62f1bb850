"""What a message tells a user to write: the one place where flags of labels are named.

Each advice names the flag, which ``check``, ``eval`` and ``finetune`` have, and the
line of an options file, which ``train`` reads.
"""

import shlex
from collections.abc import Iterable, Sequence

from pet_calc.data.near_names import find_near
from pet_calc.data.places import name_of

# flag, and where the same stands in an options file: block and key of a target
_LABEL_OPTIONS = {
    "energy_key": ("", "key"),
    "energy_unit": ("", "unit"),
    "length_unit": ("", "length_unit"),
    "forces_key": ("forces", "key"),
    "forces_unit": ("forces", "unit"),
    "stress_key": ("stress", "key"),
    "stress_unit": ("stress", "unit"),
    "stress_sign": ("stress", "sign"),
    "virial_key": ("virial", "key"),
    "virial_unit": ("virial", "unit"),
    "charge_key": ("", "charge_key"),
    "spin_key": ("", "spin_multiplicity_key"),
}
_MOST_KEYS = 30


def advise(**options: str | int) -> str:
    """Return how to set some options of labels, as flags and in an options file.

    Args:
        options: by the flag's name, such as ``energy_key="U0"``.
    """
    flags = " ".join(
        f"{spell_label_flag(name)} {shlex.quote(str(value))}"
        for name, value in options.items()
    )
    blocks: dict[str, list[str]] = {}
    for name, value in options.items():
        block, key = _LABEL_OPTIONS[name]
        if name == "stress_sign" and "virial_key" in options:
            block = "virial"
        blocks.setdefault(block, []).append(f"{key}: {value}")
    lines = [
        f"{block}: {{{', '.join(entries)}}}" if block else ", ".join(entries)
        for block, entries in blocks.items()
    ]
    return f"{flags} (in an options file: {', '.join(lines)})"


def spell_label_flag(name: str) -> str:
    """Return the flag of an option of labels, such as ``--energy-key``."""
    assert name in _LABEL_OPTIONS
    return "--" + name.replace("_", "-")


def explain_no_energy(keys: Iterable[str]) -> tuple[str, str]:
    """Return that no frame has an energy, with the keys that there are, and advice.

    Args:
        keys: such as ``info['U0']``, of all frames.
    """
    there = sorted(keys)
    listed = list_some(there)
    likely = [name_of(key) for key in find_near("energy", there)]
    text = f"no frame has an energy; keys there are: {listed}"
    if not likely:
        return text, (
            f"name it with {spell_label_flag('energy_key')} (in an options file: "
            "key), or add energies: without them nothing can be trained or compared"
        )
    others = f", or the key {', '.join(likely[1:4])}" if len(likely) > 1 else ""
    unit = spell_label_flag("energy_unit")
    return text, f"{advise(energy_key=likely[0])}{others}; mind its unit ({unit})"


def list_some(keys: Sequence[str]) -> str:
    """Return the keys for a message, not more than can be read."""
    more = f" and {len(keys) - _MOST_KEYS} more" if len(keys) > _MOST_KEYS else ""
    return (", ".join(keys[:_MOST_KEYS]) or "none") + more
