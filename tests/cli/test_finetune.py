"""The flags of ``finetune`` are made from the fields of the options of a run."""

from types import SimpleNamespace

import click
import pytest
import yaml
from click.testing import CliRunner
from support.commands import run_fresh
from support.runs import write_base

from pet_calc.cli.finetune import command
from pet_calc.cli.main import cli
from pet_calc.config import parse_options
from pet_calc.config.flags import GROUPS
from pet_calc.config.quick import RUN_PLACES, build_dataset, build_finetune_options
from pet_calc.errors import ConfigError

WIDTH = 100


# what a finished run returns, as far as the verbs look at it
END = SimpleNamespace(end="finished")


def build(changes=(), **flags):
    return build_finetune_options(["a.xyz"], "base.ckpt", "out", flags, changes)


@pytest.fixture
def given(monkeypatch, tmp_path):
    """Run ``finetune`` up to the training; return the options, or what it says."""

    def run(*args, status=0):
        found = []
        monkeypatch.setattr(
            "pet_calc.train.run.run_training",
            lambda options, **_: found.append(options) or END,
        )
        monkeypatch.setattr("pet_calc.system.ranks.is_main_process", lambda: False)
        words = ["finetune", "a.xyz", "--base", "base.ckpt", *map(str, args)]
        result = CliRunner().invoke(cli, words)
        assert result.exit_code == status, (result.output, result.exception)
        return found[0] if status == 0 else result.output

    return run


def test_the_help_has_groups_and_fits_on_two_screens():
    text = CliRunner().invoke(cli, ["finetune", "--help"], terminal_width=WIDTH).output
    lines = text.splitlines()
    headings = [line[:-1] for line in lines if line.endswith(":") and line[0] != " "]
    assert headings == [*GROUPS, "Other options"]
    assert len(lines) <= 100
    assert max(map(len, lines)) <= WIDTH
    assert "--debug" in text


def test_the_help_of_finetune_imports_neither_torch_nor_ase():
    code = (
        "import sys\n"
        "from pet_calc.cli.main import cli\n"
        "command = cli.get_command(None, 'finetune')\n"
        "cli.main(['finetune', '--help'], standalone_mode=False)\n"
        "heavy = {'torch', 'ase', 'numpy'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    assert "Base's domain" in run_fresh(code)


def test_defaults_in_the_help_are_those_of_the_fields():
    text = CliRunner().invoke(cli, ["finetune", "--help"], terminal_width=300).output
    shown = {line.split()[0]: line for line in text.splitlines() if "  --" in line}
    options = build()
    for flag, value in (
        ("--batch-size", options.train.batch_size),
        ("--rank", options.finetune.lora.rank),
        ("--seed", options.seed),
        ("--val", options.validation_set),
        ("--device", options.device),
    ):
        assert shown[flag].endswith(f"[{value}]")


def test_what_is_not_given_is_at_the_default_of_an_options_file():
    finetune = {"method": "lora", "read_from": "base.ckpt"}
    values = {
        "training_set": ["a.xyz"],
        "output": "out",
        "architecture": {"training": {"finetune": finetune}},
    }
    assert build() == parse_options(values)


def test_flags_that_left_the_help_still_work(given):
    hidden = [p.name for p in RUN_PLACES if p.flag.is_rare]
    text = CliRunner().invoke(cli, ["finetune", "--help"], terminal_width=WIDTH).output
    assert not [name for name in hidden if name + " " in text]
    flags = {
        "--alpha": 3,
        "--head-mode": "train",
        "--direct-heads": "drop",
        "--pairs-per-batch": 500,
        "--ema": 0.9,
        "--replay-weight": 0.5,
        "--replay-batch-size": 2,
    }
    assert set(flags) == set(hidden)
    words = [word for flag in flags.items() for word in flag]
    options = given(*words, "--replay", "b.xyz")
    train, finetune = options.train, options.finetune
    assert (finetune.lora.alpha, finetune.head_mode) == (3.0, "train")
    assert (finetune.direct_heads, train.pairs_per_batch) == ("drop", 500)
    assert (train.ema_decay, train.replay.weight) == (0.9, 0.5)
    assert train.replay.batch_size == 2
    assert options.replay_set[0].read_from == ("b.xyz",)


def test_every_flag_sets_its_option(given):
    options = given(
        *("--epochs", 3, "--lr", 0.01, "--batch-size", "auto", "--seed", 5),
        *("--compile", "no", "--dtype", "float64", "--mixed-precision"),
        *("--loss-weights", 1, 2, 3, "--target", "energy/b", "--inherit-head", "e"),
        *("--lora-targets", "mlp,center", "--rank", 4, "--keep-head"),
        *("--allow-new-elements", "Ge=Si,Sn=Si", "--composition", "keep"),
        *("--val", 0.2, "--test", "t.xyz", "--level", "PBE", "--store", "memory"),
    )
    train, finetune = options.train, options.finetune
    assert (train.num_epochs, train.learning_rate, train.batch_size) == (
        3,
        0.01,
        "auto",
    )
    assert (options.seed, train.compile, options.base_precision) == (5, False, 64)
    assert train.mixed_precision
    loss = train.loss_of("energy/b")
    assert (loss.weight, loss.forces.weight, loss.stress.weight) == (1.0, 2.0, 3.0)
    assert finetune.inherit_heads == {"energy/b": "e"}
    assert (finetune.lora.rank, finetune.lora.alpha) == (4, 11.3)
    assert finetune.lora.targets == ("mlp", "center")
    assert finetune.keep_head
    assert finetune.new_elements == {"Ge": "Si", "Sn": "Si"}
    assert train.composition.mode == "keep"
    assert options.validation_set == 0.2
    assert options.test_set[0].targets == options.training_set[0].targets
    assert options.targets["energy/b"].description == "PBE"
    assert options.data_store == "memory"
    assert given("--allow-new-elements").finetune.new_elements == "nearest"


def test_set_reaches_every_option_and_comes_last(given):
    options = given(
        *("--set", "training.grad_clip_norm=0.5", "--set", "training.num_epochs=7"),
        *("--set", "final_eval=false", "--set", "training.loss.energy.type=huber"),
        *("--set", "architecture.training.optimizer=muon", "--epochs", 3),
        *("--method", "full"),
    )
    assert options.train.grad_clip_norm == 0.5
    assert options.train.num_epochs == 7
    assert not options.final_eval
    assert options.train.loss_of("energy").type == "huber"
    assert options.train.optimizer == "muon"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            "training.grad_clip_nrm=1",
            "architecture.training.grad_clip_nrm: unknown option; did you mean "
            "grad_clip_norm?",
        ),
        (
            "training.loss.energy.weight=heavy",
            "architecture.training.loss.energy.weight: expected a number from 0, got "
            "the text 'heavy'",
        ),
        (
            "training.loss.energy.forces.weight=-1",
            "architecture.training.loss.energy.forces.weight: expected a number from "
            "0, got -1",
        ),
        (
            "training.warmup_fraction=1.5",
            "architecture.training.warmup_fraction: expected a number from 0 to 1, "
            "got 1.5",
        ),
        (
            "training.optimizer=adan",
            "architecture.training.optimizer: expected one of adam, muon, got the text "
            "'adan'; did you mean adam?",
        ),
        (
            "training.finetune.config.rank=1.5",
            "architecture.training.finetune.config.rank: expected a whole number from "
            "1, got 1.5",
        ),
        ("model.cutof=5", "architecture.model.cutof: unknown option; did you mean cut"),
        ("seed.x=5", "seed: expected a whole number from 0"),
        ("output.x.y=5", "output.x.y: expected a block output to set this in"),
        ("seed", "--set: expected NAME=VALUE such as"),
        ("=5", "--set: expected NAME=VALUE such as"),
    ],
)
def test_a_wrong_set_names_the_full_path_and_what_is_nearest(given, change, message):
    assert message in given("--set", change, status=2)


