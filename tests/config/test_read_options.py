"""Options files are read, or fail with the full name of what is wrong."""

import logging
import textwrap

import pytest

from pet_calc.config import LossOptions, LossTerm, parse_options, read_options
from pet_calc.errors import ConfigError


@pytest.fixture
def read(tmp_path):
    """Read options from YAML text."""

    def read_text(text):
        path = tmp_path / "options.yaml"
        path.write_text(textwrap.dedent(text))
        return read_options(path)

    return read_text


def read_training(**training):
    return parse_options(
        {
            "architecture": {"name": "pet", "training": training},
            "training_set": "train.xyz",
        }
    )


def test_a_path_is_enough():
    options = parse_options({"training_set": "train.xyz"})
    assert options.training_set[0].read_from == ("train.xyz",)
    assert options.finetune.method == "scratch"
    assert options.validation_set == 0.1
    assert list(options.targets) == ["energy"]


def test_options_of_metatrain_run_unchanged(read, caplog):
    with caplog.at_level(logging.INFO, logger="pet_calc"):
        options = read("""
            seed: 42
            device: gpu
            base_precision: 64
            print_stats: auto
            wandb: null
            architecture:
              name: pet
              atomic_types: [1, 8]
              model:
                cutoff: 5
                d_pet: 64
                num_neighbors_adaptive: null
                long_range: {enable: false, use_ewald: false}
              training:
                distributed: false
                distributed_port: 39591
                batch_size: 8
                num_epochs: 10
                learning_rate: 1e-4
                weight_decay: null
                atomic_baseline: {energy: {1: -13.6, O: -430.0}}
                fixed_scaling_weights: {}
                per_structure_targets: []
                num_workers: null
                log_mae: true
                best_model_metric: mae_prod
                grad_clip_norm: 1.0
                loss:
                  energy:
                    type: huber
                    weight: 0.5
                    forces: {type: mae, weight: 2}
                    gradients: {strain: mse}
                max_atoms_per_batch: null
                min_atoms_per_batch: 0
            training_set:
              systems: {read_from: train.xyz, reader: ase, length_unit: angstrom}
              targets:
                energy:
                  quantity: energy
                  read_from: train.xyz
                  key: U0
                  unit: hartree
                  sample_kind: system
                  type: scalar
                  num_subtargets: 1
                  forces: on
                  stress: {key: virial_stress, read_from: train.xyz}
                  virial: off
            validation_set: val.xyz
            test_set: 0.2
            """)
    assert (options.seed, options.device, options.base_precision) == (42, "cuda", 64)
    assert options.atomic_types == (1, 8)
    assert (options.hypers.cutoff, options.hypers.d_pet) == (5.0, 64)
    assert options.train.learning_rate == 1e-4
    assert options.train.weight_decay == 0.0
    assert options.train.composition.tables == {"energy": {"H": -13.6, "O": -430.0}}
    assert options.train.loss_of("energy") == LossOptions(
        type="huber", weight=0.5, forces=LossTerm(type="mae", weight=2.0)
    )
    target = options.targets["energy"]
    assert (target.key, target.unit) == ("U0", "hartree")
    assert target.forces.mode == "required"
    assert (target.stress.mode, target.stress.key) == ("required", "virial_stress")
    assert target.virial.mode == "off"
    assert options.validation_set[0].read_from == ("val.xyz",)
    assert options.test_set == 0.2
    # what has no effect is said, not swallowed
    assert "log_mae" in caplog.text
    assert "print_stats" in caplog.text


def test_historic_lora_keys_ask_for_lora():
    options = read_training(USE_LORA_PEFT=True, LORA_RANK=4, LORA_ALPHA=8)
    assert options.finetune.method == "lora"
    assert (options.finetune.lora.rank, options.finetune.lora.alpha) == (4, 8.0)
    assert options.finetune.base is None
    with pytest.raises(ConfigError, match=r"finetune\.read_from: method lora needs"):
        options.check_ready()
    assert options.with_base("best_model_1.ckpt").finetune.method == "lora"


def test_historic_lora_switched_off_trains_all_weights_of_a_base():
    options = read_training(USE_LORA_PEFT=False, LORA_RANK=4)
    assert options.finetune.method == "scratch"
    options.check_ready()
    finetune = options.with_base("best_model_1.ckpt").finetune
    assert (finetune.method, finetune.base) == ("full", "best_model_1.ckpt")


def test_historic_keys_beside_a_finetune_block_are_refused():
    with pytest.raises(
        ConfigError, match=r"training\.finetune: expected this block or"
    ):
        read_training(USE_LORA_PEFT=True, finetune={"read_from": "base.ckpt"})


