"""A user's input file, up to its first run: what it does, without its output files."""

import re
import shlex
from pathlib import Path
from typing import NamedTuple

from pet_calc.errors import ConfigError

# commands that start a simulation; the input is read up to the first of them
_RUNS = {"run", "minimize", "rerun", "neb", "neb/spin", "tad", "prd", "temper", "hyper"}
# commands that would write over files of an earlier run, or only say what to print
_OUTPUT = {
    "dump",
    "dump_modify",
    "undump",
    "info",
    "log",
    "print",
    "restart",
    "thermo",
    "thermo_modify",
    "thermo_style",
    "write_data",
    "write_dump",
    "write_restart",
}
# fixes change forces or write files; this one holds properties that data files fill in
_KEPT_FIX = "property/atom"
# what pair_style metatomic does about uncertain atoms
_ON_UNCERTAIN = re.compile(r"\b(on_uncertain\s+)(stop|write)\b")
# where the next command is not that of the next line
_JUMPS = {"jump", "next", "label"}


def read_setup(path: Path) -> tuple[list[str], list[str]]:
    """Return the commands before the first run, and those of them that are left out.

    Continued lines are joined and included files put in. Left out is what writes
    files, and every fix, since fixes may add forces to the model's.

    Raises:
        ConfigError: if there is no run, or it cannot be told what comes before it.
    """
    kept: list[str] = []
    left_out: list[str] = []
    for line in _list_commands(path):
        words = line.split()
        if words[0] in _RUNS:
            return kept, left_out
        if words[0] in _JUMPS or (words[0] == "if" and _RUNS & set(_split(line))):
            raise ConfigError(
                f"{path}: `{line}` before the first run: what is executed cannot be "
                "told from the file; check an input without jumps"
            )
        is_fix = words[0] in ("fix", "unfix", "fix_modify")
        is_kept = words[0] == "fix" and words[3:4] == [_KEPT_FIX]
        if words[0] in _OUTPUT or (is_fix and not is_kept):
            left_out.append(line)
        else:
            # neither a file nor an end before there is something to compare
            kept.append(_ON_UNCERTAIN.sub(r"\1warn", line))
    raise ConfigError(
        f"{path}: no run or minimize in it, so there is no step 0 to compare"
    )


class PairStyle(NamedTuple):
    """What an input says of the model, its variables put in."""

    units: str
    model: Path
    keywords: dict[str, str]
    elements: list[str]
    """Element symbol or atomic number of each atom type."""


def read_pair_style(log: str, folder: Path, path: Path) -> PairStyle:
    """Return the model's settings from a log, in which LAMMPS puts variables in.

    Raises:
        ConfigError: if the pair style is not that of a model alone.
    """
    last: dict[str, list[str]] = {"units": ["units", "lj"]}
    for line in log.splitlines():
        words = _split(line)
        if words and words[0] in ("units", "pair_style", "pair_coeff"):
            last[words[0]] = words
    style = last.get("pair_style", ["pair_style", "none"])
    if style[1] != "metatomic":
        raise ConfigError(
            f"{path}: pair_style {style[1]}: only `pair_style metatomic` alone can be "
            "compared with the calculator; leave other styles out to check the model"
        )
    return PairStyle(
        units=last["units"][1],
        model=folder / style[2],
        keywords=dict(zip(style[3::2], style[4::2], strict=False)),
        elements=last.get("pair_coeff", [])[3:],
    )


def _list_commands(path: Path) -> list[str]:
    if not path.is_file():
        raise ConfigError(f"{path}: there is no such input file")
    text = re.sub(r"&[ \t]*\n", " ", path.read_text())
    commands: list[str] = []
    for raw in text.splitlines():
        line = _strip_comment(raw).strip()
        if not line:
            continue
        words = line.split()
        if words[0] == "include":
            if len(words) != 2 or "$" in line:
                raise ConfigError(
                    f"{path}: `{line}`: write the name of the file without variables"
                )
            # LAMMPS looks for it from the folder it runs in, which is the input's
            commands += _list_commands(path.parent / words[1].strip("\"'"))
        else:
            commands.append(line)
    return commands


def _strip_comment(line: str) -> str:
    """Return what comes before a ``#`` that is not in quotes."""
    quote = ""
    for k, character in enumerate(line):
        if quote:
            quote = "" if character == quote else quote
        elif character in "\"'":
            quote = character
        elif character == "#":
            return line[:k]
    return line


def _split(line: str) -> list[str]:
    """Return the words, those inside quoted commands too."""
    try:
        return [word for part in shlex.split(line) for word in part.split()]
    except ValueError:
        return line.split()
