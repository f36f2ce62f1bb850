"""The verbs of the command line, on tiny models and data."""

import importlib
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import ase.io
import pytest
import yaml
from ase.calculators.singlepoint import SinglePointCalculator
from click.testing import CliRunner
from support.command_line import FINETUNE, SESSION, assert_same, evaluate
from support.frames import write_frames
from support.models import TINY, build_model
from support.structures import get_results

from pet_calc import PETCalculator
from pet_calc.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from pet_calc.cli.main import VERBS, cli
from pet_calc.model.hypers import TargetSpec
from pet_calc.train import loop


def write_options(folder, name="options.yaml", **training):
    """An options file as metatrain's users write it."""
    values = {
        "architecture": {
            "name": "pet",
            "model": {**TINY},
            "training": {"num_epochs": 2, "batch_size": 4, **training},
        },
        "device": "cpu",
        "base_precision": 64,
        "training_set": {
            "systems": {"read_from": str(folder / "train.xyz")},
            "targets": {"energy": {"key": "energy", "unit": "eV"}},
        },
        "validation_set": 0.25,
    }
    (folder / name).write_text(yaml.safe_dump(values))
    return folder / name


def test_every_verb_has_help_with_an_example():
    for name in VERBS:
        result = CliRunner().invoke(cli, [name, "--help"])
        assert result.exit_code == 0, name
        # a line of its own that can be copied
        assert re.search(rf"^\s*(Example: )?pet-calc {name}\b", result.output, re.M)
        assert "\\b" not in result.output
        assert "\b" not in result.output
        for parameter in importlib.import_module(
            f"pet_calc.cli.{VERBS[name].module}"
        ).command.params:
            if parameter.param_type_name == "option":
                assert parameter.help, (name, parameter.name)


def test_the_entry_point_runs(tuned):
    done = subprocess.run(
        [Path(sys.executable).parent / "pet-calc", "info", "none.ckpt"],
        capture_output=True,
        text=True,
        cwd=tuned.folder,
    )
    assert done.returncode == 2
    assert "none.ckpt" in done.stderr
    assert "Traceback" not in done.stderr


def test_finetune_leaves_a_model_that_ase_can_use(tuned):
    model = tuned.path("run/best_model.ckpt")
    output = tuned.result.stdout
    assert f"model      {model}" in output.splitlines()
    assert "before     energy MAE" in output
    assert "LoRA: rank 2" in tuned.result.stderr
    assert "train set:\n  frames    11" in tuned.result.stderr
    assert "(epoch 0)" not in output
    base, adapter = tuned.path("base.ckpt"), tuned.path("run/adapter.safetensors")
    found = evaluate(model)
    assert_same(found, evaluate(base, adapter=adapter))
    assert abs(found["energy"] - evaluate(base)["energy"]) > 1e-3


def test_info_describes_each_kind_of_file(tuned):
    text = tuned("info", tuned.path("run/best_model.ckpt")).stdout
    assert "energy [eV]: EMT" in text
    assert "rank 2, alpha 8" in text
    assert "validation    energy MAE" in text
    assert f"lora from {tuned.path('base.ckpt')}" in text
    values = json.loads(
        tuned("info", tuned.path("run/adapter.safetensors"), "--json").stdout
    )
    assert values["base"]["name"] == "base.ckpt"
    assert "--resume" in tuned("info", tuned.path("run/last_model.ckpt")).stdout
    message = tuned.fail("info", tuned.path("train.xyz"))
    assert "train.xyz: expected a model checkpoint" in message


