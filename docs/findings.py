"""The page of ``pet-calc check``'s findings, made from the code before each build."""

from pet_calc.check.codes import CODES

HEAD = """# Findings of `pet-calc check`

`pet-calc check` and every training run look for mistakes in the data before anything
is learned from them. Each finding has a severity, a code, a line that says what was
found, and a line that says what to do. An **error** means that training would learn
something wrong: `check` exits with status 2, and a run stops. A **warning** asks to be
looked at. A **note** is for the record. `pet-calc check --json FILE` writes the codes.

Without `--base` the check knows the labels and the structures only. With `--base` it
compares at most 200 frames with the base's predictions, which is where wrong signs,
units and orders of components stand out.

| code | severity | meaning | cure |
|---|---|---|---|
"""


def render_page() -> str:
    """Return the page, in the order of the table in ``pet_calc/check/codes.py``."""
    rows = [
        f"| `{code}` | {', '.join(entry.severities)} | {entry.meaning} | {entry.cure} |"
        for code, entry in CODES.items()
    ]
    return HEAD + "\n".join(rows) + "\n"
