"""Names of public models: ``pet-<family>-<size>``, with or without ``-v<X.Y.Z>``."""

import difflib
import re
from dataclasses import dataclass

from pet_calc.assets import BUNDLED

REPOSITORY = "lab-cosmo/upet"
"""Where the checkpoints are on Hugging Face, as ``models/NAME.ckpt``."""


@dataclass(frozen=True)
class Family:
    """Models trained on the same data; what was published by November 2026."""

    about: str
    """Level of theory, and what the models are for."""
    versions: dict[str, tuple[str, ...]]
    """Size to versions, the newest first."""


# From upet's documentation and source (docs/src/models.rst, src/upet/_version.py). Only
# for suggestions and for work without network: the Hub's own list is what counts.
FAMILIES = {
    "pet-mad": Family(
        "r2SCAN (before 1.5: PBEsol); materials, surfaces, molecules",
        {
            "xs": ("1.6.0", "1.5.0"),
            "s": ("1.6.0", "1.5.0", "1.1.0", "1.0.2"),
            "m": ("1.6.0",),
        },
    ),
    "pet-oam": Family(
        "PBE (Materials Project); materials, 89 elements",
        {"l": ("0.1.0",), "xl": ("1.0.0",)},
    ),
    "pet-omat": Family(
        "PBE; materials, 89 elements",
        {size: ("1.0.0",) for size in ("xs", "s", "m", "l", "xl")},
    ),
    "pet-omad": Family(
        "PBEsol; materials and molecules, 85 elements",
        {"xs": ("1.0.0",), "s": ("1.0.0",), "l": ("0.1.0",)},
    ),
    "pet-omatpes": Family("r2SCAN; materials, 89 elements", {"l": ("0.1.0",)}),
    "pet-spice": Family(
        "ωB97M-D3; molecules, 17 elements", {"s": ("0.2.0",), "l": ("0.2.0",)}
    ),
    "pet-omol": Family(
        "ωB97M-V; molecules, electrolytes, 83 elements",
        {size: ("1.0.0",) for size in ("s", "m", "l")},
    ),
    "pet-mols": Family(
        "PBE0+MBD; organic molecular crystals, 12 elements",
        {"s": ("1.1.0", "1.0.0")},
    ),
}

N_WEIGHTS = {"xs": "4.5M", "s": "25.9M", "m": "109M", "l": "255M", "xl": "730M"}
"""What a size means, from the same source."""

_PATTERN = re.compile(r"(pet-[a-z0-9]+)-(xs|s|m|l|xl)(?:-v(\d+)\.(\d+)\.(\d+))?")


@dataclass(frozen=True, order=True)
class ModelName:
    """A name, taken apart; of one model, the newer version is the larger."""

    family: str
    size: str
    version: tuple[int, ...] = ()
    """Empty: the latest."""

    def __str__(self) -> str:
        """Return the name as it is written."""
        return f"{self.model}-v{self.version_text}" if self.version else self.model

    @property
    def model(self) -> str:
        """The name without the version."""
        return f"{self.family}-{self.size}"

    @property
    def version_text(self) -> str:
        """The version such as ``1.1.0``, empty for the latest."""
        return ".".join(str(number) for number in self.version)

    @property
    def file_name(self) -> str:
        """Name of the checkpoint."""
        return f"{self}.ckpt"

    @property
    def about(self) -> str:
        """What is known of the family."""
        family = FAMILIES.get(self.family)
        return family.about if family else ""


def parse_name(text: str) -> ModelName | None:
    """Return the parts of a name; None if it has another form."""
    match = _PATTERN.fullmatch(text)
    if match is None:
        return None
    family, size, *version = match.groups()
    return ModelName(family, size, tuple(int(v) for v in version if v is not None))


def parse_file_name(file_name: str) -> ModelName | None:
    """Return the parts of a checkpoint's name; None if it is not a public model's."""
    name = parse_name(file_name.removesuffix(".ckpt"))
    is_checkpoint = file_name.endswith(".ckpt")
    return name if is_checkpoint and name and name.version else None


def list_known() -> list[ModelName]:
    """Return the published models with their versions."""
    return [
        ModelName(family, size, tuple(int(n) for n in version.split(".")))
        for family, entry in FAMILIES.items()
        for size, versions in entry.versions.items()
        for version in versions
    ]


def is_known(name: ModelName) -> bool:
    """Return whether there is a model of this family and size, in any version."""
    family = FAMILIES.get(name.family)
    return family is not None and name.size in family.versions


def find_newest_known(name: ModelName) -> ModelName:
    """Return the name with the newest version in the table, or as it is."""
    found = [known for known in list_known() if known.model == name.model]
    return name if name.version or not found else max(found)


def suggest_names(text: str) -> str:
    """Return the end of a message: the names nearest to one that does not exist."""
    models = {name.model for name in list_known()} | set(BUNDLED)
    versions = {str(name) for name in list_known()}
    pool = sorted(models | versions if "-v" in text else models)
    close = difflib.get_close_matches(text.lower(), pool, n=3, cutoff=0.6)
    nearest = f"nearest: {', '.join(close)}; " if close else ""
    return f"{nearest}bundled: {', '.join(BUNDLED)}; `pet-calc models` lists all"