def test_merge_export_and_convert_keep_the_numbers(tuned, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    model, base = tuned.path("run/best_model.ckpt"), tuned.path("base.ckpt")
    adapter = tuned.path("run/adapter.safetensors")
    expected = evaluate(model)
    tuned("merge", model, "-o", "a.ckpt")
    tuned("merge", base, "--adapter", adapter, "-o", "b.ckpt")
    for name in ("a.ckpt", "b.ckpt"):
        record = load_checkpoint(name)
        assert record.lora is None
        assert record.metadata["provenance"]["level_of_theory"] == "EMT"
        assert_same(expected, evaluate(name))
    tuned("convert", model, "--to", "metatrain", "-o", "c.ckpt")
    tuned("convert", "c.ckpt", "-o", "d.ckpt")
    for name in ("c.ckpt", "d.ckpt"):
        assert_same(expected, evaluate(name))
    assert "metatrain checkpoint" in tuned("info", "c.ckpt").stdout
    tuned("export", model, "--dtype", "float64")
    tuned("export", base, "--adapter", adapter, "-o", "f.pt", "--no-check")
    for name in ("best_model.pt", "f.pt"):
        assert_same(expected, evaluate(name))
        assert "energy [eV]: EMT" in tuned("info", name).stdout
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"best_model.pt", "f.pt", *(f"{x}.ckpt" for x in "abcd")}


def test_merge_says_when_the_uncertainty_is_left_out(tuned, tmp_path):
    record = load_checkpoint(tuned.path("base.ckpt"))
    record.extras["llpr"] = {"version": 4}
    save_checkpoint(tmp_path / "base.ckpt", record)
    adapter = tuned.path("run/adapter.safetensors")
    result = tuned(
        "merge", tmp_path / "base.ckpt", "--adapter", adapter, "-o", tmp_path / "m.ckpt"
    )
    assert "left out  the uncertainty of the base" in result.stdout


def test_train_makes_a_base_and_finetunes_it(run):
    """The older way: train, then train -c, with the old names of the LoRA options."""
    options = write_options(run.folder)
    result = run("train", options, "-o", run.path("first"), "--quiet")
    base = run.path("first/best_model_options.ckpt")
    assert f"model      {base}" in result.stdout
    lora = write_options(
        run.folder, "lora.yaml", USE_LORA_PEFT=True, LORA_RANK=2, LORA_ALPHA=4.0
    )
    run("train", lora, "-c", base, "-o", run.path("second"), "--quiet")
    record = load_checkpoint(run.path("second/best_model_lora.ckpt"))
    assert (record.lora.rank, record.lora.alpha) == (2, 4.0)
    message = run.fail("train", lora, "-o", run.path("third"), "--quiet")
    assert "needs a base checkpoint" in message


def test_a_resumed_run_is_the_uninterrupted_one(run):
    data, base = run.path("train.xyz"), run.path("base.ckpt")
    args = ["finetune", data, "--base", base, *FINETUNE, *SESSION, "-o"]
    run(*args, run.path("one"))
    run(*args, run.path("two"), "--stop-after", 1)
    run(*args, run.path("two"), "--resume")
    states = [
        load_checkpoint(run.path(f"{name}/last_model.ckpt")).state
        for name in ("one", "two")
    ]
    for name, value in states[0].items():
        assert value.equal(states[1][name]), name
    message = run.fail(*args, run.path("two"))
    assert "--resume goes on with it, --overwrite replaces it" in message
    run(*args, run.path("two"), "--overwrite")
    assert "nothing to resume" in run.fail(*args, run.path("new"), "--resume")


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
def test_an_interrupted_run_ends_with_the_status_of_its_signal(run, monkeypatch, name):
    take_step = loop.Trainer._take_step

    def interrupt(self, *args):
        if self.state.step == 1:
            os.kill(os.getpid(), signal.Signals[name])
        return take_step(self, *args)

    monkeypatch.setattr(loop.Trainer, "_take_step", interrupt)
    args = ["finetune", run.path("train.xyz"), "--base", run.path("base.ckpt")]
    args += [*FINETUNE, *SESSION, "-o", run.path("r")]
    result = run(*args, status=128 + signal.Signals[name])
    assert f"{name}: saved after step 2; add --resume" in result.stderr
    monkeypatch.undo()
    run(*args, "--resume")


