"""Written options and the template are read back as what they were."""

from dataclasses import fields
from typing import get_args

import pytest

from pet_calc.config import (
    CompositionOptions,
    DatasetOptions,
    FinetuneOptions,
    LabelOptions,
    LossOptions,
    LossTerm,
    ReplayOptions,
    RunOptions,
    TargetOptions,
    TrainOptions,
    default_alpha,
    default_learning_rate,
    default_num_epochs,
    options_to_dict,
    parse_options,
    read_options,
    render_template,
    replace,
    write_options,
    write_template,
)
from pet_calc.config.fields import Options, read_docs
from pet_calc.errors import ConfigError
from pet_calc.lora.layer import LoRAConfig
from pet_calc.model.hypers import PETHypers

DATASET = DatasetOptions(
    systems={"read_from": ("a.xyz", "1e5"), "length_unit": "bohr", "index": "-10:"},
    indices=(1, 3),
    targets=(
        TargetOptions(
            key="e",
            unit="Hartree",
            forces=LabelOptions(mode="required", key="f"),
            stress=LabelOptions(mode="off"),
            virial=LabelOptions(sign=-1),
            description="PBE0: tight, 3e5 points",
        ),
        TargetOptions(name="non_conservative_stress", unit="GPa"),
    ),
    weight=0.5,
    extra_data={"charge": {"key": "q"}, "spin_multiplicity": False},
    use_isolated_atoms=True,
)
PLAIN = RunOptions(training_set=(DATASET,))
RUNS = {
    "plain": PLAIN,
    "lora": RunOptions(
        training_set=(DATASET, DatasetOptions(systems="b.xyz")),
        validation_set=(DATASET,),
        test_set=0.25,
        architecture={
            "training": TrainOptions(
                finetune=FinetuneOptions(
                    method="lora",
                    read_from="base.ckpt",
                    config={
                        "rank": 4,
                        "alpha": 2.0,
                        "target_modules": ("mlp", "compress"),
                    },
                    head_mode="train",
                    inherit_heads={"energy/pbe": "energy"},
                    keep_head=True,
                ),
                num_epochs=3,
                learning_rate=1e-5,
                grad_clip_norm=float("inf"),
                ema_decay=0.999,
                loss={
                    "energy": {"forces": {"type": "huber", "weight": 10, "delta": 0.01}}
                },
                composition=CompositionOptions(
                    mode="keep", tables={"energy": {"No": 1.0, "H": -2.0}}
                ),
            ),
            "atomic_types": (1, 8),
        },
        device="cuda:1",
        base_precision=64,
        seed=5,
        output="out/run 1",
        final_eval=False,
    ),
    "lora that waits for its base": replace(
        PLAIN, finetune=FinetuneOptions(method="lora")
    ),
    "what is remembered of the base": replace(
        PLAIN,
        retain_set=(DatasetOptions(systems="old.xyz"),),
        replay_set=(DatasetOptions(systems=["more.xyz", "b.xyz"], weight=0.5),),
        finetune=FinetuneOptions(
            method="lora",
            read_from="b.ckpt",
            direct_heads="drop",
            new_elements={"Ge": "Si"},
        ),
        train=TrainOptions(
            replay=ReplayOptions(labels="base", generate=20, weight=0.3)
        ),
    ),
    "heads": replace(
        PLAIN,
        finetune=FinetuneOptions(
            method="heads",
            read_from="base.ckpt",
            config={"head_modules": ["node_last_layers"]},
        ),
    ),
    "full": PLAIN.with_base("base.ckpt"),
    "scratch with a shape": replace(PLAIN, hypers=PETHypers(d_pet=16, cutoff=3.0)),
    "one energy for all": replace(
        PLAIN, train=TrainOptions(composition=CompositionOptions(tables={"a": 1.0}))
    ),
}


@pytest.mark.parametrize("options", RUNS.values(), ids=RUNS)
def test_written_options_are_read_back_equal(options, tmp_path):
    path = tmp_path / "options.yaml"
    write_options(options, path)
    assert read_options(path) == options
    assert parse_options(options_to_dict(options)) == options
    assert [file.name for file in tmp_path.iterdir()] == ["options.yaml"]


def test_what_is_not_said_of_a_data_set_is_not_written():
    options = RunOptions(training_set=(DatasetOptions(systems="a.xyz"),))
    (written,) = options_to_dict(options)["training_set"]
    assert set(written) == {"systems", "targets", "weight", "use_isolated_atoms"}


def test_template_is_at_the_defaults(tmp_path):
    path = tmp_path / "options.yaml"
    write_template(path)
    options = read_options(path)
    defaults = RunOptions(training_set=(DatasetOptions(systems="train.xyz"),))
    assert options.finetune == FinetuneOptions(method="lora", read_from="base.ckpt")
    assert options.train == TrainOptions(
        finetune=options.finetune, loss={"energy": LossOptions()}
    )
    assert replace(options, train=defaults.train) == defaults


def test_template_has_every_option_and_explains_it():
    lines = [line.strip().removeprefix("# ") for line in render_template().splitlines()]
    keys = {line.split(":")[0].strip() for line in lines}
    named = {"name": "energy", "head_modules": "config", "tables": "composition"}
    for cls in find_blocks(RunOptions) | {LossTerm}:
        for name in cls.model_fields:
            assert named.get(name, name) in keys, name
            assert read_docs(cls)[name].endswith("."), name
    for field in fields(PETHypers):
        assert field.name in keys


