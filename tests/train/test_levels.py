"""New levels of theory beside the base's, heads alone, and direct heads."""

import logging

import ase.io
import numpy as np
import pytest
import torch
from metatomic_ase import MetatomicCalculator
from support.frames import build_frames, write_frames
from support.runs import build_options, check_resume, stand_as_in_file, write_base

from pet_calc.calculator import PETCalculator
from pet_calc.checkpoint import load_checkpoint
from pet_calc.checkpoint.metatrain_write import save_metatrain_checkpoint
from pet_calc.checkpoint.open import load_merged_checkpoint
from pet_calc.errors import ConfigError
from pet_calc.export import export_model
from pet_calc.info.describe import describe_file
from pet_calc.info.text import format_description
from pet_calc.lora.freeze import HEAD_GROUPS
from pet_calc.lora.inject import remove_lora
from pet_calc.model.hypers import TargetSpec
from pet_calc.train.run import run_training

NEW = "energy/pbe0"
DIRECT = [
    TargetSpec.for_energy(),
    TargetSpec("non_conservative_force", "force", "eV/A", "atom", "f", [3]),
    TargetSpec("non_conservative_stress", "pressure", "eV/A^3", "system", "s", [3, 3]),
]


def run(options, **kwargs):
    return run_training(options, show_progress=False, **kwargs)


def predict(model, target="energy", adapter=None, **kwargs):
    """Energies and forces of some frames in one vector."""
    calculator = PETCalculator(model, target=target, adapter=adapter, **kwargs)
    values = []
    for atoms in build_frames(4, seed=3):
        values.append([calculator.get_potential_energy(atoms)])
        values.append(calculator.get_forces(atoms).ravel())
    return np.concatenate(values)


def split_state(state, targets):
    """The weights in the heads of ``targets``, and all others but the composition."""
    heads, others = {}, {}
    for name, value in state.items():
        parts = name.split(".")
        if parts[0] in HEAD_GROUPS and parts[1] in targets:
            heads[name] = value
        elif parts[0] != "baseline":
            others[name] = value
    return heads, others


@pytest.mark.parametrize("target", ["energy", NEW])
def test_method_heads_trains_the_heads_and_no_other_weight(tmp_path, target):
    base = write_base(tmp_path)
    run(build_options(tmp_path, base=base, method="heads", target=target))
    before = load_checkpoint(base).state
    after = load_checkpoint(tmp_path / "run" / "last_model.ckpt").state
    heads, others = split_state(after, [target])
    assert heads
    for name, value in heads.items():
        # a new head started from the base's
        old = before[name.replace(target, "energy")]
        assert not torch.equal(value, old), name
    for name, value in others.items():
        assert torch.equal(value, before[name]), name


def test_a_kept_head_says_exactly_what_it_said_if_only_heads_train(tmp_path):
    base = write_base(tmp_path)
    report = run(
        build_options(tmp_path, base=base, method="heads", target=NEW, keep_head=True)
    )
    assert np.array_equal(predict(report.best_model), predict(base))
    assert abs(predict(report.best_model, NEW) - predict(base)).max() > 0.1


@pytest.mark.parametrize("method", ["lora", "full"])
def test_a_kept_head_changes_through_the_trunk_only(tmp_path, method):
    base = write_base(tmp_path)
    report = run(
        build_options(tmp_path, base=base, method=method, target=NEW, keep_head=True)
    )
    record = load_checkpoint(report.best_model)
    assert list(record.targets) == ["energy", NEW]
    before = load_checkpoint(base)
    kept, _ = split_state(record.state, ["energy"])
    for name, value in kept.items():
        assert torch.equal(value, before.state[name]), name
    change = abs(predict(report.best_model) - predict(base)).max()
    assert change > 1e-6
    # LoRA taken out again leaves what the base said
    if method == "lora":
        model = record.build_model()
        remove_lora(model)
        assert np.array_equal(predict(model), predict(base))


