"""The command line finds verbs lazily and turns errors into one line."""

import sys
import types

import click
import pytest
from click.testing import CliRunner
from support.commands import run_fresh

from pet_calc.cli import main
from pet_calc.config import read_options
from pet_calc.errors import DataError


@pytest.fixture
def run(monkeypatch):
    """Run the command line, in which the verb ``info`` does what ``action`` does."""

    def run_with(args, action=None):
        @click.command("info")
        def command():
            action()

        module = types.ModuleType("pet_calc.cli.info")
        module.command = command
        module.__spec__ = types.SimpleNamespace(name=module.__name__)
        if action is not None:
            monkeypatch.setitem(sys.modules, module.__name__, module)
        return CliRunner().invoke(main.cli, args)

    return run_with


def fail_with(error):
    def action():
        raise error

    return action


def test_help_imports_no_torch():
    code = (
        "import sys; sys.argv = ['pet-calc', '--help']\n"
        "from pet_calc.cli.main import main\n"
        "try: main()\n"
        "except SystemExit as end: assert not end.code\n"
        "heavy = {'torch', 'numpy', 'ase', 'yaml', 'metatensor'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    assert "options" in run_fresh(code)


def test_verbs_in_the_help_have_a_module(run):
    result = run(["--help"])
    assert result.exit_code == 0
    for name in main.LazyGroup().list_commands(None):
        assert f"  {name} " in result.output


def test_a_verb_without_a_module_does_not_break_the_help(run, monkeypatch):
    monkeypatch.setitem(main.VERBS, "future", main.Verb("not_written_yet", "Later."))
    result = run(["--help"])
    assert result.exit_code == 0
    assert "future" not in result.output


def test_an_import_error_inside_a_verb_is_not_hidden(run, monkeypatch):
    monkeypatch.setitem(main.VERBS, "options", main.Verb("template", "Broken."))
    monkeypatch.setitem(sys.modules, "pet_calc.cli.template", None)
    monkeypatch.setattr(main, "_find_module", lambda name: "pet_calc.cli.template")
    result = run(["options"])
    assert isinstance(result.exception, ImportError)


def test_a_wrong_verb_fails_with_the_nearest(run):
    result = run(["option"])
    assert result.exit_code == 2
    assert "no verb 'option'; did you mean options?" in result.output


def test_version_is_shown(run):
    assert run(["--version"]).output.startswith("pet-calc ")


def test_an_error_of_the_user_is_one_line(run):
    result = run(["info"], fail_with(DataError("a.xyz, frame 3:\nno energy")))
    assert result.exit_code == 2
    assert result.stderr == "error: a.xyz, frame 3: no energy\n"


@pytest.mark.parametrize("args", [["--debug", "info"], ["info", "--debug"]])
def test_debug_shows_where_an_error_comes_from(run, args):
    result = run(args, fail_with(DataError("no energy")))
    assert result.exit_code == 2
    assert "Traceback" in result.stderr
    assert result.stderr.endswith("error: no energy\n")


def test_an_interrupt_is_one_line(run):
    result = run(["info"], fail_with(KeyboardInterrupt()))
    assert result.exit_code == 130
    assert result.stderr == "interrupted\n"


def test_a_bug_keeps_its_traceback(run):
    result = run(["info"], fail_with(ZeroDivisionError()))
    assert isinstance(result.exception, ZeroDivisionError)


def test_options_writes_a_file_that_is_read(run, tmp_path):
    path = tmp_path / "options.yaml"
    result = run(["options", "-o", str(path)])
    assert result.exit_code == 0, result.output
    assert read_options(path).finetune.method == "lora"
    assert run(["options"]).output == path.read_text()
    assert run(["options", "-o", str(path)]).exit_code == 2
    assert run(["options", "-o", str(path), "--overwrite"]).exit_code == 0