def test_finetune_lora_block():
    finetune = read_training(
        finetune={
            "method": "lora",
            "read_from": "base.ckpt",
            "config": {"rank": 16, "alpha": 32, "target_modules": ["mlp"]},
            "inherit_heads": {"energy/pbe0": "energy"},
        }
    ).finetune
    assert (finetune.method, finetune.base) == ("lora", "base.ckpt")
    lora = finetune.lora
    assert (lora.rank, lora.alpha, lora.targets) == (16, 32.0, ("mlp",))
    assert finetune.inherit_heads == {"energy/pbe0": "energy"}


def test_finetune_heads_block():
    finetune = read_training(
        finetune={
            "method": "heads",
            "read_from": "base.ckpt",
            "config": {
                "head_modules": ["backend.node_heads"],
                "last_layer_modules": ["node_last_layers"],
            },
        }
    ).finetune
    assert finetune.head_modules == ("node_heads", "node_last_layers")


def test_finetune_full_block():
    finetune = read_training(finetune={"read_from": "base.ckpt"}).finetune
    assert (finetune.method, finetune.base) == ("full", "base.ckpt")


def test_metatrains_default_finetune_block_means_none():
    block = {"read_from": None, "method": "full", "config": {}, "inherit_heads": {}}
    assert read_training(finetune=block).finetune.method == "scratch"


@pytest.mark.parametrize(
    ("training", "message"),
    [
        (
            {"learning_rat": 1},
            "architecture.training.learning_rat: unknown option; "
            "did you mean learning_rate?",
        ),
        (
            {"batch_size": "16"},
            "training.batch_size: expected a whole number from 1 or auto, got the text",
        ),
        ({"batch_size": 0}, "training.batch_size: expected a whole number from 1 or"),
        (
            {"batch_size": True},
            "training.batch_size: expected a whole number from 1 or auto, got true",
        ),
        (
            {"learning_rate": "fast"},
            "training.learning_rate: expected a number above 0 up to 1 or null, got th",
        ),
        ({"warmup_fraction": 2}, "training.warmup_fraction: expected a number from 0"),
        ({"best_model_metric": "mae"}, "did you mean mae_sum?"),
        ({"max_atoms_per_batch": 100}, "training.max_atoms_per_batch: 100 is not supp"),
        (
            {"batch_atom_bounds": [1, 200]},
            "training.batch_atom_bounds: the list [1, 200]",
        ),
        ({"per_structure_targets": ["energy"]}, "training.per_structure_targets: the"),
        (
            {"SCHEDULER_STEP_SIZE": 100},
            "training.SCHEDULER_STEP_SIZE: an option of the original PET program that "
            "is not known here; use num_epochs",
        ),
        ({"FOO_BAR": 1}, "training.FOO_BAR: an option of the original PET program"),
        ({"USE_LORA_PEFT": "yes"}, "training.USE_LORA_PEFT: expected true or false"),
        ({"USE_LORA_PEFT": True, "LORA_RANK": 0}, "LORA_RANK: expected a whole number"),
        ({"USE_LORA_PEFT": True, "LORA_ALPHA": 0}, "LORA_ALPHA: expected a number ab"),
        ({"loss": "mee"}, "training.loss.energy.type: expected one of mse"),
        ({"loss": {"enrgy": "mse"}}, "training.loss.enrgy: expected a target of the"),
        (
            {"loss": {"energy": {"reduction": "sum"}}},
            "training.loss.energy.reduction: the text 'sum' is not supported",
        ),
        (
            {"loss": {"energy": {"forces": {"wieght": 1}}}},
            "training.loss.energy.forces.wieght: unknown option; did you mean weight?",
        ),
        ({"replay": {"generat": 5}}, "training.replay.generat: unknown option; did y"),
        ({"replay": {"weight": 0}}, "training.replay.weight: expected a number above"),
        ({"atomic_baseline": "model.ckpt"}, "composition.mode: model.ckpt is not"),
        (
            {"atomic_baseline": {"energy": {"Hh": 1}}},
            "composition.energy.Hh: expec",
        ),
        (
            {"finetune": {"method": "lora", "config": {"rnk": 1}}},
            "training.finetune.config.rnk: unknown option; did you mean rank?",
        ),
        (
            {"finetune": {"method": "lora", "config": {"rank": 0}}},
            "training.finetune.config.rank: expected a whole number from 1, got 0",
        ),
        (
            {"finetune": {"read_from": "a.ckpt", "config": {"rank": 4}}},
            "training.finetune.config.rank: has no effect with method full",
        ),
        (
            {"finetune": {"method": "lora", "config": {"target_modules": []}}},
            "training.finetune.config.target_modules: expected at least one layer",
        ),
        (
            {"finetune": {"read_from": "a.ckpt", "config": {"rank_stabilized": True}}},
            "training.finetune.config.rank_stabilized: has no effect with method full",
        ),
        (
            {"finetune": {"method": "lorra"}},
            "training.finetune.method: expected one of scratch, full, heads, lora, got "
            "the text 'lorra'; did you mean lora?",
        ),
        (
            {
                "finetune": {
                    "method": "heads",
                    "read_from": "a.ckpt",
                    "config": {"head_modules": ["node_head"]},
                }
            },
            "did you mean node_heads?",
        ),
    ],
)
def test_wrong_training_options_fail_with_their_name(training, message):
    with pytest.raises(ConfigError) as error:
        read_training(**training)
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sed": 1}, "sed: unknown option; did you mean seed?"),
        ({"seed": -1}, "seed: expected a whole number from 0"),
        ({"base_precision": 16}, "base_precision: expected one of 32, 64, got 16"),
        ({"device": "multi-gpu"}, "device: multi-gpu is not supported"),
        ({"device": "cpuu"}, "device: expected auto, cpu"),
        ({"wandb": {"project": "x"}}, "wandb: a block of options is not supported"),
        ({"retain_set": []}, "retain_set: expected at least one dataset, got none"),
        ({"replay_set": "a.xyz"}, "replay_set: there is nothing to forget without"),
        ({"validation_set": 1.5}, "validation_set: expected a number from 0 to 1 or"),
        ({"validation_set": 0.6, "test_set": 0.5}, "leave some of the training set"),
        ({"architecture": {"name": "soap_bpnn"}}, "architecture.name: expected pet"),
        (
            {"architecture": {"model": {"cutof": 5.0}}},
            "architecture.model.cutof: unknown option; did you mean cutoff?",
        ),
        (
            {"architecture": {"model": {"activation": "silu"}}},
            "architecture.model.activation: expected one of SwiGLU, SiLU",
        ),
        ({"architecture": {"model": {"R_CUT": 5.0}}}, "use architecture.model.cutoff"),
        (
            {"architecture": {"model": {"long_range": {"enable": True}}}},
            "architecture.model.long_range.enable: true is not supported",
        ),
        ({"architecture": {"model": {"d_pet": 0}}}, "model.d_pet: expected a whole"),
    ],
)
def test_wrong_run_options_fail_with_their_name(changes, message):
    with pytest.raises(ConfigError) as error:
        parse_options({"training_set": "train.xyz", **changes}).check_ready()
    assert message in str(error.value)


