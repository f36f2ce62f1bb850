"""Keep what metatrain's uncertainty wrapper (LLPR) adds to a model.

The wrapper has, per target, the covariance of the last-layer features, its Cholesky
factor, a calibration factor, and the last layers of an ensemble. Older files have the
inverse covariance and the ensemble under other names; all are brought to version 4.
"""

from typing import Any

import torch
from torch import Tensor

from pet_calc.checkpoint.versions import read_version
from pet_calc.errors import CheckpointError

LATEST_VERSION = 4
"""Newest version of the wrapper that is understood (metatrain 2026.4)."""

_ENSEMBLE_SUFFIX = "_ensemble_weights"
_SMALLEST_RIDGE = 1e-20
_LARGEST_RIDGE = 1e16


def collect_llpr(content: dict[str, Any]) -> dict[str, Any]:
    """Return the wrapper's tensors and hypers, as of version 4.

    Args:
        content: the outer dict of an LLPR checkpoint.

    Returns:
        ``version``; ``state``, tensors by name; ``num_ensemble_members``, by target.
    """
    read_version(content, LATEST_VERSION, "an LLPR wrapper")
    # before version 3 there was one set of tensors, under another name
    saved = (
        content.get("best_model_state_dict")
        or content.get("model_state_dict")
        or content.get("state_dict")
        or {}
    )
    state = {k: v for k, v in saved.items() if isinstance(v, Tensor)}
    state = {k: v for k, v in state.items() if not k.startswith("model.")}
    members = _upgrade_ensembles(state)
    _upgrade_covariances(state)
    hypers = (content.get("model_data") or {}).get("hypers") or {}
    if "num_ensemble_members" in hypers:
        members = {str(k): int(v) for k, v in hypers["num_ensemble_members"].items()}
    return {
        "version": LATEST_VERSION,
        "state": state,
        "num_ensemble_members": members,
    }


def _upgrade_ensembles(state: dict[str, Tensor]) -> dict[str, int]:
    """Rename the ensembles of versions 1 and 2, in place; return their sizes."""
    members: dict[str, int] = {}
    for name in [k for k in state if k.endswith(_ENSEMBLE_SUFFIX)]:
        target = name.removesuffix(_ENSEMBLE_SUFFIX).replace("mtt::aux::", "mtt::")
        weights = state.pop(name)  # [n_features, n_members]
        state[f"llpr_ensemble_layers.{target}.weight"] = weights.T.contiguous()
        members[target] = weights.shape[1]
    return members


def _upgrade_covariances(state: dict[str, Tensor]) -> None:
    """Replace inverse covariances by Cholesky factors, in place."""
    for name in [k for k in state if k.startswith("inv_covariance_")]:
        output = name.removeprefix("inv_covariance_")
        del state[name]
        state[f"cholesky_{output}"] = _factorise(state[f"covariance_{output}"])


def _factorise(covariance: Tensor) -> Tensor:
    """Return the Cholesky factor, with the smallest ridge that makes it exist."""
    matrix = covariance.to(torch.float64)
    matrix = 0.5 * (matrix + matrix.T)
    identity = torch.eye(matrix.shape[0], dtype=torch.float64)
    ridge = _SMALLEST_RIDGE
    while ridge < _LARGEST_RIDGE:
        factor, failure = torch.linalg.cholesky_ex(matrix + ridge * identity)
        if int(failure) == 0:
            return factor.to(covariance.dtype)
        ridge *= 10.0
    raise CheckpointError("the LLPR covariance has no Cholesky factor")
