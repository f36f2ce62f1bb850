"""Whole runs: what they leave behind, how they resume, what they refuse."""

import json

import pytest
import torch
from ase.io import read, write
from support.frames import build_frames, write_frames
from support.runs import assert_same_state, build_options, read_log, write_base

from pet_calc.calculator import PETCalculator
from pet_calc.checkpoint import load_checkpoint
from pet_calc.checkpoint.adapter import load_adapter
from pet_calc.config import LossOptions, LossTerm, read_options, replace
from pet_calc.data import dataset
from pet_calc.data.systems import build_batch
from pet_calc.errors import ConfigError, DataError, ModelError
from pet_calc.export import export_model
from pet_calc.lora.fingerprint import compute_fingerprint
from pet_calc.lora.freeze import HEAD_GROUPS
from pet_calc.lora.inject import has_lora, lora_layers
from pet_calc.model.derivatives import predict
from pet_calc.model.hypers import TargetSpec
from pet_calc.train import loop, step_runner
from pet_calc.train.run import run_training


def run(options, **kwargs):
    return run_training(options, show_progress=False, **kwargs)


@pytest.mark.parametrize("method", ["lora", "heads", "full"])
def test_training_lowers_the_validation_error(tmp_path, method):
    report = run(build_options(tmp_path, method=method, epochs=12))
    assert report.end == "finished"
    assert report.validation["forces_mae"] < report.zero_step["forces_mae"]
    assert report.best_epoch > 0


def test_a_run_leaves_model_adapter_log_options_and_report(tmp_path):
    options = build_options(tmp_path)
    report = run(options)
    folder = tmp_path / "run"
    names = {
        "best_model.ckpt",
        "last_model.ckpt",
        "adapter.safetensors",
        "log.csv",
        "log.jsonl",
        "run.log",
        "report.json",
        "options_resolved.yaml",
        "predictions",
    }
    assert names == {path.name for path in folder.iterdir()}
    assert len(read_log(folder)) == 4
    assert json.loads((folder / "report.json").read_text()) == report.to_dict()
    resolved = read_options(folder / "options_resolved.yaml")
    assert resolved.train.num_epochs == 4
    # the default of a fine-tuning; 1 from scratch
    assert resolved.train.loss_of("energy").value.weight == 10.0
    assert resolved.finetune.lora == options.finetune.lora
    provenance = load_checkpoint(report.best_model).metadata["provenance"]
    assert provenance["method"] == "lora"
    assert next(iter(provenance["files"].values())).isalnum()


def test_the_same_seed_gives_the_same_model(tmp_path):
    options = build_options(tmp_path, output="one", epochs=2)
    run(options)
    run(replace(options, output=str(tmp_path / "two")))
    one, two = (
        load_checkpoint(tmp_path / n / "best_model.ckpt") for n in ["one", "two"]
    )
    assert_same_state(one.state, two.state)


def test_lora_changes_only_corrections_and_composition(tmp_path):
    base = load_checkpoint(write_base(tmp_path))
    run(build_options(tmp_path))
    tuned = load_checkpoint(tmp_path / "run" / "last_model.ckpt")
    assert compute_fingerprint(tuned.state) == compute_fingerprint(base.state)
    corrections = [n for n in tuned.state if n.endswith("lora_B.weight")]
    for part in ("gnn_layers", "combination_mlps", "node_heads", "edge_heads"):
        assert any(name.startswith(part) for name in corrections), part
    assert all(bool(tuned.state[name].any()) for name in corrections)


def test_with_replay_combinations_stay_as_they_are(tmp_path):
    run(build_options(tmp_path, replay_generate=2))
    tuned = load_checkpoint(tmp_path / "run" / "last_model.ckpt")
    corrections = [n for n in tuned.state if n.endswith("lora_B.weight")]
    assert {name.split(".")[0] for name in corrections} == {"gnn_layers"}
    assert any(".mlp." in name for name in corrections)


