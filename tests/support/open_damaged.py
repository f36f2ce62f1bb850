"""Open damaged copies of a model file, in a process of its own: a crash is seen.

    python open_damaged.py FILE KIND SEED N

Prints one line of JSON for each copy: how it was damaged, and ``same``, ``refused``,
or what else happened. The copies are made here, beside the file.
"""

import json
import sys
import warnings
from pathlib import Path

import numpy as np


def damage(content, rng):
    """Return changed bytes and what was done to them."""
    kind = str(rng.choice(["flip", "byte", "zero", "cut", "insert", "swap"]))
    place = int(rng.integers(len(content)))
    length = int(rng.choice([1, 8, 200]))
    data = bytearray(content)
    if kind == "flip":
        data[place] ^= 1 << int(rng.integers(8))
    elif kind == "byte":
        for k in rng.integers(len(data), size=length):
            data[k] = int(rng.integers(256))
    elif kind == "zero":
        data[place : place + length] = bytes(len(data[place : place + length]))
    elif kind == "cut":
        del data[place : place + length]
    elif kind == "insert":
        data[place:place] = rng.bytes(length)
    else:
        other = int(rng.integers(len(content)))
        data[place : place + length] = content[other : other + length]
    return bytes(data), f"{kind} {length} at {place}"


def read(path, kind):
    """All that matters of a file, as something to compare."""
    from ase.build import molecule

    from pet_calc import PETCalculator
    from pet_calc.checkpoint import load_checkpoint
    from pet_calc.checkpoint.adapter import load_adapter

    if kind == "adapter":
        adapter = load_adapter(path)
        tensors, rest = adapter.tensors, (adapter.config, adapter.base_fingerprint)
    elif kind == "export":
        atoms = molecule("CH3OH")
        calculator = PETCalculator(path, compile=False)
        forces = calculator.get_property("forces", atoms)
        return [forces.tobytes(), calculator.get_potential_energy(atoms)]
    else:
        record = load_checkpoint(path)
        tensors = record.state
        rest = (record.hypers, record.atomic_types, record.length_unit)
        rest = (*rest, record.targets)
    values = [(name, v.numpy().tobytes()) for name, v in sorted(tensors.items())]
    return [values, repr(rest)]


def main(file, kind, seed, n_copies):
    import torch

    from pet_calc.errors import PetCalcError

    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    file = Path(file)
    content = file.read_bytes()
    expected = read(file, kind)
    rng = np.random.default_rng(int(seed))
    copy = file.with_name(f"damaged-{file.name}")
    for _ in range(int(n_copies)):
        changed, what = damage(content, rng)
        copy.write_bytes(changed)
        # seen even if the next line is the last
        print(json.dumps(what), end=" ", flush=True)
        try:
            found = read(copy, kind)
            outcome = "same" if found == expected else "OTHER NUMBERS"
        except PetCalcError as error:
            outcome = "refused" if "\n" not in str(error) else f"LINES {error}"
        except BaseException as error:
            outcome = f"{type(error).__name__}: {error}"
        print(json.dumps(outcome), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
