"""Write small parts of the base data into data/excerpts, for what needs a few frames.

    .venv/bin/python bases/excerpts.py

Needs bases/build (see bases/README.md); data sets that are not there are left out.
"""

from pathlib import Path

from ase.io import read
from runs import write_frames

HERE = Path(__file__).resolve().parent
EXCERPTS = HERE.parent / "data" / "excerpts"
# file in bases/build, every how many frames of it
EVERY = {
    "base_test.xyz": 20,
    "base_train.xyz": 40,
    "materials/materials_test.xyz": 4,
    "materials/materials_train.xyz": 20,
}


def main():
    EXCERPTS.mkdir(exist_ok=True)
    for name, every in EVERY.items():
        source = HERE / "build" / name
        if not source.exists():
            print(f"{source} is not there")
            continue
        frames = read(source, f"::{every}")
        target = EXCERPTS / source.name
        write_frames(target, frames)
        print(f"{target}: {len(frames)} frames")


if __name__ == "__main__":
    main()