def test_finetune_takes_an_options_file(run, monkeypatch):
    monkeypatch.chdir(run.folder)
    options = write_options(run.folder)
    base = run.path("base.ckpt")
    run("finetune", options, "--base", base, "--quiet")
    assert run.path("finetuned/best_model.ckpt").exists()
    options.write_text(options.read_text() + "output: elsewhere\n")
    run("finetune", options, "--base", base, "--quiet")
    assert run.path("elsewhere/best_model.ckpt").exists()
    # what would be without effect is not taken silently
    message = run.fail("finetune", options, "--base", base, "--lr", 0.1)
    assert "--lr: write this into" in message


def test_options_writes_what_finetune_reads(run, monkeypatch):
    monkeypatch.chdir(run.folder)
    run("options", "-o", "made.yaml")
    text = Path("made.yaml").read_text()
    Path("made.yaml").write_text(text.replace("device: auto", "device: cpu"))
    base = run.path("base.ckpt")
    run("finetune", "made.yaml", "--base", base, "--stop-after", 1, "--quiet")


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["{data}", "--base", "none.ckpt"], "none.ckpt: there is no such file"),
        (["{data}"], "--base: name the checkpoint to start from"),
        (["none.xyz", "--base", "{base}"], "none.xyz does not exist"),
        (
            ["{data}", "--base", "{base}", "--energy-key", "energi"],
            "'energi', the key for energy .*keys there are: results.'energy'.",
        ),
        (
            ["{data}", "--base", "{base}", "--rank", "0"],
            "rank.: expected a whole .*, got 0",
        ),
        (["{data}", "--base", "{base}", "--rank", "99"], "rank of at most 8"),
        (
            ["{data}", "--base", "{base}", "--method", "full", "--rank", "4"],
            "--rank: has no effect with --method full",
        ),
        (
            ["{data}", "--base", "{base}", "--lora-targets", "mlpp"],
            "'mlpp' matches no linear layer; expected one of .*mlp",
        ),
        (
            ["{data}", "--base", "{base}", "--val", "none.xyz"],
            "none.xyz does not exist",
        ),
        (["{data}", "--base", "{base}", "--val", "2"], "a fraction from 0 to 1"),
        (
            ["{data}", "--base", "{base}", "--energy-unit", "eW"],
            "unknown energy unit 'eW'",
        ),
        (["{data}", "--base", "{data}"], "expected a model checkpoint"),
        (["{data}", "--base", "{base}", "--device", "cpuu"], "device: expected"),
        (["{data}", "--base", "{base}", "--method", "lara"], "'lora', 'heads', 'full'"),
    ],
)
def test_finetune_says_in_one_line_what_is_wrong(tuned, tmp_path, args, message):
    names = {"data": tuned.path("train.xyz"), "base": tuned.path("base.ckpt")}
    args = [arg.format(**names) for arg in args]
    found = tuned.fail("finetune", *args, "-o", tmp_path / "run", "--quiet")
    assert re.search(message, found), found
    assert not (tmp_path / "run").exists()


