"""The models that come with the package; their cards are beside them."""

from pathlib import Path

FOLDER = Path(__file__).parent
BUNDLED = {"pet-gfn1-xs": FOLDER / "pet-gfn1-xs.ckpt"}
"""Path of each bundled checkpoint, by name."""
