"""The README and the documentation say what runs: commands, flags, snippets, links."""

import ast
import importlib
import importlib.util
import re
import shlex
import sys
from pathlib import Path

import click
import pytest
from ase.io import read
from ase.units import Bohr, Hartree
from support.commands import PROGRAM, require_lammps, run_command

from pet_calc.cli.main import cli

ROOT = Path(__file__).resolve().parents[1]
README = ROOT / "README.md"
MADE = {"reference/findings.md", "reference/commands.md", "reference/limits.md"}
"""Pages that are made from the code when the documentation is built."""
DOCS = ROOT / "docs"
PAGES = [
    README,
    ROOT / "CONTRIBUTING.md",
    *sorted(
        path
        for path in DOCS.rglob("*.md")
        if str(path.relative_to(DOCS)) not in MADE
        and path.relative_to(DOCS).parts[0] != "build"
    ),
]
MOST_LINES = 150
# packages that snippets import and the tests do without
OPTIONAL = {"dftd3"}
# words of torchrun, pip, torch's and LAMMPS's own command lines
FOREIGN_FLAGS = {"--nproc-per-node", "--no-python", "--hook-type", "--no-as-needed"}


def name_page(path):
    return str(path.relative_to(ROOT))


def find_commands(text):
    """Lines of code blocks that call ``pet-calc``, continued lines joined."""
    text = text.replace("\\\n", " ")
    lines = re.findall(r"^    ((?:cd \S+ && |torchrun .*)?pet-calc .*)$", text, re.M)
    return [line.split("  #")[0].strip() for line in lines]


def find_snippets(text):
    return re.findall(r"^```python\n(.*?)^```", text, re.M | re.S)


def find_verb(words):
    """The command that the words name, and what follows it."""
    command, context = cli, click.Context(cli)
    while isinstance(command, click.Group) and words and words[0][0] != "-":
        found = command.get_command(context, words[0])
        assert found is not None, f"there is no verb {words[0]}"
        command, words = found, words[1:]
    return command, words


def list_flags(command):
    options = [param for param in command.params if isinstance(param, click.Option)]
    flags = {flag for o in options for flag in (*o.opts, *o.secondary_opts)}
    return flags | {"--help", "-h", "--debug"}


def list_all_flags(command=cli):
    flags = list_flags(command)
    if isinstance(command, click.Group):
        context = click.Context(command)
        for name in command.list_commands(context):
            flags |= list_all_flags(command.get_command(context, name))
    return flags


def test_the_readme_is_short():
    assert len(README.read_text().splitlines()) <= MOST_LINES


@pytest.mark.parametrize("page", PAGES, ids=name_page)
def test_commands_have_verbs_and_flags_that_exist(page):
    for line in find_commands(page.read_text()):
        words = shlex.split(line[line.index("pet-calc ") :], comments=True)[1:]
        command, rest = find_verb(words)
        flags = list_flags(command)
        for word in rest:
            is_flag = re.fullmatch(r"-{1,2}[a-zA-Z][a-zA-Z-]*(=.*)?", word)
            is_passed_on = command.ignore_unknown_options
            if is_flag and not is_passed_on:
                assert word.partition("=")[0] in flags, f"{line}: {word}"


@pytest.mark.parametrize("page", PAGES, ids=name_page)
def test_flags_in_the_text_exist(page):
    known = list_all_flags() | FOREIGN_FLAGS
    scripts = [*(ROOT / "benchmarks").glob("*.py"), *(ROOT / "bases").glob("*.py")]
    known |= set(
        re.findall(r"--[a-z][a-z-]*", " ".join(s.read_text() for s in scripts))
    )
    found = set(re.findall(r"`(--[a-z][a-z-]+)", page.read_text()))
    assert found <= known, found - known


@pytest.mark.parametrize("page", PAGES, ids=name_page)
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text()):
        path = (page.parent / target).resolve()
        is_made = path.is_relative_to(DOCS) and str(path.relative_to(DOCS)) in MADE
        assert path.exists() or is_made, target


@pytest.mark.parametrize("page", PAGES, ids=name_page)
def test_imports_of_snippets_exist(page):
    for snippet in find_snippets(page.read_text()):
        for node in ast.walk(ast.parse(snippet)):
            if isinstance(node, ast.ImportFrom):
                root = node.module.split(".")[0]
                if root in OPTIONAL and importlib.util.find_spec(root) is None:
                    continue
                module = importlib.import_module(node.module)
                for alias in node.names:
                    assert hasattr(module, alias.name), ast.unparse(node)


@pytest.mark.parametrize("page", PAGES, ids=name_page)
def test_targets_of_make_and_scripts_exist(page):
    text, makefile = page.read_text(), (ROOT / "Makefile").read_text()
    for target in re.findall(
        r"(?:^    |`)(?:PET_CALC_DEVICE=cpu )?make ([a-z-]+)", text
    ):
        assert re.search(rf"^{target}:", makefile, re.M), target
    for script in re.findall(r"(?:benchmarks|examples|docs)/\w+\.py", text):
        assert (ROOT / script).is_file(), script