def test_an_unknown_option_names_the_nearest(run):
    options = write_options(run.folder, lerning_rate=0.1)
    message = run.fail("train", options, "--quiet")
    assert "lerning_rate" in message
    assert "learning_rate" in message.replace("lerning_rate", "")


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["eval", "{base}", "{data}", "--target", "pbe"], "no energy target 'pbe'"),
        (["eval", "{base}", "none.xyz"], "none.xyz does not exist"),
        (["eval", "{base}", "{data}", "-o", "none/p.xyz"], "there is no folder none"),
        (["eval", "{base}", "{data}", "--json", "none/e"], "there is no folder none"),
        (["eval", "{base}", "{data}", "--device", "cuda:99"], "use cpu or auto"),
        (["eval", "{adapter}", "{data}"], "this is an adapter; name its base"),
        (
            ["eval", "{base}", "{data}", "--adapter", "{base}"],
            "expected a .safetensors",
        ),
        (
            ["eval", "{tuned}", "{data}", "--adapter", "{adapter}"],
            "made for the base base.ckpt .* but the model is best_model.ckpt",
        ),
        (["merge", "{base}", "-o", "m.ckpt"], "has no LoRA to merge; .*--adapter"),
        (["merge", "{tuned}", "-o", "none/m.ckpt"], "there is no folder none"),
        (["convert", "{data}", "-o", "m.ckpt"], "expected a model checkpoint"),
        (["convert", "{base}", "--to", "mace", "-o", "m"], "'pet-calc', 'metatrain'"),
        (["export", "{adapter}"], "this is an adapter; name its base"),
        (["export", "{tuned}", "-o", "{tuned}"], "is read, and would be overwritten"),
        (["info", "none.ckpt"], "none.ckpt: there is no such file"),
    ],
)
def test_the_other_verbs_say_in_one_line_what_is_wrong(
    tuned, tmp_path, monkeypatch, args, message
):
    monkeypatch.chdir(tmp_path)
    names = {
        "data": tuned.path("train.xyz"),
        "base": tuned.path("base.ckpt"),
        "tuned": tuned.path("run/best_model.ckpt"),
        "adapter": tuned.path("run/adapter.safetensors"),
    }
    found = tuned.fail(*[arg.format(**names) for arg in args])
    assert re.search(message, found), found
    assert not list(tmp_path.iterdir())


def test_debug_shows_where_an_error_comes_from(tuned):
    result = tuned("info", tuned.path("train.xyz"), "--debug", status=2)
    assert "Traceback" in result.stderr
    assert result.stderr.splitlines()[-1].startswith("error: ")


def test_a_name_of_several_energies_is_asked_for(tuned, tmp_path):
    specs = [TargetSpec.for_energy(f"energy/{name}") for name in ("pbe", "scan")]
    save_checkpoint(tmp_path / "m.ckpt", Checkpoint.from_model(build_model(specs)))
    data = tuned.path("train.xyz")
    message = tuned.fail("eval", tmp_path / "m.ckpt", data, *SESSION)
    assert "energy/pbe, energy/scan" in message
    tuned("eval", tmp_path / "m.ckpt", data, "--target", "pbe", *SESSION)


def test_finetune_measures_forgetting_and_replays(run):
    data, base, folder = run.path("train.xyz"), run.path("base.ckpt"), run.path("r")
    write_frames(run.folder, seed=4, name="old.xyz")
    frames = ase.io.read(run.path("old.xyz"), ":")
    for atoms in frames:
        results = get_results(PETCalculator(base, dtype="float64"), atoms)
        results.pop("energies")
        atoms.calc = SinglePointCalculator(atoms, **results)
    ase.io.write(run.path("base.xyz"), frames)
    flags = [*FINETUNE, "--retain", run.path("base.xyz"), "--replay", data]
    flags += ["--replay-labels", "base", "--replay-generate", "3", *SESSION]
    result = run("finetune", data, "-c", base, "-o", folder, *flags)
    assert "forgetting energy: energy no ratio (0.00 -> " in result.stdout
    assert "retain_set:\n  frames    12" in result.stderr
    assert "replay_set:\n  frames    12" in result.stderr
    assert "replay: 15 frames" in result.stderr
    options = yaml.safe_load((folder / "options_resolved.yaml").read_text())
    replay = {"labels": "base", "generate": 3, "weight": 1.0, "batch_size": None}
    assert options["architecture"]["training"]["replay"] == replay


def test_options_of_finetune_that_cannot_be_meant(run):
    data, base = run.path("train.xyz"), run.path("base.ckpt")
    finetune = ["finetune", data, "-c", base, *SESSION]
    message = run.fail(*finetune, "--replay-labels", "base")
    assert "expected a replay_set to label" in message
    message = run.fail(*finetune, "--allow-new-elements", "b.xyz")
    assert "got b.xyz; files come before this option" in message
