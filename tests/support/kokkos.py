"""The shapes of a PET that pet-kokkos has code for, and those that it has not."""

import pytest
import torch
from support.models import build_model

RESIDUAL = {
    "featurizer_type": "residual",
    "transformer_type": "PostLN",
    "normalization": "LayerNorm",
    "activation": "SiLU",
    "d_node": 8,
}
SUPPORTED = {
    "feedforward": {},
    "one layer": {"num_gnn_layers": 1},
    "three layers": {"num_gnn_layers": 3, "num_attention_layers": 2},
    "widths": {"d_feedforward": 12, "d_head": 6, "d_node": 12},
    "odd heads": {"d_pet": 6, "num_heads": 2},
    "temperature": {"attention_temperature": 1.7},
    "cosine": {"cutoff_function": "Cosine"},
    "adaptive": {"num_neighbors_adaptive": 6.0},
    "adaptive width": {"num_neighbors_adaptive": 6.0, "cutoff_width_adaptive": 0.7},
    "grid": {"num_neighbors_adaptive": 6.0, "adaptive_cutoff_method": "grid"},
    "conditioned": {"system_conditioning": True, "max_charge": 4},
    "residual": RESIDUAL,
    "residual, cosine": {**RESIDUAL, "cutoff_function": "Cosine"},
    "residual, conditioned": {**RESIDUAL, "system_conditioning": True},
}
# what is refused, and the words that name it
UNSUPPORTED = {
    "PostLN": ({"transformer_type": "PostLN"}, "feedforward with PostLN"),
    "LayerNorm": ({"normalization": "LayerNorm"}, "LayerNorm"),
    "SiLU": ({"activation": "SiLU"}, "SiLU"),
    "narrow node": ({"d_node": 8}, "d_node 8, which must be other than d_pet 8"),
    "residual PreLN": (
        {**RESIDUAL, "transformer_type": "PreLN"},
        "residual with PreLN",
    ),
    "residual wide node": (
        {**RESIDUAL, "d_node": 16},
        "d_node 16, which must be equal to d_pet 8",
    ),
    "residual adaptive": (
        {**RESIDUAL, "num_neighbors_adaptive": 6.0},
        "residual with an adaptive cutoff",
    ),
    "wide heads": ({"d_pet": 130, "num_heads": 1}, "130 wide, and 128 is its limit"),
    "ZBL": ({"zbl": True}, "the ZBL repulsion"),
}


def build_supported(name):
    """A model in float32 with the weights of no other."""
    return build_model(dtype=torch.float32, **SUPPORTED[name])


def import_kokkos():
    """The package, or a skipped test."""
    return pytest.importorskip(
        "pet_kokkos", reason="pet-kokkos is not installed (pip install pet-kokkos)"
    )