def run(words, folder):
    return run_command([PROGRAM, *words], folder)


def run_python(snippet, folder):
    return run_command([sys.executable, "-c", snippet], folder)


def write_orca_output(path, atoms):
    """Write as much of an ORCA job's output as ASE reads."""
    lines = [
        "                                 *****************",
        "                                 * O   R   C   A *",
        "                                 *****************",
        f"Number of atoms                             ....  {len(atoms)}",
        "CARTESIAN COORDINATES (ANGSTROEM)",
        "---------------------------------",
    ]
    for symbol, place in zip(atoms.symbols, atoms.positions, strict=True):
        lines.append(f"  {symbol} " + " ".join(f"{x:14.8f}" for x in place))
    energy = atoms.get_potential_energy() / Hartree
    lines += [f"FINAL SINGLE POINT ENERGY  {energy:.12f}", "CARTESIAN GRADIENT", "", ""]
    gradients = -atoms.get_forces() / Hartree * Bohr
    for i, (symbol, row) in enumerate(zip(atoms.symbols, gradients, strict=True)):
        numbers = " ".join(f"{x:14.9f}" for x in row)
        lines.append(f"  {i + 1}  {symbol}  :  {numbers}")
    lines.append("                  ****ORCA TERMINATED NORMALLY****")
    path.write_text("\n".join(lines) + "\n")


def find_snippet(part):
    return next(s for s in find_snippets(README.read_text()) if part in s)


def find_command(start):
    lines = find_commands(README.read_text())
    return next(line for line in lines if start in line)


def shorten(line, *changes):
    for before, after in changes:
        assert before in line, f"{line}: no longer has {before!r}"
        line = line.replace(before, after)
    return shlex.split(line)[1:]


def read_job(folder, n_train, n_test):
    """Run the README's reading of an ORCA job on as many outputs; write them first."""
    (folder / "calc").mkdir()
    frames = read(ROOT / "data" / "dft" / "train.xyz", f":{n_train + n_test}")
    for i, atoms in enumerate(frames):
        write_orca_output(folder / "calc" / f"{i:03d}.out", atoms)
    run_python(find_snippet("glob").replace("300", str(n_train)), folder)
    return frames


def test_the_bundled_base_computes():
    assert run_python(find_snippet("pet-gfn1-xs"), ROOT)


def test_an_orca_job_is_read(tmp_path):
    frames = read_job(tmp_path, 2, 1)
    found = read(tmp_path / "train.xyz", ":") + read(tmp_path / "test.xyz", ":")
    assert len(found) == 3
    for atoms, expected in zip(found, frames, strict=True):
        difference = atoms.get_forces() - expected.get_forces()
        assert abs(difference).max() < 1e-6
        energies = (atoms.get_potential_energy(), expected.get_potential_energy())
        assert abs(energies[0] - energies[1]) < 1e-6


@pytest.fixture(scope="module")
def example(tmp_path_factory):
    """The README's example on a few frames, up to the exported model."""
    folder = tmp_path_factory.mktemp("readme")
    read_job(folder, 12, 4)
    retained = ROOT / "data" / "excerpts" / "base_test.xyz"
    text = run(shorten(find_command("pet-calc check train.xyz")), folder)
    assert "0 errors" in text
    finetune = shorten(
        find_command("pet-calc finetune train.xyz"),
        ("--epochs 100", "--epochs 1"),
        ("data/excerpts/base_test.xyz", f"{retained}@:4"),
    )
    text = run([*finetune, "--quiet"], folder)
    assert "forgetting" in text
    assert "spread over orientations" in text
    text = run(shorten(find_command("pet-calc eval")), folder)
    assert "errors are of frames turned at random" in text
    run(shorten(find_command("pet-calc export")), folder)
    return folder


@pytest.mark.slow
def test_the_model_runs_in_ase(example):
    assert run_python(find_snippet("ethanol/best_model.ckpt"), example)
    line = re.search(r"`python (examples/drift\.py [^`]*)`", README.read_text())[1]
    words = line.replace("20000", "20").split()
    script = [str(ROOT / words[0]), *words[1:]]
    assert "energy drift" in run_command([sys.executable, *script], example)


@pytest.mark.slow
@pytest.mark.lammps
def test_the_model_runs_in_lammps(example):
    require_lammps()
    line = find_command("pet-calc lammps input")
    text = run(shorten(line, ("--steps 2000", "--steps 10")), example)
    assert "compared  energy" in text
    folder, command = re.fullmatch(
        r"cd (\S+) && (pet-calc lammps run .*)", find_command("pet-calc lammps run")
    ).groups()
    assert "Loop time" in run(shlex.split(command)[1:], example / folder)
