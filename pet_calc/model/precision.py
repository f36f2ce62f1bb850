"""Mixed precision in PyTorch: large matrix products in bfloat16, all else as it is."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch.overrides import TorchFunctionMode

# layers with fewer inputs or outputs stay exact: the geometry, LoRA of a small rank and
# the last layer of a head cost nothing, and their rounding would show in the energies
NARROW = 32


class Bfloat16Products(TorchFunctionMode):
    """Within this context, linear layers multiply in bfloat16.

    Their results are float32 again, so that the residual stream, norms, attention, the
    geometry and all sums keep float32. Gradients of these layers, of any order,
    multiply in bfloat16 too, also after the context's end. float64 is left alone.
    TF32, which PyTorch allows for all products of a process or for none, is not
    touched: it would round the geometry as well.
    """

    _n_entered: ClassVar[int] = 0

    def __enter__(self) -> "Bfloat16Products":
        """Begin."""
        Bfloat16Products._n_entered += 1
        return super().__enter__()

    def __exit__(self, *reason: Any) -> None:
        """End."""
        Bfloat16Products._n_entered -= 1
        super().__exit__(*reason)

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Replace ``F.linear``; everything else is called as it is."""
        kwargs = kwargs or {}
        if func is not F.linear:
            return func(*args, **kwargs)
        return _multiply(*args, **kwargs)


def repeat_precision() -> Callable[[], AbstractContextManager[Any]]:
    """Return what makes the context of now again, for what is computed again later."""
    return Bfloat16Products if Bfloat16Products._n_entered else nullcontext


def _multiply(
    x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None
) -> torch.Tensor:
    if x.dtype != torch.float32 or min(weight.shape) < NARROW:
        return F.linear(x, weight, bias)
    product = F.linear(x.to(torch.bfloat16), weight.to(torch.bfloat16))
    product = product.to(torch.float32)
    return product if bias is None else product + bias