@pytest.mark.parametrize("level", ["", "PBE0"])
def test_a_trained_model_no_longer_claims_the_level_of_its_base(
    tmp_path, caplog, level
):
    base = write_base(tmp_path, [TargetSpec.for_energy(description="GFN1-xTB")])
    options = build_options(tmp_path, base=base, level=level)
    with caplog.at_level(logging.INFO, "pet_calc"):
        model = run(options).best_model
    text = format_description(describe_file(model))
    unstated = "from GFN1-xTB, trained on train.xyz, level not stated"
    assert f"energy [eV]: {level or unstated}" in text
    assert ("name it with --level" in caplog.text) == (not level)


def test_both_levels_are_loaded_exported_converted_and_shown(tmp_path, caplog):
    base = write_base(tmp_path)
    options = build_options(
        tmp_path, base=base, target=NEW, keep_head=True, level="PBE0"
    )
    with caplog.at_level(logging.INFO, "pet_calc"):
        report = run(options)
    head_weights = sum(
        value.numel()
        for name, value in load_checkpoint(base).state.items()
        if name.split(".")[0] in HEAD_GROUPS
    )
    assert f"kept as in the base: energy ({head_weights:,} weights" in caplog.text
    model = report.best_model
    text = format_description(describe_file(model))
    assert "energy [eV]" in text
    assert f"{NEW} [eV]: PBE0" in text

    exported = export_model(load_checkpoint(model).build_model(), tmp_path / "m.pt")
    theirs = tmp_path / "theirs.ckpt"
    save_metatrain_checkpoint(theirs, load_merged_checkpoint(model))
    for target, variant in (("energy", None), (NEW, "pbe0")):
        expected = predict(model, target)
        for other in (exported, theirs):
            np.testing.assert_allclose(predict(other, target), expected, atol=1e-9)
        # a program that we did not write
        calculator = MetatomicCalculator(
            exported, variants={"energy": variant}, check_consistency=False
        )
        atoms = build_frames(4, seed=3)[0]
        found = calculator.get_potential_energy(atoms)
        assert found == pytest.approx(expected[0], abs=1e-9)
    adapter = tmp_path / "run" / "adapter.safetensors"
    for target in ("energy", NEW):
        np.testing.assert_allclose(
            predict(base, target, adapter=adapter), predict(model, target), atol=1e-9
        )


def test_keeping_what_is_trained_itself_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="nothing beside it to keep; name the new"):
        run(build_options(tmp_path, keep_head=True))


def test_of_several_outputs_one_is_named_to_start_from(tmp_path):
    specs = [TargetSpec.for_energy("energy/a"), TargetSpec.for_energy("energy/b")]
    base = write_base(tmp_path, targets=specs)
    flags = {"base": base, "target": NEW, "learning_rate": 1e-300, "epochs": 1}
    for wrong in (None, "energy/c"):
        message = r"one of the base's \(energy/a, energy/b\): .* --inherit-head"
        with pytest.raises(ConfigError, match=message):
            run(build_options(tmp_path, inherit_head=wrong, **flags))
    report = run(build_options(tmp_path, inherit_head="energy/b", **flags))
    heads, _ = split_state(load_checkpoint(report.best_model).state, [NEW])
    before = load_checkpoint(base).state
    for name, value in heads.items():
        if ".lora_" not in name:
            source = name.replace(NEW, "energy/b").replace(".linear.", ".")
            assert torch.equal(value, before[source]), name


def test_without_keep_head_the_base_is_dropped_and_that_is_said(tmp_path, caplog):
    with caplog.at_level(logging.INFO, "pet_calc"):
        report = run(build_options(tmp_path, target=NEW, epochs=1))
    assert list(load_checkpoint(report.best_model).targets) == [NEW]
    assert "target energy of the base is dropped" in caplog.text
    assert "--keep-head keeps it" in caplog.text


