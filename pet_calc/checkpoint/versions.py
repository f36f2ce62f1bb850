"""What changed between the versions of metatrain's PET checkpoints, 1 to 16.

Every step is a fact about files that exist; ``convert_metatrain`` applies all of them
at once, by the file's version.
"""

import logging
from dataclasses import fields
from typing import Any

from torch import Tensor

from pet_calc.errors import CheckpointError
from pet_calc.model.hypers import PETHypers

log = logging.getLogger(__name__)

LATEST_VERSION = 16
"""Newest model version that is understood (metatrain 2026.4)."""

BACKEND = "backend."
"""Prefix of the network's weights since version 16."""

TABLE_PREFIXES = ("additive_models.", "scaler.")
"""Prefixes of what is not the network: composition, ZBL, scales."""

LONG_RANGE_DEFAULTS: dict[str, Any] = {
    "enable": False,
    "use_ewald": False,
    "smearing": 1.4,
    "kspace_resolution": 1.33,
    "interpolation_nodes": 5,
}
"""Block that newer files always carry, used or not."""

# tables with one more row than there are species, before version 8
_PADDED_NAMES = ("embedding.weight", "node_embedding.weight")
_PADDED_PARTS = (".node_embedder.", ".neighbor_embedder.")


def read_version(content: dict[str, Any], latest: int, what: str) -> int:
    """Return the version of a file's model, 1 for files from before they were counted.

    Args:
        content: the outer dict of the file.
        latest: version that is understood.
        what: the file is, for the message.

    Raises:
        CheckpointError: if it is a later one.
    """
    version = content.get("model_ckpt_version")
    version = 1 if version is None else version
    if not 1 <= version <= latest:
        raise CheckpointError(
            f"expected {what} of version 1 to {latest}, got {version}; update pet-calc "
            "to read it"
        )
    return int(version)


def is_large_scale(version: int, state: dict[str, Any]) -> bool:
    """Return whether this is one of the large early models, of another shape.

    They (before version 8) have one node embedding of their own, and always used the
    last weights.
    """
    return version < 8 and "node_embedding.weight" in state


def upgrade_hypers(
    version: int, values: dict[str, Any], *, large_scale: bool
) -> PETHypers:
    """Return the hypers, with what the file's version took for granted.

    Raises:
        CheckpointError: if one is missing that the version should have, or the model
            uses the long-range module.
    """
    values = dict(values)
    long_range = values.pop("long_range", None) or {}
    if long_range.get("enable", False):
        raise CheckpointError(
            "the model uses long_range (enable: true), which pet-calc does not "
            "support yet; use metatrain for this model"
        )
    if version < 8 and large_scale:
        d_pet = values["d_pet"]
        values.update(
            normalization="RMSNorm",
            activation="SwiGLU",
            transformer_type="PreLN",
            featurizer_type="feedforward",
            d_node=4 * d_pet,
            d_feedforward=2 * d_pet,
        )
    elif version < 8:
        values.setdefault("normalization", "LayerNorm")
        values.setdefault("activation", "SiLU")
        values.setdefault("transformer_type", "PostLN")
        values.setdefault("featurizer_type", "residual")
        values.setdefault("d_node", values["d_pet"])
    if version < 10:
        values.setdefault("num_neighbors_adaptive", None)
        values.setdefault("cutoff_function", "Cosine")
    if version < 11:
        values.setdefault("attention_temperature", 1.0)
    if version < 12:
        values.setdefault("adaptive_cutoff_method", "grid")
    if version < 14:
        values.setdefault("cutoff_width_adaptive", values["cutoff_width"])
    if version < 15:
        values.setdefault("system_conditioning", False)
        values.setdefault("max_charge", 10)
        values.setdefault("max_spin_multiplicity", 10)
    missing = [f.name for f in fields(PETHypers) if f.name not in values]
    if missing:
        raise CheckpointError(
            f"model_hypers lack {', '.join(missing)}, which files of version "
            f"{version} should have"
        )
    known = {f.name for f in fields(PETHypers)}
    unknown = sorted(set(values) - known)
    if unknown:
        # metatrain, too, builds the model without them
        log.warning("ignoring unknown model_hypers: %s", ", ".join(unknown))
    return PETHypers.from_dict({k: v for k, v in values.items() if k in known})


def upgrade_weights(
    version: int, state: dict[str, Any], *, large_scale: bool
) -> dict[str, Tensor]:
    """Return the network's weights under today's names, without a prefix.

    Composition, ZBL, scales and everything that is not a tensor are left out.
    """
    weights: dict[str, Tensor] = {}
    for name, value in state.items():
        if name.startswith(TABLE_PREFIXES) or not isinstance(value, Tensor):
            continue
        if version < 8:
            name, value = _upgrade_to_v8(name, value, large_scale=large_scale)
        elif version >= 16:
            # the conditioning is there twice; the other copy has the prefix
            if name.startswith("system_conditioning."):
                continue
            name = name.removeprefix(BACKEND)
        weights[name] = value
    return weights


def _upgrade_to_v8(
    name: str, value: Tensor, *, large_scale: bool
) -> tuple[str, Tensor]:
    if name in _PADDED_NAMES or any(part in name for part in _PADDED_PARTS):
        value = value[:-1]
    if name == "embedding.weight":
        return "edge_embedder.weight", value
    if large_scale:
        if name == "node_embedding.weight":
            return "node_embedders.0.weight", value
        return name.replace("combination_rmsnorms.", "combination_norms."), value
    if ".node_embedder." in name:
        layer = name.split(".")[1]
        return f"node_embedders.{layer}.weight", value
    name = name.replace(".mlp.0.", ".mlp.w_in.").replace(".mlp.3.", ".mlp.w_out.")
    return name, value
