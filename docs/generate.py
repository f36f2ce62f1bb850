"""Pages that are made from the code before each build."""

import click
from click.testing import CliRunner

from pet_calc.check.codes import CODES
from pet_calc.cli.main import cli
from pet_calc.validate.limits import LIMITS

FINDINGS = """# Findings of `pet-calc check`

`pet-calc check` and every training run look for mistakes in the data before anything
is learned from them. Each finding has a severity, a code, a line that says what was
found, and a line that says what to do. An **error** means that training would learn
something wrong: `check` exits with status 2, and a run stops. A **warning** asks to be
looked at. A **note** is for the record. `pet-calc check --json FILE` writes the codes.

Without `--base` the check knows the labels and the frames only. With `--base` it
compares at most 200 frames with the base's predictions, where wrong signs, units and
orders of components stand out.

| code | severity | meaning | cure |
|---|---|---|---|
"""
LIMITS_PAGE = """# Limits of `pet-calc validate`

Each row of [`pet-calc validate`](../howto/validate.md) is judged by one number. At the
first limit it is a **warn**, at the second a **fail**. Where there are two for float32,
they are for exported files in that precision, which rounds.

| row | unit | warn | fail | float32 | reason |
|---|---|---|---|---|---|
"""
COMMANDS = """# Commands

`pet-calc VERB --help` prints what is here.
"""


def render_findings() -> str:
    """Return the page of findings, in the order of the table in the code."""
    rows = [
        f"| `{code}` | {', '.join(entry.severities)} | {entry.meaning} | {entry.cure} |"
        for code, entry in CODES.items()
    ]
    return FINDINGS + "\n".join(rows) + "\n"


def render_limits() -> str:
    """Return the page of limits, in the order of the table in the code."""
    rows = []
    for name, limit in LIMITS.items():
        sign = "<" if limit.is_least else ">"
        single = " ".join(f"{sign} {x:g}," for x in limit.in_float32 or ())
        rows.append(
            f"| {name} | {limit.unit} | {sign} {limit.warn:g} | {sign} {limit.fail:g} "
            f"| {single.rstrip(',')} | {limit.reason} |"
        )
    return LIMITS_PAGE + "\n".join(rows) + "\n"


def render_commands() -> str:
    """Return the page of commands: the help text of each verb."""
    context = click.Context(cli)
    parts = [COMMANDS]
    for verb in cli.list_commands(context):
        parts.append(_render_help([verb]))
        command = cli.get_command(context, verb)
        if isinstance(command, click.Group):
            names = command.list_commands(context)
            parts += [_render_help([verb, name]) for name in names]
    return "\n".join(parts)


def _render_help(words: list[str]) -> str:
    options = {"prog_name": "pet-calc", "terminal_width": 88}
    result = CliRunner().invoke(cli, [*words, "--help"], **options)
    if result.exit_code != 0:
        raise RuntimeError(f"{words}: {result.output}")
    text = click.unstyle(result.output).strip()
    return f"## {' '.join(words)}\n\n```text\n{text}\n```\n"
