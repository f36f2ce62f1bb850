"""The licence expression names what the package holds, and both texts are there."""

import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


def read_project():
    if sys.version_info < (3, 11):
        pytest.skip("needs tomllib")
    import tomllib

    return tomllib.loads((ROOT / "pyproject.toml").read_text())


def test_the_expression_has_the_licence_of_every_part():
    found = {
        name
        for path in ROOT.glob("pet_calc/**/LICENSE.md")
        for name in re.findall(r"SPDX-License-Identifier: (\S+)", path.read_text())
    }
    assert found == {"GPL-2.0-or-later"}
    expression = read_project()["project"]["license"]
    assert set(expression.split(" AND ")) == {"BSD-3-Clause", *found}


def test_both_texts_are_there_and_in_the_package():
    project = read_project()
    texts = [(ROOT / name).read_text() for name in project["project"]["license-files"]]
    assert "Redistribution and use in source and binary forms" in texts[0]
    assert "GNU GENERAL PUBLIC LICENSE" in texts[1]
    assert "END OF TERMS AND CONDITIONS" in texts[1]
    data = project["tool"]["setuptools"]["package-data"]["pet_calc.lammps"]
    assert {"plugin/LICENSE.md", "plugin/GPL-2.0.txt"} <= set(data)
