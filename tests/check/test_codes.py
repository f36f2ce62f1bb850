"""The table of codes has an entry for each finding that the check can make."""

import ast
import re
from collections import defaultdict
from pathlib import Path

import pet_calc.check
from pet_calc.check.codes import CODES
from pet_calc.check.finding import SEVERITIES

FOLDER = Path(pet_calc.check.__path__[0])


def list_texts(node):
    """The strings that an expression may be; what only the run knows is ``.+``."""
    if isinstance(node, ast.Constant):
        return {node.value}
    if isinstance(node, ast.IfExp):
        return list_texts(node.body) | list_texts(node.orelse)
    if isinstance(node, ast.JoinedStr):
        return {"".join(text for part in node.values for text in list_texts(part))}
    return {".+"}


def collect_severities():
    """Severities by code, both as patterns, of all findings in the source."""
    found = defaultdict(set)
    for path in FOLDER.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            is_finding = isinstance(node, ast.Call) and (
                isinstance(node.func, ast.Name) and node.func.id == "Finding"
            )
            if not is_finding or isinstance(node.args[1], ast.Starred):
                continue
            for code in list_texts(node.args[1]) - {".+"}:
                found[code] |= list_texts(node.args[0])
    return found


def test_each_code_in_the_source_has_an_entry():
    patterns = collect_severities()
    assert len(patterns) > 30
    missing = [p for p in patterns if not any(re.fullmatch(p, c) for c in CODES)]
    assert not missing, f"add to pet_calc/check/codes.py: {missing}"


def test_each_entry_is_of_a_code_in_the_source():
    patterns = collect_severities()
    unknown = [c for c in CODES if not any(re.fullmatch(p, c) for p in patterns)]
    assert not unknown, f"nothing makes a finding of these codes: {unknown}"


def test_severities_are_those_of_the_source():
    for pattern, severities in collect_severities().items():
        for code, entry in CODES.items():
            if not re.fullmatch(pattern, code):
                continue
            listed = set(entry.severities)
            assert severities - {".+"} <= listed or "+" in pattern, code
            assert listed <= severities or ".+" in severities or "stress-" in code, code
            assert list(entry.severities) == [s for s in SEVERITIES if s in listed]
