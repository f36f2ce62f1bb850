"""The exceptions that pet-calc raises for input it cannot use.

Every message says what was expected, what came, and what to do next. The command
line prints them as one line and exits with status 2.
"""


class PetCalcError(Exception):
    """Base class of all errors that a user can cause and mend."""


class CheckpointError(PetCalcError):
    """A model file that is missing, damaged, unsafe, or of an unknown kind."""


class HubError(CheckpointError):
    """A model that cannot be found by its name, or not be downloaded."""


class HubUnreachableError(HubError):
    """The Hub cannot be asked: no network, or offline mode."""


class ConfigError(PetCalcError):
    """An option or an options file that is wrong or contradicts itself."""


class DataError(PetCalcError):
    """Frames or labels that cannot be used; names the file and the frame."""


class ModelError(PetCalcError):
    """A request that the model cannot serve, such as an unknown element or target."""


class TooLargeError(PetCalcError, MemoryError):
    """A system that does not fit in memory; names the size that would."""


class UncertaintyError(PetCalcError):
    """A prediction that is less certain than the user wants."""


class LoRAError(PetCalcError):
    """An injection, adapter, or merge that does not fit the model."""


class ExportError(PetCalcError):
    """A model that cannot be exported, or an export that failed its check."""