def test_data_must_be_given():
    with pytest.raises(ConfigError, match="training_set: expected data to learn from"):
        parse_options({})


def test_messages_start_with_the_file(read, tmp_path):
    with pytest.raises(ConfigError) as error:
        read("training_set: a.xyz\nsed: 1\n")
    assert str(error.value).startswith(f"{tmp_path / 'options.yaml'}: sed: unknown")


def test_numbers_without_a_dot_are_numbers(read):
    options = read("""
        training_set: a.xyz
        architecture: {training: {learning_rate: 3e-4, grad_clip_norm: .inf}}
        """)
    assert options.train.learning_rate == 3e-4
    assert options.train.grad_clip_norm == float("inf")


def test_a_key_given_twice_is_refused(read):
    with pytest.raises(ConfigError, match="the key 'seed' twice, again in line 4"):
        read("\ntraining_set: a.xyz\nseed: 1\nseed: 2\n")


def test_references_are_filled_in(read):
    options = read("""
        seed: 7
        output: run-${seed}
        training_set:
          systems: {read_from: a.xyz}
          targets:
            energy: {read_from: "${...systems.read_from}", description: "${.read_from}"}
        """)
    assert options.output == "run-7"
    assert options.targets["energy"].description == "a.xyz"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("seed: ${oc.env:SEED}", "seed: expected a reference such as"),
        ("seed: ${sead}", "seed: expected a reference to an option, got"),
        ("seed: ${output}\noutput: ${seed}", "which leads to itself"),
        ("seed: 1\noutput: ${a${seed}}", "without nesting"),
        ("- a", "expected options as `key: value`, got list"),
        ("a: [", "expected YAML"),
    ],
)
def test_yaml_that_cannot_be_used_fails(read, text, message):
    with pytest.raises(ConfigError) as error:
        read(text)
    assert message in str(error.value)


def test_a_missing_file_fails():
    with pytest.raises(ConfigError, match=r"nowhere\.yaml: expected an options file"):
        read_options("nowhere.yaml")


def test_nobelium_is_not_false(read):
    options = read("""
        training_set: a.xyz
        architecture: {training: {atomic_baseline: {energy: {No: 1.0}}}}
        """)
    assert options.train.composition.tables == {"energy": {"No": 1.0}}


def test_one_loss_type_holds_for_every_target_and_gradient():
    loss = read_training(loss="masked_huber").train.loss_of("energy")
    assert {loss.value.type, loss.forces.type, loss.stress.type} == {"huber"}