def test_set_changes_an_options_file(tmp_path, monkeypatch):
    path = tmp_path / "options.yaml"
    path.write_text(yaml.safe_dump({"training_set": "a.xyz", "seed": 1}))
    found = []
    monkeypatch.setattr(
        "pet_calc.train.run.run_training",
        lambda options, **_: found.append(options) or END,
    )
    monkeypatch.setattr("pet_calc.system.ranks.is_main_process", lambda: False)
    base = write_base(tmp_path)
    for verb in ("finetune", "train"):
        words = [verb, path, "-c", base, "--set", "seed=4", "--set", "device=cpu"]
        result = CliRunner().invoke(cli, [str(word) for word in words])
        assert result.exit_code == 0, result.output
    assert [(run.seed, run.device) for run in found] == [(4, "cpu")] * 2
    wrong = CliRunner().invoke(cli, ["train", str(path), "--set", "sed=4"])
    assert f"{path}: sed: unknown option; did you mean seed?" in wrong.output


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--epochs", 0], "'--epochs': expected a whole number from 1, got 0"),
        (["--epochs", 1.5], "'--epochs': expected a whole number from 1, got 1.5"),
        (["--lr", 2], "'--lr': expected a number above 0 up to 1, got 2"),
        (["--batch-size", "all"], "expected a whole number from 1 or auto, got all"),
        (["--composition", "fitted"], "'fit', 'keep', 'isolated_atoms'"),
        (["--level"], "'--level' requires an argument"),
        (["--epoch", 5], "--epochs"),
    ],
)
def test_a_wrong_flag_is_named(given, flags, message):
    assert message in given(*flags, status=2)


@pytest.mark.parametrize("word", ["none", "None"])
def test_every_label_can_be_switched_off(word):
    names = ("energy", "forces", "stress", "virial", "charge", "spin")
    dataset = build_dataset(["a.xyz"], {f"{name}_key": word for name in names})
    target = dataset.targets[0]
    assert target.key is False
    assert target.forces.mode == target.stress.mode == target.virial.mode == "off"
    assert dataset.charge_key is False
    assert dataset.spin_multiplicity_key is False


def test_stress_switched_off_leaves_the_virial_alone():
    target = build_dataset(["a.xyz"], {"stress_key": "none"}).targets[0]
    assert (target.stress.mode, target.virial.mode) == ("off", "auto")
    target = build_dataset(["a.xyz"], {"stress_key": "s"}).targets[0]
    assert (target.stress.mode, target.virial.mode) == ("required", "off")
    assert target.stress.key == "s"


def test_flags_have_different_names():
    options = [param for param in command.params if isinstance(param, click.Option)]
    names = [name for param in options for name in param.opts]
    assert len(set(names)) == len(names)


def test_files_of_weights_are_data_sets_of_their_own():
    flags = {"weight": ("b.xyz=0.5",)}
    options = build_finetune_options(["a.xyz", "b.xyz"], "base.ckpt", "out", flags)
    assert [d.weight for d in options.training_set] == [1.0, 0.5]
    with pytest.raises(ConfigError, match="one of the files"):
        build(weight=("c.xyz=0.5",))


def test_old_names_of_energies_per_element_are_read_and_not_shown(given):
    text = CliRunner().invoke(cli, ["finetune", "--help"]).output
    assert "--composition" in text
    assert "--offsets" not in text
    assert given("--offsets", "keep").train.composition.mode == "keep"
    options = build(["training.atomic_baseline=keep"])
    assert options.train.composition.mode == "keep"
