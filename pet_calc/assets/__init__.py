"""The models that come with the package; their cards are beside them."""

from pathlib import Path

FOLDER = Path(__file__).parent
BUNDLED = {name: FOLDER / f"{name}.ckpt" for name in ("pet-gfn1-xs", "pet-sevennet-xs")}
"""Path of each bundled checkpoint, by name."""
