"""YAML as options files use it: YAML 1.2 numbers, no duplicate keys, ``${...}``."""

import re
from collections.abc import Hashable
from pathlib import Path
from typing import Any

import yaml

from pet_calc.config.messages import suggest
from pet_calc.errors import ConfigError


def read_yaml(path: str | Path) -> dict[str, Any]:
    """Return the mapping in a YAML file with its ``${...}`` references filled in."""
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: expected an options file, got {error}") from error
    return parse_yaml(text, str(path))


def parse_yaml(text: str, name: str = "options") -> dict[str, Any]:
    """Return the mapping in YAML text; ``name`` is for messages."""
    try:
        values = yaml.load(text, Loader=_Loader)
    except yaml.YAMLError as error:
        lines = " ".join(str(error).split())
        raise ConfigError(f"{name}: expected YAML, got {lines}") from error
    if not isinstance(values, dict):
        raise ConfigError(
            f"{name}: expected options as `key: value`, got {type(values).__name__}"
        )
    return {key: _fill(values, value, (key,), ()) for key, value in values.items()}


def dump_yaml(values: dict[str, Any], *, flow: bool = False) -> str:
    """Return YAML text in the given order that ``parse_yaml`` reads back.

    With ``flow`` all of it is one line, as in ``{a: 1}``.
    """
    return yaml.dump(
        values,
        Dumper=_Dumper,
        sort_keys=False,
        allow_unicode=True,
        default_flow_style=flow,
        width=10**6 if flow else 88,
    )


class _Loader(yaml.SafeLoader):
    """SafeLoader that reads 1e-4 as a number and refuses a key given twice."""

    def construct_mapping(
        self, node: yaml.MappingNode, deep: bool = False
    ) -> dict[Hashable, Any]:
        seen = set()
        for key_node, _ in node.value:
            key = key_node.value
            if key in seen and key_node.tag != "tag:yaml.org,2002:merge":
                line = key_node.start_mark.line + 1
                raise yaml.YAMLError(f"the key {key!r} twice, again in line {line}")
            seen.add(key)
        return super().construct_mapping(node, deep=deep)


class _Dumper(yaml.SafeDumper):
    """SafeDumper without anchors, which would only confuse a reader."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


# PyYAML follows YAML 1.1, where 1e-4 and 1.0e4 are text: a float needs a dot and a
# signed exponent there.
_FLOAT = re.compile(r"[-+]?(\d[\d_]*(\.[\d_]*)?|\.\d+)[eE][-+]?\d+$")
_Loader.add_implicit_resolver("tag:yaml.org,2002:float", _FLOAT, list("-+.0123456789"))
# text that looks like such a number is quoted on the way out
_Dumper.add_implicit_resolver("tag:yaml.org,2002:float", _FLOAT, list("-+.0123456789"))

_REFERENCE = re.compile(r"\$\{([^${}]*)\}")


def _fill(root: Any, value: Any, path: tuple[Any, ...], seen: tuple[Any, ...]) -> Any:
    """Return ``value``, which stands at ``path``, with its references replaced."""
    if isinstance(value, dict):
        return {k: _fill(root, v, (*path, k), seen) for k, v in value.items()}
    if isinstance(value, list):
        return [_fill(root, v, (*path, i), seen) for i, v in enumerate(value)]
    if not isinstance(value, str) or "${" not in value:
        return value
    name = ".".join(str(part) for part in path)
    if path in seen:
        raise ConfigError(
            f"{name}: expected a value, got {value}, which leads to itself"
        )
    seen = (*seen, path)
    whole = _REFERENCE.fullmatch(value)
    if whole:
        return _follow(root, whole[1], path, seen, name)
    filled = _REFERENCE.sub(
        lambda match: str(_follow(root, match[1], path, seen, name)), value
    )
    if "${" in filled:
        raise ConfigError(f"{name}: expected ${{...}} without nesting, got {value}")
    return filled


def _follow(
    root: Any, reference: str, path: tuple[Any, ...], seen: tuple[Any, ...], name: str
) -> Any:
    """Return what ``a.b`` (from the top) or ``.a`` (from this block) refers to."""
    if ":" in reference:
        raise ConfigError(
            f"{name}: expected a reference such as ${{seed}}, got ${{{reference}}}; "
            "resolvers are not supported, write the value"
        )
    keys = reference.lstrip(".")
    n_dots = len(reference) - len(keys)
    # one dot is the block that holds the value, each further dot one block up
    target: tuple[Any, ...] = path[:-n_dots] if n_dots else ()
    node = root
    for key in target:
        node = node[key]
    for key in keys.split("."):
        if isinstance(node, list) and key.isdigit() and int(key) < len(node):
            node, target = node[int(key)], (*target, int(key))
        elif isinstance(node, dict) and key in node:
            node, target = node[key], (*target, key)
        else:
            known = [str(k) for k in node] if isinstance(node, dict) else []
            raise ConfigError(
                f"{name}: expected a reference to an option, got ${{{reference}}}; "
                f"{suggest(key, known)}"
            )
    return _fill(root, node, target, seen)
