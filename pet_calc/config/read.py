"""Reading and writing an options file: metatrain's YAML, with additions."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pet_calc.config.flags import apply_changes
from pet_calc.config.messages import OptionError
from pet_calc.config.options import RunOptions
from pet_calc.config.yaml_file import dump_yaml, read_yaml
from pet_calc.errors import ConfigError
from pet_calc.system.atomic import write_text_atomically


def read_options(path: str | Path, changes: Sequence[str] = ()) -> RunOptions:
    """Return the options in a YAML file.

    Paths in it are relative to the working directory. An option that is unknown, of
    the wrong type, or known but not supported raises ``ConfigError`` with its full
    name.

    Args:
        path: of the file.
        changes: what ``--set`` sets afterwards.
    """
    try:
        values = read_yaml(path)
        apply_changes(values, changes)
        return parse_options(values)
    except ConfigError as error:
        message = str(error)
        prefix = "" if message.startswith(f"{path}:") else f"{path}: "
        raise OptionError(prefix + message) from error


def parse_options(values: Mapping[str, Any]) -> RunOptions:
    """Return the options in a mapping of the shape of an options file."""
    return RunOptions(**{str(key): value for key, value in values.items()})


def write_options(options: RunOptions, path: str | Path) -> None:
    """Write the options with all defaults filled in, as YAML."""
    write_text_atomically(path, dump_yaml(options_to_dict(options)))


def options_to_dict(options: RunOptions) -> dict[str, Any]:
    """Return the options in the shape of an options file.

    Only text, numbers, true/false, None, lists and dicts; ``parse_options`` makes an
    equal object of it.
    """
    values = options.model_dump()
    # an empty list of data sets is refused in a file
    for name in ("retain_set", "replay_set"):
        values[name] = values[name] or None
    plain: dict[str, Any] = _to_plain(values)
    return plain


def _to_plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _to_plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_to_plain(item) for item in value]
    return value
