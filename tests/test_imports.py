"""Imports go down only: the floors of the package, read from the source with ast."""

import ast
import graphlib
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "pet_calc"

FLOORS = [
    {"system", "errors", "units", "assets"},
    {"model", "hub"},
    {"lora", "config"},
    {"checkpoint", "data"},
    {"engine"},
    {"calculator", "export", "evaluate"},
    {"check", "select", "info", "lammps", "page"},
    {"validate"},
    {"train"},
    {"cli"},
]
FLOOR_OF = {unit: floor for floor, units in enumerate(FLOORS) for unit in units}

# What the lowest units may use besides the standard library. An adapter file is
# safetensors, hence the one addition to torch.
THIRD_PARTY = {
    "system": {"filelock", "torch"},
    "errors": set(),
    "assets": set(),
    "units": {"ase"},
    "model": {"torch"},
    "lora": {"torch", "safetensors"},
    "hub": {"huggingface_hub"},
    "page": {"numpy", "ase", "matplotlib", "jinja2", "chemiscope"},
    "config": {"yaml", "pydantic", "ase"},  # ase.data: element symbols
}
FORBIDDEN = {"metatrain"}  # a test dependency: the peer that numbers are compared with


def find_modules():
    return sorted(PACKAGE.rglob("*.py"))


def unit_of(path):
    """``model`` for pet_calc/model/pet.py, ``export`` for pet_calc/export.py."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def find_imports(source, package):
    """Dotted names that a module imports anywhere, in functions too."""
    names = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parents = package.split(".")[: len(package.split(".")) + 1 - node.level]
                base = ".".join([*parents, base] if base else parents)
            # `from pet_calc import units` names a unit, not an attribute
            if base == "pet_calc":
                names += [f"pet_calc.{alias.name}" for alias in node.names]
            else:
                names.append(base)
    return names


def read_imports(path):
    package = ".".join(path.relative_to(ROOT).parts[:-1])
    return find_imports(path.read_text(), package)


def units_imported_by(path):
    names = [name.split(".") for name in read_imports(path)]
    inside = {name[1] for name in names if name[0] == "pet_calc" and len(name) > 1}
    return {unit for unit in inside if unit in FLOOR_OF}


def test_every_unit_stands_on_a_floor():
    units = {unit_of(path) for path in find_modules()} - {"__init__"}
    assert units <= set(FLOOR_OF), f"give a floor to {units - set(FLOOR_OF)}"


@pytest.mark.parametrize("path", find_modules(), ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_go_down_only(path):
    unit = unit_of(path)
    imported = units_imported_by(path)
    assert unit == "cli" or "cli" not in imported
    if unit == "__init__":
        return
    above = {name for name in imported if FLOOR_OF[name] > FLOOR_OF[unit]}
    assert not above, f"{unit} is below {above}"


def test_neighbours_on_a_floor_do_not_import_in_a_circle():
    graph = {}
    for path in find_modules():
        unit = unit_of(path)
        if unit != "__init__":
            graph.setdefault(unit, set()).update(units_imported_by(path) - {unit})
    graphlib.TopologicalSorter(graph).prepare()  # raises CycleError naming the circle


@pytest.mark.parametrize("path", find_modules(), ids=lambda p: str(p.relative_to(ROOT)))
def test_third_party_imports_are_the_allowed_ones(path):
    roots = {name.split(".")[0] for name in read_imports(path)}
    third_party = roots - sys.stdlib_module_names - {"pet_calc"}
    assert not third_party & FORBIDDEN
    allowed = THIRD_PARTY.get(unit_of(path))
    assert allowed is None or third_party <= allowed


def test_of_the_system_only_the_ranks_know_torch():
    for path in (PACKAGE / "system").glob("*.py"):
        roots = {name.split(".")[0] for name in read_imports(path)}
        assert "torch" not in roots or path.name == "ranks.py", path


def test_find_imports_sees_relative_and_nested_imports():
    source = "from ..lora import a\nfrom . import b\ndef f(): import pet_calc.cli.main"
    names = find_imports(source, "pet_calc.model")
    assert names == ["pet_calc.lora", "pet_calc.model", "pet_calc.cli.main"]


def test_importing_the_package_changes_nothing_global():
    code = """
import sys, warnings, torch
before = (torch.get_default_dtype(), torch.is_grad_enabled(), list(warnings.filters))
import pet_calc, pet_calc.config
after = (torch.get_default_dtype(), torch.is_grad_enabled(), list(warnings.filters))
assert before == after, (before, after)
assert not torch.cuda.is_initialized()
assert "metatrain" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_class_has_a_name_of_its_own():
    names = [
        node.name
        for path in find_modules()
        for node in ast.parse(path.read_text()).body
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_")
    ]
    assert sorted({name for name in names if names.count(name) > 1}) == []
