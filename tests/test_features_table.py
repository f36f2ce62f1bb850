"""The table of what calculators can do names tests that are there."""

import ast
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
TABLE = ROOT / "docs" / "results" / "features.md"


def read_rows():
    lines = [line for line in TABLE.read_text().splitlines() if line.startswith("|")]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    header, _, *rows = rows
    assert header[1:] == ["pet-calc", "upet", "metatomic-ase", "MACE", "test of ours"]
    return rows


def test_every_row_of_ours_names_a_test_that_is_there():
    rows = read_rows()
    assert len(rows) > 20
    for feature, own, *_, test in rows:
        if own.startswith("no"):
            assert test == "", feature
            continue
        path, name = re.fullmatch(r"`(tests/\S+\.py)::(test_\w+)`", test).groups()
        tree = ast.parse((ROOT / path).read_text())
        found = {n.name for n in tree.body if isinstance(n, ast.FunctionDef)}
        assert name in found, f"{feature}: {test}"


def test_all_cells_are_there():
    assert {len(row) for row in read_rows()} == {6}
