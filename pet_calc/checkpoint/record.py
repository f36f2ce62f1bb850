"""What a model file holds, whichever format it came in."""

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from pet_calc.errors import CheckpointError
from pet_calc.lora.inject import inject_layers, lora_config_of
from pet_calc.lora.layer import LoRAConfig
from pet_calc.model.hypers import PETHypers, TargetSpec
from pet_calc.model.pet import PET
from pet_calc.model.tables import is_table

_MAX_LISTED = 8
_FACTOR = ".lora_A.weight"


@dataclass
class Checkpoint:
    """A model as data: enough to build it, and to say where it came from.

    ``state`` has the names of ``PET.state_dict()``. If ``lora`` is set, the layers it
    names are still unmerged (``*.linear.weight``, ``*.lora_A.weight``,
    ``*.lora_B.weight``).
    """

    hypers: PETHypers
    atomic_types: list[int]
    """Ascending atomic numbers that the model knows."""
    targets: dict[str, TargetSpec]
    state: dict[str, Tensor]
    length_unit: str = "angstrom"
    lora: LoRAConfig | None = None
    metadata: dict[str, Any] = field(default_factory=dict)
    """Name, authors, references, provenance: strings, numbers, lists, dicts."""
    extras: dict[str, Any] = field(default_factory=dict)
    """What pet-calc does not use but must not lose (the uncertainty wrapper)."""
    source: str = ""
    """Where it was read from, for messages."""

    @property
    def dtype(self) -> torch.dtype:
        """Floating dtype of the weights, without the float64 tables."""
        for name, value in self.state.items():
            if value.is_floating_point() and not is_table(name):
                return value.dtype
        return torch.get_default_dtype()

    @classmethod
    def from_model(
        cls,
        model: PET,
        *,
        length_unit: str = "angstrom",
        metadata: dict[str, Any] | None = None,
        extras: dict[str, Any] | None = None,
    ) -> "Checkpoint":
        """Return the record of ``model`` as it is now; later training leaves it alone.

        Args:
            model: on any device; its weights are copied to the CPU. LoRA layers
                stay unmerged.
            length_unit: of the cutoff and positions.
            metadata: strings, numbers, lists, dicts.
            extras: what else to keep beside the model, tensors allowed.
        """
        state = {
            name: value.detach().cpu().clone()
            for name, value in model.state_dict().items()
        }
        return cls(
            hypers=model.hypers,
            atomic_types=list(model.atomic_types),
            targets=dict(model.targets),
            state=state,
            length_unit=length_unit,
            lora=lora_config_of(model),
            metadata=dict(metadata or {}),
            extras=dict(extras or {}),
        )

    def build_model(
        self,
        *,
        dtype: torch.dtype | None = None,
        device: torch.device | str = "cpu",
    ) -> PET:
        """Return the model with these weights, in eval mode.

        Args:
            dtype: of the weights; None keeps the file's. The tables stay float64.
            device: where the model goes.

        Raises:
            CheckpointError: if the weights are not those of a model of this shape.
        """
        # the fresh weights are overwritten; the caller's random numbers must not move
        with torch.random.fork_rng(devices=[]):
            model = PET(self.hypers, self.atomic_types, list(self.targets.values()))
        if self.lora is not None:
            # by the names in the file: exact, whatever the targets mean elsewhere
            wrapped = [n.removesuffix(_FACTOR) for n in self.state if _FACTOR in n]
            inject_layers(model, wrapped, self.lora)
        model = model.to(self.dtype)
        self._check_state(model.state_dict())
        model.load_state_dict(self.state)
        model = model.to(device=device, dtype=dtype or self.dtype)
        return model.eval()

    def _check_state(self, expected: dict[str, Tensor]) -> None:
        problems = []
        for title, names in (
            ("missing", [n for n in expected if n not in self.state]),
            ("unexpected", [n for n in self.state if n not in expected]),
        ):
            if names:
                problems.append(f"{title}: {_shorten(names)}")
        misfits = [
            f"{name} is {tuple(self.state[name].shape)}, not {tuple(value.shape)}"
            for name, value in expected.items()
            if name in self.state and self.state[name].shape != value.shape
        ]
        if misfits:
            problems.append(f"of another shape: {_shorten(misfits)}")
        if problems:
            origin = f"{self.source}: " if self.source else ""
            raise CheckpointError(
                f"{origin}the weights do not fit the model's hypers and targets; "
                + "; ".join(problems)
            )


def _shorten(names: list[str]) -> str:
    text = ", ".join(names[:_MAX_LISTED])
    n_more = len(names) - _MAX_LISTED
    return f"{text} and {n_more} more" if n_more > 0 else text
