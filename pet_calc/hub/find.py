"""From what a user wrote to a file: a path, a bundled model, or a public one."""

import logging
from pathlib import Path

from pet_calc.assets import BUNDLED
from pet_calc.errors import HubError, HubUnreachableError
from pet_calc.hub.download import download_model, fetch_list
from pet_calc.hub.local import find_local
from pet_calc.hub.names import (
    ModelName,
    is_known,
    parse_file_name,
    parse_name,
    suggest_names,
)
from pet_calc.system.paths import expand_path

logger = logging.getLogger(__name__)

_SUFFIXES = (".ckpt", ".pt", ".gz", ".safetensors")


def find_model(name: str | Path) -> Path:
    """Return the path of an existing model file; download it if its name says so.

    Tried in this order: a file of this name, a bundled model, a public model such as
    ``pet-mad-s`` (its latest version) or ``pet-mad-s-v1.1.0``. What is here already is
    not downloaded again; for the latest version the Hub is asked which that is, and
    without network the newest version here is taken, with a warning.

    Raises:
        HubError: if there is no such file or model, or the download fails.
    """
    name = expand_path(name) if isinstance(name, str) else Path(expand_path(name))
    path, text = Path(name), str(name)
    public = parse_name(text)
    if path.is_file():
        if public is not None or text in BUNDLED:
            logger.warning("%s: taken as the file here, not as a model's name", text)
        return path
    if text in BUNDLED:
        return BUNDLED[text]
    # a name from after the table's date is asked for with its version
    if public is not None and (public.version or is_known(public)):
        return _find_public(public)
    if path.is_dir():
        raise HubError(f"{text}: this is a folder, name a file in it")
    if isinstance(name, Path) or path.name != text or path.suffix in _SUFFIXES:
        hint = ""
        if parse_file_name(text):
            hint = f"; without .ckpt, {path.stem} is a model that is downloaded"
        raise HubError(f"{text}: there is no such file{hint}")
    raise HubError(
        f"{text}: there is no such file, nor a model of this name; "
        f"{suggest_names(text)}"
    )


def pin_version(name: str) -> str:
    """Return a model's name with the version it stands for now; others as they are.

    The model is downloaded if it is not here.

    Raises:
        HubError: as ``find_model``.
    """
    path = find_model(name)
    is_latest = parse_name(name) is not None and path != Path(name)
    return path.stem if is_latest and name not in BUNDLED else name


def _find_public(name: ModelName) -> Path:
    local = find_local(name)
    if name.version and local is not None:
        logger.info("%s: %s", name, local)
        return local
    try:
        remote = fetch_list(name)
    except HubUnreachableError as error:
        if local is None:
            raise
        logger.warning(
            "%s: taking %s, the newest here, for the Hub cannot be asked (%s)",
            name,
            local.stem,
            str(error).partition(";")[0],
        )
        return local
    versions = sorted(found for found in remote if found.model == name.model)
    if not versions or (name.version and name not in remote):
        there = ", ".join(found.version_text for found in reversed(versions))
        raise HubError(
            f"{name}: the Hub has no such model; "
            + (f"versions there: {there}" if versions else suggest_names(str(name)))
        )
    newest = name if name.version else versions[-1]
    path = find_local(newest) or download_model(newest, remote[newest])
    logger.info("%s: %s", name, path)
    return path