@pytest.mark.parametrize("changes", [{"head_mode": "freeze"}, {"replay_generate": 2}])
def test_frozen_heads_stay_as_they_are(tmp_path, changes):
    """As by default if they serve replayed frames as well."""
    base = load_checkpoint(write_base(tmp_path))
    run(build_options(tmp_path, **changes))
    tuned = load_checkpoint(tmp_path / "run" / "last_model.ckpt")
    for name, value in base.state.items():
        if name.startswith(HEAD_GROUPS):
            assert torch.equal(tuned.state[name], value), name


@pytest.mark.parametrize("is_stabilized", [False, True])
def test_after_training_unmerged_equals_merged_equals_exported(tmp_path, is_stabilized):
    options = build_options(tmp_path)
    config = replace(options.finetune.config, rank_stabilized=is_stabilized)
    finetune = replace(options.finetune, config=config)
    report = run(replace(options, train=replace(options.train, finetune=finetune)))
    record = load_checkpoint(report.best_model)
    unmerged = record.build_model()
    assert has_lora(unmerged)
    file = export_model(unmerged, tmp_path / "tuned.pt")
    for index in (0, 1):  # a crystal and a molecule
        atoms = read(write_frames(tmp_path, name="other.xyz", seed=5), index)
        batch = build_batch(atoms, unmerged.pair_cutoff, dtype=torch.float64)
        expected = predict(unmerged, batch)
        for model in (report.best_model, file):
            calculator = PETCalculator(model)
            energy = calculator.get_potential_energy(atoms.copy())
            # relative: rounding of one merge in float64
            assert energy == pytest.approx(float(expected.energy[0]), rel=1e-10)
            forces = torch.from_numpy(calculator.get_forces(atoms.copy()))
            error = (forces - expected.forces).abs().max()
            assert error < 1e-10 * expected.forces.abs().max()


def test_checkpoint_and_adapter_give_the_same_numbers(tmp_path):
    base = write_base(tmp_path)
    report = run(build_options(tmp_path, base=base))
    adapter = tmp_path / "run" / "adapter.safetensors"
    atoms = read(write_frames(tmp_path, name="other.xyz", seed=5), 0)
    whole = PETCalculator(report.best_model)
    parts = PETCalculator(base, adapter=adapter)
    for name in ("energy", "forces", "stress"):
        one = whole.get_property(name, atoms.copy())
        # rounding of one merge in float64
        assert parts.get_property(name, atoms.copy()) == pytest.approx(one, abs=1e-12)


def test_files_hold_the_alpha_of_a_rank_stabilized_run_by_rank(tmp_path):
    """So whoever reads them multiplies by the same number, and knows nothing of it."""
    # so that the layers are those of the options
    layers = {"lora_targets": ["edges"], "head_mode": "freeze"}
    options = build_options(tmp_path, epochs=1, **layers)
    changes = {"alpha": 8.0, "rank_stabilized": True, "b_rate": 2.0}
    config = replace(options.finetune.config, **changes)
    finetune = replace(options.finetune, config=config)
    report = run(replace(options, train=replace(options.train, finetune=finetune)))
    adapter = load_adapter(tmp_path / "run" / "adapter.safetensors")
    # rank 2, alpha 8
    assert adapter.scaling == pytest.approx(8.0 / 2**0.5)
    assert load_checkpoint(report.best_model).lora == adapter.config
    layer = next(
        iter(lora_layers(load_checkpoint(report.best_model).build_model()).values())
    )
    assert layer.scaling == adapter.scaling
    resolved = read_options(tmp_path / "run" / "options_resolved.yaml").finetune
    assert (resolved.config.alpha, resolved.config.rank_stabilized) == (8.0, True)
    assert resolved.config.b_rate == 2.0
    assert resolved.lora == adapter.config


def test_step_zero_of_lora_is_the_base_with_a_new_composition(tmp_path):
    base = write_base(tmp_path)
    data = write_frames(tmp_path)
    # a rate of (nearly) zero: nothing but the composition moves
    options = build_options(
        tmp_path, base=base, data=data, learning_rate=1e-300, epochs=1
    )
    run(options)
    atoms = read(data, 0)
    tuned, before = (
        PETCalculator(tmp_path / "run" / "last_model.ckpt"),
        PETCalculator(base),
    )
    for name in ("forces", "stress"):
        one = tuned.get_property(name, atoms.copy())
        assert (one == before.get_property(name, atoms.copy())).all()


