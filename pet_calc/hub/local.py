"""Public models that are on this machine: in the Hub's cache, or placed by hand."""

from pathlib import Path

from pet_calc.hub.names import REPOSITORY, ModelName, parse_file_name


def get_cache_folder() -> Path:
    """Return where huggingface_hub keeps downloads (``HF_HUB_CACHE``)."""
    from huggingface_hub import constants

    return Path(constants.HF_HUB_CACHE)


def get_placing_folder() -> Path:
    """Return where files copied by hand are found by name: ``HF_HOME/pet-calc``."""
    from huggingface_hub import constants

    return Path(constants.HF_HOME) / "pet-calc"


def list_local() -> dict[ModelName, Path]:
    """Return the public models on this machine; a placed file goes before a cached."""
    # the layout of huggingface_hub's cache; the newest revision comes last and wins
    folder = get_cache_folder() / f"models--{REPOSITORY.replace('/', '--')}"
    snapshots = sorted(folder.glob("snapshots/*"), key=lambda p: p.stat().st_mtime)
    found: dict[ModelName, Path] = {}
    for part in [*(s / "models" for s in snapshots), get_placing_folder()]:
        for path in sorted(part.glob("pet-*.ckpt")):
            name = parse_file_name(path.name)
            if name is not None and path.is_file():
                found[name] = path
    return found


def find_local(name: ModelName) -> Path | None:
    """Return the file of a version, or of the newest one here if none is named."""
    here = list_local()
    if name.version:
        return here.get(name)
    versions = [other for other in here if other.model == name.model]
    return here[max(versions)] if versions else None
