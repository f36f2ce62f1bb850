"""Ask Hugging Face for models, download and verify them; errors say what to do."""

import errno
import hashlib
import logging
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from pet_calc.assets import BUNDLED
from pet_calc.errors import HubError, HubUnreachableError
from pet_calc.hub.local import get_cache_folder, get_placing_folder
from pet_calc.hub.names import (
    REPOSITORY,
    ModelName,
    find_newest_known,
    parse_file_name,
)

logger = logging.getLogger(__name__)

LIST_TIMEOUT = 10.0
"""Seconds to wait for the list of models."""

N_TRIES = 3
"""How often a download is begun, or gone on with."""

_MEGABYTE = 1e6
_TRANSPORT = ("httpx", "httpx2", "httpcore", "httpcore2", "requests", "urllib3")
_DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@dataclass(frozen=True)
class RemoteFile:
    """What the Hub says of a checkpoint."""

    size_bytes: int | None
    sha256: str | None


def fetch_list(wanted: ModelName | None = None) -> dict[ModelName, RemoteFile]:
    """Return the models on the Hub now.

    Args:
        wanted: the model that the list is asked for, named in messages.

    Raises:
        HubUnreachableError: without network, or in offline mode.
        HubError: if the Hub refuses.
    """
    from huggingface_hub import HfApi

    try:
        info = HfApi().model_info(REPOSITORY, files_metadata=True, timeout=LIST_TIMEOUT)
    except Exception as error:
        _explain(error, wanted)
    found = {}
    for file in info.siblings or []:
        folder, _, file_name = file.rfilename.rpartition("/")
        name = parse_file_name(file_name)
        if name is not None and folder == "models":
            sha256 = file.lfs.sha256 if file.lfs is not None else None
            found[name] = RemoteFile(file.size, sha256)
    return found


def download_model(name: ModelName, file: RemoteFile) -> Path:
    """Return the path of the model in the cache, after a download that was verified.

    Args:
        name: the model, with its version.
        file: the model's entry in the list of the Hub.

    Raises:
        HubUnreachableError: if the network fails.
        HubError: if the Hub refuses, the disk is full, or the content is not what the
            Hub lists.
    """
    from huggingface_hub import constants, hf_hub_download

    _check_space(name, file)
    size = f" ({file.size_bytes / _MEGABYTE:.1f} MB)" if file.size_bytes else ""
    logger.info(
        "downloading %s%s from %s/%s into %s",
        name.file_name,
        size,
        constants.ENDPOINT,
        REPOSITORY,
        get_cache_folder(),
    )
    for n_left in reversed(range(N_TRIES)):
        try:
            path = hf_hub_download(REPOSITORY, f"models/{name.file_name}")
            break
        except Exception as error:
            # older clients give up on a broken connection, and go on when called again
            if not n_left or not _is_transport(error):
                _explain(error, name)
            logger.warning("%s: the connection broke (%s), trying again", name, error)
    _verify(name, Path(path), file)
    return Path(path)


def explain_by_hand(name: ModelName | None) -> str:
    """Return how to get a model onto a machine that has no network."""
    from huggingface_hub import constants

    if name is None:
        return "the models on this machine work without it"
    full = find_newest_known(name)
    file_name = full.file_name if full.version else f"{full}-vX.Y.Z.ckpt"
    return (
        "on a machine with network download "
        f"{constants.ENDPOINT}/{REPOSITORY}/resolve/main/models/{file_name} and put "
        f"the file into {get_placing_folder()}, or give its path in place of the name; "
        f"bundled, without a download: {', '.join(BUNDLED)}"
    )


def _check_space(name: ModelName, file: RemoteFile) -> None:
    folder = get_cache_folder()
    existing = next(p for p in (folder, *folder.absolute().parents) if p.exists())
    free = shutil.disk_usage(existing).free
    if file.size_bytes is not None and file.size_bytes > free:
        raise HubError(
            f"{name}: {file.size_bytes / _MEGABYTE:.1f} MB to download, but only "
            f"{free / _MEGABYTE:.1f} MB are free in {folder}; make room, or set "
            "HF_HOME to a folder on another disk"
        )


def _verify(name: ModelName, path: Path, file: RemoteFile) -> None:
    """Remove a file whose checksum is not the one listed, and raise."""
    if file.sha256 is None:
        logger.warning("%s: the Hub gives no checksum, the file is not verified", name)
        return
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while chunk := stream.read(2**20):
            digest.update(chunk)
    if digest.hexdigest() != file.sha256:
        # the name in the snapshot is a link to the content
        path.resolve().unlink(missing_ok=True)
        path.unlink(missing_ok=True)
        raise HubError(
            f"{name}: expected SHA-256 {file.sha256}, the downloaded file has "
            f"{digest.hexdigest()}: damaged on the way, or altered by a proxy or a "
            "mirror (HF_ENDPOINT); it was removed, try again"
        )


def _is_transport(error: Exception) -> bool:
    """Return whether the network failed, for every HTTP library the client uses."""
    library = type(error).__module__.partition(".")[0]
    return library in _TRANSPORT or isinstance(error, (ConnectionError, TimeoutError))


def _explain(error: Exception, name: ModelName | None) -> NoReturn:
    """Raise a failure of the client again, with what the user can do about it."""
    from huggingface_hub import constants, get_token
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    what = name or REPOSITORY
    place = f"{constants.ENDPOINT}/{REPOSITORY}"
    # the client hides the reason in the cause
    cause = error.__cause__ or error
    if isinstance(error, HfHubHTTPError):
        status = error.response.status_code
        if status in (401, 403):
            token = (
                "the token in use has no access"
                if get_token()
                else "it needs a token, and none is set"
            )
            raise HubError(
                f"{what}: {place} answers {status}: {token}; accept the terms on that "
                "page if there are any, then set HF_TOKEN or run `hf auth login`"
            ) from error
        raise HubError(
            f"{what}: {place} answers {status}; try again later, check HF_ENDPOINT if "
            f"it is set, or {explain_by_hand(name)}"
        ) from error
    if _is_transport(error) or isinstance(error, LocalEntryNotFoundError):
        reason = (
            "HF_HUB_OFFLINE is set"
            if constants.HF_HUB_OFFLINE
            else f"no connection to {place} ({type(cause).__name__}: {cause})"
        )
        raise HubUnreachableError(
            f"{what}: {reason}; {explain_by_hand(name)}"
        ) from error
    if isinstance(error, OSError) and error.errno in _DISK_ERRORS:
        raise HubError(
            f"{what}: writing into {get_cache_folder()} failed: {error.strerror}; make "
            "room, or set HF_HOME to a folder on another disk, then try again"
        ) from error
    if isinstance(error, OSError):
        raise HubError(
            f"{what}: the download failed: {error}; try again, or "
            f"{explain_by_hand(name)}"
        ) from error
    raise error
