"""A linear layer with a low-rank correction, W = W0 + (alpha / r) B A.

Weights are in torch's layout: W0 is [out, in], A is [r, in], B is [out, r].
"""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from pet_calc.errors import LoRAError


@dataclass(frozen=True)
class LoRAConfig:
    """Which layers get a low-rank correction, and of which size."""

    rank: int = 8
    """Inner dimension r of the correction; at least 1."""
    alpha: float = 16.0
    """Scale: the correction is multiplied by alpha / rank."""
    targets: tuple[str, ...] = ("edges",)
    """Names of the layers, such as ``edges``, ``input_linear``, ``mlp``."""

    def __post_init__(self) -> None:
        _check_size(self.rank, self.alpha)
        if isinstance(self.targets, str):
            raise LoRAError(
                f"LoRA targets must be a list of names, got the text {self.targets!r}"
            )
        # files and YAML bring lists
        object.__setattr__(self, "targets", tuple(self.targets))
        if not self.targets:
            raise LoRAError("LoRA needs at least one target layer, got an empty list")

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "LoRAConfig":
        """Build from a plain mapping as ``to_dict`` writes it."""
        return cls(**values)

    def to_dict(self) -> dict[str, Any]:
        """Return a plain mapping of numbers and a list of strings."""
        return {**asdict(self), "targets": list(self.targets)}


class LoRALinear(nn.Module):
    """``linear`` plus ``scaling * lora_B(lora_A(x))``.

    A starts Kaiming-uniform and B at zero, so that a new layer gives exactly what
    ``linear`` alone gives.

    Attributes:
        linear: the base layer, kept as the same object.
        lora_A: in -> r, without bias.
        lora_B: r -> out, without bias.
        scaling: alpha / r.
        is_enabled: False leaves the correction out.
    """

    def __init__(
        self,
        linear: nn.Linear,
        rank: int,
        alpha: float,
        *,
        generator: torch.Generator | None = None,
    ) -> None:
        """Wrap ``linear``, on its device and in its dtype.

        Args:
            linear: the base layer.
            rank: inner dimension of the correction.
            alpha: the correction is multiplied by alpha / rank.
            generator: CPU generator that A is drawn from; None is one with seed 0.
                The global generator is never touched.

        Raises:
            LoRAError: if ``rank`` is below 1 or ``alpha`` is not positive.
        """
        super().__init__()
        _check_size(rank, alpha)
        self.in_features = linear.in_features
        self.out_features = linear.out_features
        self.rank = rank
        self.alpha = float(alpha)
        self.scaling = float(alpha) / rank
        self.is_enabled = True
        self.linear = linear
        # skip_init: nn.Linear's own start values would advance the global generator
        like = {"device": linear.weight.device, "dtype": linear.weight.dtype}
        self.lora_A = nn.utils.skip_init(
            nn.Linear, self.in_features, rank, bias=False, **like
        )
        self.lora_B = nn.utils.skip_init(
            nn.Linear, rank, self.out_features, bias=False, **like
        )
        if generator is None:
            generator = torch.Generator().manual_seed(0)
        self.reset_parameters(generator)
        self.train(linear.training)

    def reset_parameters(self, generator: torch.Generator) -> None:
        """Draw A and zero B, in place; the same numbers on every device and dtype."""
        start = torch.empty((self.rank, self.in_features), dtype=torch.float64)
        nn.init.kaiming_uniform_(start, a=math.sqrt(5), generator=generator)
        with torch.no_grad():
            self.lora_A.weight.copy_(start)
            self.lora_B.weight.zero_()

    def forward(self, x: Tensor) -> Tensor:
        """Map [..., in_features] to [..., out_features]."""
        out = self.linear(x)
        if not self.is_enabled:
            return out
        low = self.lora_A(x)
        if out.dim() == 2:
            # one kernel instead of three; adding an exact zero keeps `out` exact
            return torch.addmm(out, low, self.lora_B.weight.t(), alpha=self.scaling)
        return out + self.scaling * self.lora_B(low)

    @property
    def weight(self) -> Tensor:
        """The one weight that does what ``forward`` does, [out, in], with gradient."""
        if not self.is_enabled:
            return self.linear.weight
        return torch.addmm(
            self.linear.weight,
            self.lora_B.weight,
            self.lora_A.weight,
            alpha=self.scaling,
        )

    @property
    def factors(self) -> tuple[Tensor, Tensor] | None:
        """A [r, in] and scaled B [r, out], if all that trains here is in them.

        The correction of the weight is the second, transposed, times the first.
        """
        if self.linear.weight.requires_grad or not self.is_enabled:
            return None
        return self.lora_A.weight, self.scaling * self.lora_B.weight.t()

    @property
    def bias(self) -> Tensor:
        """The base layer's bias, [out]."""
        return self.linear.bias

    def merged_weight(self, name: str = "the layer") -> Tensor:
        """Return the one weight that does what ``forward`` does, [out, in], detached.

        Args:
            name: of the layer, for the message.

        Raises:
            LoRAError: if the result is not finite in the base weight's dtype.
        """
        weight = self.linear.weight.detach()
        if not self.is_enabled:
            return weight.clone()
        return compute_merged_weight(
            weight, self.lora_A.weight, self.lora_B.weight, self.scaling, name
        )

    def extra_repr(self) -> str:
        """Return rank and alpha, for ``print(model)``."""
        return f"rank={self.rank}, alpha={self.alpha:g}, is_enabled={self.is_enabled}"


def compute_merged_weight(
    weight: Tensor, lora_a: Tensor, lora_b: Tensor, scaling: float, name: str
) -> Tensor:
    """Return W0 + scaling * B A, summed in float64 and cast to the dtype of W0.

    Args:
        weight: [out, in], W0.
        lora_a: [r, in].
        lora_b: [out, r].
        scaling: alpha / r.
        name: of the layer, for the message.

    Raises:
        LoRAError: if the result is not finite.
    """
    with torch.no_grad():
        # on the CPU, so that every device gives the same bits (and some lack float64)
        base, a, b = (
            part.to(device="cpu", dtype=torch.float64)
            for part in (weight, lora_a, lora_b)
        )
        merged = (base + scaling * (b @ a)).to(weight.dtype)
    if not bool(torch.isfinite(merged).all()):
        raise LoRAError(
            f"{name}: the merged weight is not finite in {weight.dtype}; "
            "the training diverged or the file is damaged"
        )
    return merged.to(weight.device)


def _check_size(rank: int, alpha: float) -> None:
    if isinstance(rank, bool) or not isinstance(rank, int) or rank < 1:
        raise LoRAError(f"LoRA rank must be an integer of at least 1, got {rank!r}")
    if not (math.isfinite(alpha) and alpha > 0.0):
        raise LoRAError(f"LoRA alpha must be a positive number, got {alpha!r}")