@pytest.mark.parametrize(
    "method",
    [
        "heads",
        pytest.param("lora", marks=pytest.mark.slow),
        pytest.param("full", marks=pytest.mark.slow),
    ],
)
def test_direct_heads_learn_forces_and_stress_from_the_labels(
    tmp_path, method, monkeypatch
):
    stand_as_in_file(monkeypatch)
    base = write_base(tmp_path, targets=DIRECT)
    mode = {"head_mode": "train"} if method == "lora" else {}
    options = build_options(
        tmp_path,
        base=base,
        method=method,
        # fast: the forces of EMT are large for an untrained base
        learning_rate=0.01 if method == "lora" else 0.05,
        epochs=16,
        augmentation="none",
        validation=write_frames(tmp_path, n_frames=6, name="val.xyz", seed=1),
        **mode,
    )
    report = run(options)
    record = load_checkpoint(report.best_model)
    assert list(record.targets) == [spec.name for spec in DIRECT]
    for name in ("direct_forces_mae", "direct_stress_mae"):
        assert report.validation[name] < 0.97 * report.zero_step[name], name
    assert "direct forces MAE" in report.to_text()
    log = (tmp_path / "run" / "log.csv").read_text().splitlines()
    assert "val_direct_forces_mae" in log[0]

    # what is reported is what a calculator says
    frames = ase.io.read(write_frames(tmp_path), ":")
    calculator = PETCalculator(report.best_model, non_conservative=True)
    before = PETCalculator(base, non_conservative=True)
    errors = [
        np.mean([abs(c.get_forces(a.copy()) - a.get_forces()).mean() for a in frames])
        for c in (calculator, before)
    ]
    assert errors[0] < errors[1]


def test_direct_heads_can_be_left_out(tmp_path):
    base = write_base(tmp_path, targets=DIRECT)
    report = run(build_options(tmp_path, base=base, direct_heads="drop", epochs=1))
    assert list(load_checkpoint(report.best_model).targets) == ["energy"]
    assert "direct_forces_mae" not in report.validation


def test_direct_heads_without_labels_to_learn_from_are_dropped(tmp_path, caplog):
    base = write_base(tmp_path, targets=DIRECT)
    frames = [atoms for atoms in build_frames() if not atoms.pbc.any()]
    ase.io.write(tmp_path / "molecules.xyz", frames)
    options = build_options(
        tmp_path, base=base, data=str(tmp_path / "molecules.xyz"), epochs=1
    )
    with caplog.at_level(logging.INFO, "pet_calc"):
        report = run(options)
    assert "non_conservative_force" in load_checkpoint(report.best_model).targets
    assert "target non_conservative_stress of the base is dropped" in caplog.text


def test_a_new_level_beside_the_base_gets_direct_forces_of_its_own(tmp_path, caplog):
    base = write_base(tmp_path, targets=DIRECT)
    options = build_options(
        tmp_path, base=base, method="heads", target=NEW, keep_head=True
    )
    with caplog.at_level(logging.INFO, "pet_calc"):
        report = run(options)
    names = list(load_checkpoint(report.best_model).targets)
    assert names == [*(s.name for s in DIRECT), NEW, "non_conservative_force/pbe0"]
    assert "non_conservative_stress stays that of energy" in caplog.text
    kept, old = (
        predict(model, non_conservative=True) for model in (report.best_model, base)
    )
    assert np.array_equal(kept, old)
    new = predict(report.best_model, NEW, non_conservative=True)
    theirs = tmp_path / "theirs.ckpt"
    save_metatrain_checkpoint(theirs, load_merged_checkpoint(report.best_model))
    np.testing.assert_array_equal(predict(theirs, NEW, non_conservative=True), new)
    assert abs(new - old)[1:13].max() > 1e-6


def test_an_adapter_brings_direct_heads_along(tmp_path):
    base = write_base(tmp_path, targets=DIRECT)
    report = run(build_options(tmp_path, base=base, head_mode="train", epochs=2))
    adapter = tmp_path / "run" / "adapter.safetensors"
    np.testing.assert_allclose(
        predict(base, adapter=adapter, non_conservative=True),
        predict(report.best_model, non_conservative=True),
        atol=1e-10,
    )


def test_a_run_with_direct_heads_is_resumed_exactly(tmp_path):
    base = write_base(tmp_path, targets=DIRECT)
    check_resume(build_options(tmp_path, base=base, output="whole"), tmp_path)
