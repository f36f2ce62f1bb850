"""Options of metatrain's earlier versions mean what they meant, or fail by name."""

import logging

import pytest
import yaml

from pet_calc.config import LossOptions, LossTerm, parse_options
from pet_calc.errors import ConfigError


def read(text, targets=("energy",)):
    targets = {name: {"key": "e", "quantity": "energy"} for name in targets}
    return parse_options(
        {
            "architecture": {"name": "pet", "training": yaml.safe_load(text)},
            "training_set": {"systems": "train.xyz", "targets": targets},
        }
    )


def test_the_defaults_of_spring_2025_are_read(caplog):
    """As metatrain's default-hypers.yaml of PET had them (PET v1)."""
    with caplog.at_level(logging.INFO, "pet_calc"):
        options = read("""
            distributed: false
            distributed_port: 39591
            batch_size: 16
            num_epochs: 10000
            num_epochs_warmup: 100
            learning_rate: 0.0001
            weight_decay: null
            scheduler_patience: 250
            log_interval: 1
            checkpoint_interval: 100
            scale_targets: false
            fixed_composition_weights: {}
            per_structure_targets: []
            log_mae: true
            log_separate_blocks: false
            best_model_metric: rmse_prod
            grad_clip_norm: .inf
            loss:
              type: mse
              weights: {}
              reduction: mean
        """)
    assert options.train.warmup_fraction == 0.01
    assert options.train.best_model_metric == "rmse_prod"
    assert options.train.loss_of("energy") == LossOptions()
    assert "scheduler_patience=250 has no effect" in caplog.text


def test_old_offsets_are_tables_by_atomic_number():
    options = read("fixed_composition_weights: {energy: {1: -13.6, 8: -430.0}}")
    table = options.train.composition.tables["energy"]
    assert table == {"H": -13.6, "O": -430.0}


def test_one_loss_for_all_targets_with_weights():
    options = read("""
        loss:
          type: mae
          weights: {energy: 2.0, forces: 0.5}
    """)
    loss = options.train.loss_of("energy")
    assert loss == LossOptions(
        type="mae",
        weight=2.0,
        forces=LossTerm(type="mae", weight=0.5),
        stress=LossTerm(type="mae"),
    )


def test_huber_with_a_threshold_for_each_label():
    options = read("""
        loss:
          type: {huber: {deltas: {energy: 0.1, forces: 0.02, virial: 0.3}}}
          weights: {virial: 0.1}
    """)
    loss = options.train.loss_of("energy")
    assert loss.value == LossTerm(type="huber", weight=1.0, delta=0.1)
    assert loss.forces == LossTerm(type="huber", weight=1.0, delta=0.02)
    assert loss.stress == LossTerm(type="huber", weight=0.1, delta=0.3)


def test_losses_of_gradients_beside_their_target():
    """As in the manual of metatrain 2025.11."""
    options = read("""
        loss:
          energy: {type: mse, weight: 1.0, reduction: mean}
          forces: {type: mae_masked, weight: 0.1, reduction: mean}
          virial: {type: huber, weight: 2.0, delta: 0.5}
    """)
    loss = options.train.loss_of("energy")
    assert loss.forces == LossTerm(type="mae", weight=0.1)
    assert loss.stress == LossTerm(type="huber", weight=2.0, delta=0.5)


def test_todays_losses_are_left_alone():
    text = "loss: {energy: {type: mae, weight: 2.0, forces: huber}}"
    assert read(text).train.loss_of("energy").forces == LossTerm(type="huber")
    # a target may have the name of a label
    assert read("loss: {type: mae}", ["type"]).train.loss_of("type").value.type == "mae"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{num_epochs_warmup: 3, warmup_fraction: 0.1}", "expected this or warmup_fra"),
        (
            "{fixed_composition_weights: {}, atomic_baseline: {}}",
            "expected this or atomic_baseline, got both",
        ),
        ("{num_epochs_warmup: few}", "num_epochs_warmup: expected a whole number"),
        ("{num_epoch_warmup: 3}", "did you mean num_epochs"),
        ("{loss: {type: mse, weight: {energy: 1}}}", "loss.weight: unknown option"),
        (
            "{loss: {type: mse, weights: {enrgy: 1}}}",
            "weights.enrgy: unknown option; did you mean energy?",
        ),
        ("{loss: {type: {hubert: 1}}}", "expected a name or a block huber"),
        (
            "{loss: {type: mse, sliding_factor: 0.5}}",
            "sliding_factor: is not supported",
        ),
        (
            "{loss: {energy: {forces: mse}, forces: mse}}",
            "loss.forces: expected here or in energy, got both",
        ),
    ],
)
def test_what_cannot_be_meant_fails_by_name(text, message):
    with pytest.raises(ConfigError) as error:
        read(text)
    assert message in str(error.value)


def test_a_label_of_several_targets_has_to_be_placed():
    with pytest.raises(ConfigError, match="in the block of the target"):
        read("loss: {energy: mse, forces: mse}", ["energy", "energy/b"])


def test_a_preset_is_refused_with_what_to_do():
    values = {"architecture": {"preset": "fast"}, "training_set": "train.xyz"}
    with pytest.raises(ConfigError, match=r"architecture\.preset: .* under model"):
        parse_options(values)
