"""Several adapters on one loaded base, one active at a time."""

from typing import TYPE_CHECKING

from torch import Tensor, nn

from pet_calc.errors import LoRAError
from pet_calc.lora.adapter import (
    Adapter,
    add_missing_elements,
    add_missing_targets,
    check_base,
    check_fit,
    copy_tensors,
)
from pet_calc.lora.fingerprint import compute_fingerprint
from pet_calc.lora.inject import has_lora
from pet_calc.lora.layer import compute_merged_weight
from pet_calc.model.elements import remove_elements

if TYPE_CHECKING:
    from pet_calc.model.pet import PET


class AdapterBank:
    """Switches adapters on a base model, in place.

    The active adapter is merged into the weights, so it costs nothing at run time;
    the weights it replaces are kept, so ``disable`` brings the base back bit for bit.
    Train the model only while no adapter is active.
    """

    def __init__(self, model: "PET", *, base_name: str = "") -> None:
        """Take a base model without corrections.

        Args:
            model: changed in place by ``activate`` and ``disable``.
            base_name: what the base is called, for messages.
        """
        if has_lora(model):
            raise LoRAError("a bank needs the base alone; merge or remove its LoRA")
        self.model = model
        self.base_name = base_name
        self.fingerprint = compute_fingerprint(model.state_dict())
        self._adapters: dict[str, Adapter] = {}
        self._active: str | None = None
        self._replaced: dict[str, Tensor] = {}
        self._added_targets: list[str] = []

    @property
    def names(self) -> list[str]:
        """Names of the loaded adapters, in the order they came."""
        return list(self._adapters)

    @property
    def active(self) -> str | None:
        """Name of the active adapter, None for the base alone."""
        return self._active

    def add(self, name: str, adapter: Adapter) -> None:
        """Load an adapter under ``name`` without activating it.

        Raises:
            LoRAError: if the name is taken or the adapter belongs to another base.
        """
        if name in self._adapters:
            raise LoRAError(f"there is an adapter called {name!r} already")
        check_base(adapter, self.fingerprint, self.base_name)
        self._adapters[name] = adapter

    def activate(self, name: str) -> None:
        """Make ``name`` the active adapter, in place of whichever is active now.

        Its targets that the base lacks are added to the model until it is disabled.

        Raises:
            LoRAError: if the name is unknown or the adapter does not fit; the base
                alone is active then.
        """
        if name not in self._adapters:
            known = ", ".join(self._adapters) or "none"
            raise LoRAError(f"no adapter {name!r}; loaded: {known}")
        self.disable()
        adapter = self._adapters[name]
        add_missing_elements(self.model, adapter)
        self._active = name
        try:
            self._added_targets = add_missing_targets(self.model, adapter)
            check_fit(self.model, adapter)
            self._replace(adapter.base_tensors())
            self._replace(self._merge(adapter))
        except BaseException:
            self.disable()
            raise

    def disable(self) -> None:
        """Bring the base back, in place: weights, heads, tables, targets."""
        if has_lora(self.model):
            raise LoRAError(
                "LoRA layers were injected while a bank holds the model; "
                "remove them before switching"
            )
        copy_tensors(self.model, self._replaced)
        for name in self._added_targets:
            self.model.remove_target(name)
        if self._active is not None:
            remove_elements(self.model, self._adapters[self._active].new_elements)
        self._replaced = {}
        self._added_targets = []
        self._active = None

    def _merge(self, adapter: Adapter) -> dict[str, Tensor]:
        """Return the merged weight of each corrected layer, by state-dict name."""
        merged = {}
        for path in adapter.layer_names:
            layer = self.model.get_submodule(path)
            assert isinstance(layer, nn.Linear)  # check_fit saw to it
            a, b = adapter.low_rank(path)
            merged[f"{path}.weight"] = compute_merged_weight(
                layer.weight, a, b, adapter.scaling, path
            )
        return merged

    def _replace(self, tensors: dict[str, Tensor]) -> None:
        """Copy values into the model, keeping those of the base."""
        state = self.model.state_dict()
        for name in tensors:
            # setdefault: a head's weight may be replaced first, then merged into
            self._replaced.setdefault(name, state[name].clone())
        copy_tensors(self.model, tensors)
