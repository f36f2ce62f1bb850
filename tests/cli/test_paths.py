"""Outputs are never inputs and are tried first; errors of files are one line."""

import errno
import importlib
import json
import os
from pathlib import Path

import ase.io
import click
import pytest
import yaml
from click.testing import CliRunner
from support.frames import write_frames
from support.models import build_tuned
from support.runs import write_base

from pet_calc.checkpoint import Checkpoint, save_checkpoint
from pet_calc.cli import paths
from pet_calc.cli.file_kind import find_kind
from pet_calc.cli.main import VERBS, cli, describe_os_error
from pet_calc.export import export_model
from pet_calc.system import atomic
from pet_calc.system.paths import expand_path

SESSION = ["--device", "cpu", "--quiet"]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder with data, a base and a tuned model, which is the current one."""
    write_frames(tmp_path)
    write_base(tmp_path)
    model, _ = build_tuned()
    save_checkpoint(tmp_path / "tuned.ckpt", Checkpoint.from_model(model))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(*args, status=2):
    result = CliRunner().invoke(cli, [str(arg) for arg in args])
    assert result.exit_code == status, (result.output, result.exception)
    assert "Traceback" not in result.output
    return result.output


def snapshot(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


LINKS = {
    "the same name": lambda path: path.name,
    "another spelling": lambda path: f"./x/../{path.name}",
    "the whole path": lambda path: str(path),
    "a symbolic link": lambda path: make_link(path, os.symlink),
    "a hard link": lambda path: make_link(path, os.link),
}


def make_link(path, link):
    link(path, path.with_name("link.tmp"))
    return "link.tmp"


@pytest.mark.parametrize("spelling", LINKS)
@pytest.mark.parametrize(
    ("command", "target"),
    [
        (["eval", "base.ckpt", "train.xyz", *SESSION, "-o"], "train.xyz"),
        (["eval", "base.ckpt", "*.xyz@0:3", *SESSION, "--json"], "train.xyz"),
        (["eval", "base.ckpt", "train.xyz", *SESSION, "-o"], "base.ckpt"),
        (["check", "train.xyz", *SESSION, "--json"], "train.xyz"),
        (["check", "train.xyz", "-c", "base.ckpt", *SESSION, "--json"], "base.ckpt"),
        (["merge", "tuned.ckpt", "-o"], "tuned.ckpt"),
        (["convert", "base.ckpt", "-o"], "base.ckpt"),
        (["export", "base.ckpt", "-o"], "base.ckpt"),
    ],
)
def test_an_output_is_never_an_input(folder, command, target, spelling):
    (folder / "x").mkdir()
    name = LINKS[spelling](folder / target)
    before = snapshot(folder)
    for flags in ([], ["--overwrite"]):
        text = run(*command, name, *flags)
        assert "is read, and would be overwritten" in text
    assert snapshot(folder) == before


def test_what_is_written_on_the_way_is_no_input_either(folder):
    (folder / "train.xyz").rename(folder / "p.xyz.partial")
    before = snapshot(folder)
    text = run("eval", "base.ckpt", "p.xyz.partial", "-o", "p.xyz", *SESSION)
    assert "p.xyz.partial: is read" in text
    assert snapshot(folder) == before


def test_two_outputs_are_not_one(folder):
    text = run("eval", "base.ckpt", "train.xyz", "-o", "p", "--json", "p", *SESSION)
    assert "two outputs go there" in text


@pytest.mark.parametrize(
    ("command", "name", "kind"),
    [
        (["eval", "base.ckpt", "train.xyz", *SESSION, "-o"], "other.xyz", "structures"),
        (["check", "train.xyz", *SESSION, "--json"], "data.json", "JSON of another"),
        (["check", "train.xyz", *SESSION, "--json"], "notes.txt", "something else"),
        (["merge", "tuned.ckpt", "-o"], "other.xyz", "structures"),
        (["convert", "base.ckpt", "-o"], "model.pt", "an exported model"),
        (["export", "base.ckpt", "-o"], "other.ckpt", "a checkpoint"),
    ],
)
def test_a_file_of_another_kind_is_replaced_only_with_overwrite(
    folder, command, name, kind
):
    write_frames(folder, 3, seed=5, name="other.xyz")
    ase.io.write("data.json", ase.io.read("other.xyz", ":"))
    Path("notes.txt").write_text("to do")
    Path("other.ckpt").write_bytes(Path("base.ckpt").read_bytes())
    if name == "model.pt":
        export_model(build_tuned()[0], name, check=False)
    before = snapshot(folder)
    text = run(*command, name)
    assert f"{name}: holds {kind}" in text
    assert "add --overwrite" in text
    assert snapshot(folder) == before
    run(*command, name, "--overwrite", status=0)
    assert Path(name).read_bytes() != before[name]
    # what was written is of the right kind: again without the flag
    run(*command, name, status=0)


def test_a_run_never_overwrites_what_it_reads(folder):
    flags = ["--base", "base.ckpt", "--epochs", "1", "--rank", "1", *SESSION]
    run("finetune", "train.xyz", *flags, "-o", "run", status=0)
    again = ["finetune", "train.xyz", "--epochs", "1", "--rank", "1", *SESSION]
    for name in ("best_model.ckpt", "last_model.ckpt"):
        before = (folder / "run" / name).read_bytes()
        text = run(*again, "--base", f"run/{name}", "-o", "run", "--overwrite")
        assert f"run/{name}: is read, and would be overwritten" in text
        assert (folder / "run" / name).read_bytes() == before
    text = run("finetune", "run/options_resolved.yaml", "--overwrite", "--quiet")
    assert "options_resolved.yaml: is read" in text


def test_lammps_input_never_overwrites_its_structure_or_an_input_of_others(folder):
    md = folder / "md"
    md.mkdir()
    (md / "structure.data").write_text((folder / "train.xyz").read_text())
    args = ["lammps", "input", "base.ckpt", "-o", "md", "--structure"]
    assert "md/structure.data: is read" in run(*args, "md/structure.data")
    (md / "in.lmp").write_text("units metal\n")
    assert "in.lmp: holds something else" in run(*args, "train.xyz")


def test_every_verb_that_writes_a_file_follows_the_rule():
    for name in VERBS:
        command = importlib.import_module(f"pet_calc.cli.{VERBS[name].module}").command
        commands = [command, *getattr(command, "commands", {}).values()]
        for each in commands:
            kinds = [param.type for param in each.params]
            flags = {flag for param in each.params for flag in param.opts}
            # click's own type knows neither `~` nor the rule
            assert not any(type(kind) is click.Path for kind in kinds), name
            if any(isinstance(kind, paths.OutputFile) for kind in kinds):
                assert "--overwrite" in flags, name
                assert isinstance(each, paths.PathCommand) or name == "options"


@pytest.mark.parametrize("name", ["eval", "check", "merge", "convert", "export"])
def test_outputs_are_tried_before_the_work(folder, name, monkeypatch):
    commands = {
        "eval": ["eval", "base.ckpt", "train.xyz", "-o", "out"],
        "check": ["check", "train.xyz", "--json", "out"],
        "merge": ["merge", "tuned.ckpt", "-o", "out"],
        "convert": ["convert", "base.ckpt", "-o", "out"],
        "export": ["export", "base.ckpt", "-o", "out"],
    }

    def refuse(**kwargs):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(paths.tempfile, "TemporaryFile", refuse)
    text = run(*commands[name])
    assert "cannot write in the folder .: Permission denied" in text
    text = run("finetune", "train.xyz", "--base", "base.ckpt", "-o", "a/b", *SESSION)
    assert f"cannot write in the folder {folder}: Permission denied" in text


def test_a_folder_that_cannot_be_made_is_named(folder):
    text = run("finetune", "train.xyz", "--base", "base.ckpt", "-o", "train.xyz/run")
    assert "train.xyz is a file; name another folder" in text
    Path("options.yaml").write_text(
        "training_set: train.xyz\noutput: train.xyz/run\narchitecture: {name: pet}\n"
    )
    assert "train.xyz is a file" in run("train", "options.yaml", "--quiet")
    assert "is no regular file" in run("merge", "tuned.ckpt", "-o", "/dev/null")


@pytest.mark.parametrize(
    ("number", "message"),
    [
        (errno.ENOSPC, "no space left on device; free some space"),
        (errno.EACCES, "permission denied; change its permissions"),
        (errno.EROFS, "read-only file system; name a place"),
        (errno.EIO, "input/output error; check the place"),
    ],
)
def test_an_error_of_the_file_system_is_one_line(folder, monkeypatch, number, message):
    def refuse(handle):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(atomic.os, "fsync", refuse)
    before = snapshot(folder)
    for args in (
        ["check", "train.xyz", "--json", "out.json", *SESSION],
        ["merge", "tuned.ckpt", "-o", "out.ckpt"],
        ["export", "base.ckpt", "-o", "out.pt"],
        ["convert", "base.ckpt", "--to", "metatrain", "-o", "out.ckpt"],
    ):
        last = run(*args).splitlines()[-1]
        assert last.startswith("error: out.")
        assert message in last
        assert snapshot(folder) == before


def test_errors_of_the_system_say_what_where_and_what_to_do():
    error = OSError(errno.EXDEV, "Invalid cross-device link", "a", None, "b")
    assert describe_os_error(error).startswith("a and b: invalid cross-device link; ")
    assert describe_os_error(TimeoutError("timed out")).startswith("file system: timed")


def test_home_and_variables_are_filled_in(folder, monkeypatch):
    monkeypatch.setenv("HOME", str(folder))
    monkeypatch.setenv("WHERE", str(folder))
    run("eval", "~/base.ckpt", "$WHERE/train.xyz", "-o", "~/p.xyz", *SESSION, status=0)
    assert Path("p.xyz").exists()
    run("check", "~/train.xyz", "--json", "$WHERE/c.json", *SESSION, status=0)
    assert json.loads(Path("c.json").read_text())["census"]["n_frames"] == 12
    flags = ["--epochs", "1", "--rank", "1", *SESSION]
    run(
        "finetune",
        "~/train.xyz",
        "-c",
        "$WHERE/base.ckpt",
        "-o",
        "~/r",
        *flags,
        status=0,
    )
    assert (folder / "r" / "best_model.ckpt").exists()
    run("info", "~/r/best_model.ckpt", status=0)
    run("convert", "~/base.ckpt", "-o", "~/c.ckpt", status=0)
    assert not (folder / "~").exists()
    assert expand_path("$NO_SUCH_VARIABLE/x") == "$NO_SUCH_VARIABLE/x"
    Path("~odd").write_text("")
    assert expand_path("~odd") == "~odd"


def test_home_and_variables_of_an_options_file_are_filled_in(folder, monkeypatch):
    monkeypatch.setenv("HOME", str(folder))
    monkeypatch.setenv("WHERE", str(folder))
    training = {"num_epochs": 1}
    training["finetune"] = {
        "method": "lora",
        "read_from": "$WHERE/base.ckpt",
        "config": {"rank": 1},
    }
    energy = {"key": "energy", "unit": "eV"}
    options = {
        "output": "~/yaml",
        "device": "cpu",
        "architecture": {"name": "pet", "training": training},
        "training_set": {
            "systems": {"read_from": "~/train.xyz"},
            "targets": {"energy": energy},
        },
        "validation_set": 0.25,
    }
    Path("options.yaml").write_text(yaml.safe_dump(options))
    run("finetune", "~/options.yaml", "--quiet", status=0)
    assert list((folder / "yaml").glob("best_model*.ckpt"))
    assert not (folder / "~").exists()


def test_kinds_of_files_are_told_by_their_content(folder):
    export_model(build_tuned()[0], "model.pt", check=False)
    Path("empty").write_text("")
    Path("binary").write_bytes(b"\xff\xfe\x00")
    assert find_kind(Path("model.pt")) == "export"
    assert find_kind(Path("base.ckpt")) == "checkpoint"
    assert find_kind(Path("train.xyz")) == "structures"
    assert find_kind(Path("binary")) == "other"
    assert find_kind(Path("empty")) is None
    assert find_kind(Path("none")) is None


def test_progress_bars_are_never_in_redirected_output(folder):
    for command in (["eval", "base.ckpt", "train.xyz"], ["check", "train.xyz"]):
        text = run(*command, "--device", "cpu", status=0)
        assert "frame/s" not in text
        assert "\r" not in text