def test_the_base_is_kept_when_training_does_not_beat_it(tmp_path, caplog):
    # no step moves anything, so no epoch is better
    options = build_options(tmp_path, learning_rate=1e-300, epochs=1)
    with caplog.at_level("WARNING", "pet_calc"):
        report = run(options)
    assert (report.best_epoch, report.restarts) == (0, [])
    assert report.validation == report.zero_step
    assert "no epoch beat the base" in caplog.text


def test_a_new_target_starts_from_the_heads_of_the_base(tmp_path):
    options = build_options(tmp_path, target="energy/pbe0", epochs=1)
    report = run(options)
    tuned = load_checkpoint(report.best_model)
    assert list(tuned.targets) == ["energy/pbe0"]
    # by default corrections of the head of a new target train
    factors = {n: v for n, v in tuned.state.items() if ".lora_" in n}
    assert any(name.startswith("node_heads.energy/pbe0.") for name in factors)
    assert report.n_trainable == sum(value.numel() for value in factors.values())


def test_heads_method_keeps_the_other_outputs(tmp_path):
    specs = [TargetSpec.for_energy(), TargetSpec.for_energy("energy/b")]
    base = write_base(tmp_path, targets=specs)
    report = run(build_options(tmp_path, base=base, method="heads", epochs=1))
    assert list(load_checkpoint(report.best_model).targets) == ["energy", "energy/b"]


def test_training_from_scratch_leaves_a_model_named_after_the_options(tmp_path):
    data = write_frames(tmp_path)
    text = f"""
        device: cpu
        architecture:
          name: pet
          model: {{d_pet: 8, d_head: 8, d_node: 16, d_feedforward: 8, num_heads: 2}}
          training: {{num_epochs: 2, batch_size: 4}}
        training_set:
          systems: {{read_from: {data}}}
          targets: {{energy: {{key: energy, unit: eV}}}}
        validation_set: 0.25
        test_set: 0.1
    """
    (tmp_path / "emt.yaml").write_text(text)
    options = replace(read_options(tmp_path / "emt.yaml"), output=str(tmp_path / "run"))
    report = run(options, run_name="emt")
    assert report.best_model.endswith("best_model_emt.ckpt")
    assert report.test["energy_mae"] > 0
    model = load_checkpoint(report.best_model)
    assert model.atomic_types == [1, 8, 13]


def test_stress_enters_the_loss_where_there_is_one(tmp_path):
    report = run(build_options(tmp_path, epochs=1, validation="0.5"))
    assert "stress_mae" in report.validation
    loss = {"energy": LossOptions(stress=LossTerm(weight=0.0))}
    options = build_options(
        tmp_path, output="off", epochs=1, validation="0.5", train={"loss": loss}
    )
    assert "stress_mae" not in run(options).validation


def test_a_folder_with_a_run_is_not_overwritten(tmp_path):
    options = build_options(tmp_path, epochs=1)
    run(options)
    before = (tmp_path / "run" / "best_model.ckpt").read_bytes()
    with pytest.raises(ConfigError, match="holds a run already"):
        run(options)
    assert (tmp_path / "run" / "best_model.ckpt").read_bytes() == before
    run(options, may_overwrite=True)


def test_what_weighs_nothing_does_not_pick_the_best_model(tmp_path):
    """Energies that get worse do not undo what forces have gained."""
    report = run(
        build_options(tmp_path, method="full", loss_weights=(0.0, 1.0, 0.0), epochs=12)
    )
    assert report.best_epoch > 0
    assert report.validation["forces_mae"] < report.zero_step["forces_mae"]
    rows = read_log(tmp_path / "run")
    best = min(rows, key=lambda row: row["val_forces_mae"])
    assert report.best_epoch == best["epoch"]


