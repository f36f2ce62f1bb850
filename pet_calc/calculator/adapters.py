"""Several adapters on one loaded base, of which a calculator uses one at a time."""

from collections.abc import Callable, Mapping
from pathlib import Path

from pet_calc.calculator.from_checkpoint import CheckpointBackend
from pet_calc.checkpoint.adapter import load_adapter
from pet_calc.lora.bank import AdapterBank
from pet_calc.model.pet import PET

Build = Callable[[str | None, str | None], CheckpointBackend]


class AdapterSwitch:
    """Makes the backend of the base with one of its adapters, or of the base alone."""

    def __init__(
        self,
        model: PET,
        adapters: Mapping[str, str | Path],
        build: Build,
        *,
        base_name: str = "",
    ) -> None:
        """Read the adapters, and check that they belong to the base.

        Args:
            model: the base, merged; changed in place from now on.
            adapters: files, by the names they get.
            build: makes a backend of the model as it is, for the name of the adapter
                that is active (None: the base alone) and a target (None: as usual).
            base_name: what the base is called, for messages.

        Raises:
            CheckpointError: if a file cannot be read.
            LoRAError: if an adapter belongs to another base.
        """
        self._bank = AdapterBank(model, base_name=base_name)
        for name, path in adapters.items():
            self._bank.add(name, load_adapter(path))
        self._build = build

    @property
    def active(self) -> str | None:
        """Name of the active adapter, None for the base alone."""
        return self._bank.active

    def switch(self, name: str | None, target: str | None) -> CheckpointBackend:
        """Activate an adapter, or none, and return its backend.

        Raises:
            LoRAError: if there is no such adapter, or it does not fit.
            ModelError: if the model lacks the target then. Whichever adapter was
                active before is so again.
        """
        before = self._bank.active
        try:
            self._activate(name)
            return self._build(name, target)
        except BaseException:
            self._activate(before)
            raise

    def _activate(self, name: str | None) -> None:
        if name is None:
            self._bank.disable()
        else:
            self._bank.activate(name)
