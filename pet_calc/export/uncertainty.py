"""Uncertainty, ensemble and features of an energy, as an exported file has them."""

import torch
from torch import Tensor, nn

from pet_calc.export.composition import keep_bits, restore_bits
from pet_calc.model.hypers import ENERGY
from pet_calc.model.uncertainty import LastLayerUncertainty

UNCERTAINTY = "uncertainty"
ENSEMBLE = "ensemble"
FEATURE = "feature"


class UncertaintyTables(nn.Module):
    """A target's ``LastLayerUncertainty``, safe from ``Module.to(dtype)``.

    The factor's condition may be 1e4: in float32 it would be another uncertainty.
    """

    cholesky: Tensor
    multiplier: Tensor
    members: Tensor

    def __init__(self, own: LastLayerUncertainty) -> None:
        super().__init__()
        self.register_buffer("cholesky", keep_bits(own.cholesky))
        self.register_buffer("multiplier", keep_bits(own.multiplier))
        self.register_buffer("members", keep_bits(own.members))

    def forward(self, features: Tensor) -> Tensor:
        """Return standard deviations [n, 1], float64, for features [n, n_features].

        They can be differentiated.
        """
        factor = restore_bits(self.cholesky)
        columns = features.to(torch.float64).t()
        solved = torch.linalg.solve_triangular(factor, columns, upper=False)
        lengths = torch.linalg.vector_norm(solved, dim=0)
        return (restore_bits(self.multiplier) * lengths).unsqueeze(1)

    @torch.jit.export
    def deviate(self, features: Tensor) -> Tensor:
        """Return what the members differ from the prediction by, [n, n_members]."""
        return features.to(torch.float64) @ restore_bits(self.members).t()

    @torch.jit.export
    def count_members(self) -> int:
        """Return the size of the ensemble, 0 without one."""
        return self.members.shape[0]


def name_extra_output(target: str, kind: str) -> str:
    """Return metatomic's name of a target's uncertainty, ensemble or features.

    Energies with names of their own get metatrain's.

    Args:
        target: name of an energy.
        kind: ``UNCERTAINTY``, ``ENSEMBLE`` or ``FEATURE``.
    """
    base, _, variant = target.partition("/")
    if base == ENERGY:
        standard = kind if kind == FEATURE else f"{ENERGY}_{kind}"
        return standard + (f"/{variant}" if variant else "")
    ending = "last_layer_features" if kind == FEATURE else kind
    return f"mtt::aux::{target.removeprefix('mtt::')}_{ending}"