def find_blocks(cls):
    """The classes of all blocks of an options file."""
    found = {cls}
    for field in cls.model_fields.values():
        kinds = [field.annotation, *get_args(field.annotation)]
        for kind in kinds + [arg for outer in kinds for arg in get_args(outer)]:
            if isinstance(kind, type) and issubclass(kind, Options):
                found |= find_blocks(kind)
    return found


def test_the_defaults_of_lora_are_those_of_its_layers():
    # a run says what of its layers
    expected = replace(LoRAConfig(), targets=("auto",))
    assert FinetuneOptions(method="lora").lora == expected


def test_template_with_the_model_block_is_read(tmp_path):
    lines = render_template().splitlines()
    first = lines.index("  # model:")
    last = lines.index("  # How the training goes.")
    for i in range(first, last):
        lines[i] = lines[i].replace("# ", "", 1)
    path = tmp_path / "options.yaml"
    path.write_text("\n".join(lines))
    assert read_options(path).hypers == PETHypers()


def test_template_does_not_replace_a_file(tmp_path):
    path = tmp_path / "options.yaml"
    path.write_text("mine")
    with pytest.raises(ConfigError, match="exists already"):
        write_template(path)
    assert path.read_text() == "mine"
    write_template(path, overwrite=True)
    assert path.read_text() == render_template()


def test_options_that_contradict_each_other_are_refused():
    with pytest.raises(ConfigError, match="no base for method scratch"):
        FinetuneOptions(method="scratch", read_from="base.ckpt")
    with pytest.raises(ConfigError, match="no effect with method full"):
        FinetuneOptions(method="full", read_from="a", config={"rank": 2})
    with pytest.raises(ConfigError, match="embeddings would not train"):
        FinetuneOptions(method="heads", read_from="a", new_elements="nearest")
    with pytest.raises(ConfigError, match="takes its elements from the data"):
        FinetuneOptions(new_elements={"Ge": "Si"})
    with pytest.raises(ConfigError, match="a replay_set to label"):
        replace(PLAIN, train=TrainOptions(replay=ReplayOptions(labels="base")))
    with pytest.raises(ConfigError, match="weight: has no effect without a replay_set"):
        replace(PLAIN, train=TrainOptions(replay=ReplayOptions(weight=2.0)))
    with pytest.raises(ConfigError, match="batch_size: has no effect without a replay"):
        replace(PLAIN, train=TrainOptions(replay=ReplayOptions(batch_size=2)))
    with pytest.raises(ConfigError, match="batch_size: expected a whole number from 1"):
        ReplayOptions(batch_size=0)
    with pytest.raises(ConfigError, match="generate: needs a base"):
        replace(
            PLAIN, train=TrainOptions(replay=ReplayOptions(generate=2))
        ).check_ready()


def test_alpha_follows_the_square_root_of_the_rank():
    assert [default_alpha(rank) for rank in (2, 8, 32)] == [8.0, 16.0, 32.0]
    for rank in (2, 8, 32):
        # by an options file as by the flag, and in what the run then writes
        options = FinetuneOptions(method="lora", read_from="a", config={"rank": rank})
        assert options.lora.alpha == default_alpha(rank)
        assert FinetuneOptions(**options.model_dump()) == options
        config = {"rank": rank, "rank_stabilized": True}
        stabilized = FinetuneOptions(method="lora", read_from="a", config=config)
        assert stabilized.lora.alpha == pytest.approx(default_alpha(rank))
        assert replace(PLAIN.finetune.config, rank=rank).alpha == default_alpha(rank)
    given = FinetuneOptions(
        method="lora", read_from="a", config={"rank": 32, "alpha": 16.0}
    )
    assert given.lora.alpha == 16.0
    assert FinetuneOptions(method="lora", read_from="a").lora.alpha == 16.0


def test_a_rank_of_the_wrong_kind_is_named_without_its_alpha():
    for rank in ("8", 0, -1, 2.5, None):
        with pytest.raises(ConfigError, match="rank: expected a whole number") as error:
            FinetuneOptions(method="lora", read_from="a", config={"rank": rank})
        assert "alpha" not in str(error.value)


def test_learning_rate_follows_method_and_size():
    full = default_learning_rate("full", 3_000_000)
    assert full == pytest.approx(0.3 * 3e-4)
    bundled = 441_474
    lora = default_learning_rate("lora", bundled)
    assert lora == 2 * default_learning_rate("heads", bundled)
    assert default_learning_rate("lora", 16 * bundled) == pytest.approx(lora / 2)
    assert default_learning_rate("lora", 1_000) == pytest.approx(2e-3)
    assert default_learning_rate("heads", 3_000_000) == pytest.approx(3e-4)
    assert default_learning_rate("scratch", 3_000_000) == pytest.approx(3e-4)
    assert default_learning_rate("scratch", 1_000) == pytest.approx(1e-3)
    assert default_learning_rate("full", 10**9) == pytest.approx(3e-5)
    assert default_num_epochs("lora", 50) == 200
    assert default_num_epochs("scratch", 50) == 1000
    # few frames: 3,000 steps
    assert default_num_epochs("lora", 2) == 1500
    assert default_num_epochs("lora", 7) == 429