@pytest.mark.parametrize("name", ["evaluate", "save_checkpoint", "Logbook"])
def test_validating_saving_and_logging_are_tried_before_the_first_step(
    tmp_path, monkeypatch, name
):
    def fail(*args, **kwargs):
        raise OSError("disk full")

    steps = []
    monkeypatch.setattr(loop.Trainer, "_take_step", lambda *args: steps.append(1))
    owner = step_runner.StepRunner if name == "evaluate" else loop
    monkeypatch.setattr(owner, name, fail)
    with pytest.raises(OSError, match="disk full"):
        run(build_options(tmp_path))
    assert steps == []


def test_labels_that_give_no_gradient_stop_before_anything_is_written(
    tmp_path, monkeypatch
):
    def spoil(loss, parameters):
        parameters[0].grad = torch.full_like(parameters[0], float("nan"))

    monkeypatch.setattr(step_runner, "add_gradient", spoil)
    with pytest.raises(DataError, match="no finite loss and gradient"):
        run(build_options(tmp_path))
    assert not (tmp_path / "run" / "last_model.ckpt").exists()


def test_neighbor_lists_of_the_training_set_are_made_once(tmp_path, monkeypatch):
    seen = []
    build_system = dataset.build_system

    def note(frame, cutoff):
        seen.append(frame.source)
        return build_system(frame, cutoff)

    monkeypatch.setattr(dataset, "build_system", note)
    run(build_options(tmp_path))
    assert len(seen) == 12
    assert len(set(seen)) == 12


def write_charged(folder, charge):
    frames = build_frames()
    frames[4].info["charge"] = charge
    write(folder / "charged.xyz", frames)
    return str(folder / "charged.xyz")


def test_a_charge_changes_the_training_of_a_conditioned_model(tmp_path):
    base = write_base(tmp_path, system_conditioning=True)
    errors = []
    for charge in (0, 3):
        data = write_charged(tmp_path, charge)
        options = build_options(
            tmp_path,
            base=base,
            data=data,
            output=f"run{charge}",
            validation=data,
            method="full",
            epochs=2,
        )
        run(options)
        # a new conditioning starts without effect, and gets one
        errors.append(read_log(tmp_path / f"run{charge}")[-1]["val_forces_mae"])
    assert errors[0] != errors[1]


def test_charges_that_the_model_does_not_know_are_refused_or_said(tmp_path, caplog):
    options = build_options(tmp_path, data=write_charged(tmp_path, 3), epochs=1)
    with caplog.at_level("WARNING", "pet_calc"):
        run(options)
    assert "1 frames have a charge" in caplog.text
    assert "charged.xyz, frame 4" in caplog.text
    base = write_base(tmp_path, system_conditioning=True, max_charge=2)
    options = build_options(
        tmp_path, base=base, data=write_charged(tmp_path, 3), output="conditioned"
    )
    with pytest.raises(ModelError, match=r"charged\.xyz, frame 4: total charge 3"):
        run(options)


def test_unknown_elements_name_the_frame(tmp_path):
    data = tmp_path / "gold.xyz"
    header = 'Properties=species:S:1:pos:R:3 energy=1.0 pbc="F F F"'
    data.write_text(f"2\n{header}\nAu 0.0 0.0 0.0\nAu 0.0 0.0 2.5\n" * 4)
    with pytest.raises(DataError, match=r"Au .*gold\.xyz, frame 0"):
        run(build_options(tmp_path, data=str(data)))


def test_early_stopping_ends_a_run_that_does_not_improve(tmp_path):
    options = build_options(
        tmp_path,
        learning_rate=1e-300,
        epochs=30,
        train={"early_stopping_patience": 2},
    )
    report = run(options)
    assert report.end == "early"
    rows = read_log(tmp_path / "run")
    assert len(rows) < 30
    # what is left is the last epoch's state: nothing is trained again
    again = run(options, is_resumed=True)
    assert (again.end, again.n_steps) == ("early", rows[-1]["step"] + 3)
    assert [row["epoch"] for row in read_log(tmp_path / "run")[:-1]] == [
        row["epoch"] for row in rows
    ]
