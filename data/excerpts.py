"""Write small parts of the base data into data/excerpts, for what needs a few frames.

    .venv/bin/python data/excerpts.py

Needs data/build (see data/README.md); data sets that are not there are left out.
"""

from pathlib import Path

from ase.io import read
from runs import write_frames

HERE = Path(__file__).parent
# file in data/build, every how many frames of it
EXCERPTS = {
    "base_test.xyz": 6,
    "base_train.xyz": 20,
    "materials/materials_test.xyz": 4,
    "materials/materials_train.xyz": 20,
}


def main():
    (HERE / "excerpts").mkdir(exist_ok=True)
    for name, every in EXCERPTS.items():
        source = HERE / "build" / name
        if not source.exists():
            print(f"{source} is not there")
            continue
        frames = read(source, f"::{every}")
        target = HERE / "excerpts" / source.name
        write_frames(target, frames)
        print(f"{target}: {len(frames)} frames")


if __name__ == "__main__":
    main()
