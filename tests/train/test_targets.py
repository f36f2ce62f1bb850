"""Several levels of theory in one run, each from its own files and labels."""

import ase.io
import numpy as np
import pytest
import torch
import yaml
from support.levels import read_both, write_levels
from support.runs import check_resume, stand_as_in_file, write_base

from pet_calc.checkpoint import load_checkpoint
from pet_calc.checkpoint.uncertainty import build_uncertainties
from pet_calc.config import FinetuneOptions, read_options, replace
from pet_calc.config.data_options import TargetOptions
from pet_calc.data.frames import LabeledFrame
from pet_calc.data.read_dataset import StoreRule, read_dataset
from pet_calc.errors import ConfigError, DataError
from pet_calc.evaluate.metrics import Metrics
from pet_calc.evaluate.predict import predict_frames
from pet_calc.train.run import run_training


def write_options(folder, base=None, **training):
    write_levels(folder)
    targets = {
        f"energy/{name}": {
            "quantity": "energy",
            "key": f"e_{name}",
            "unit": "eV",
            "forces": {"key": f"f_{name}"},
            "stress": False,
            "virial": False,
        }
        for name in "ab"
    }
    path = str(folder / "{}.xyz")
    a, b = ({name: targets[name]} for name in ("energy/a", "energy/b"))
    training = {"num_epochs": 6, "batch_size": 4, "learning_rate": 0.01, **training}
    if base is not None:
        training["finetune"] = {"method": "full", "read_from": base}
    values = {
        "architecture": {"training": training},
        "device": "cpu",
        "base_precision": 64,
        "output": str(folder / "run"),
        "training_set": [
            {"systems": path.format("a"), "targets": a},
            {"systems": path.format("b"), "targets": b, "weight": 0.5},
        ],
        "validation_set": {"systems": path.format("both"), "targets": targets},
    }
    (folder / "options.yaml").write_text(yaml.safe_dump(values))
    return read_options(folder / "options.yaml")


def measure(model, folder, name):
    structures = ase.io.read(folder / "both.xyz", ":")
    frames = [LabeledFrame.from_atoms(atoms) for atoms in structures]
    for frame, atoms in zip(frames, structures, strict=True):
        frame.energy = atoms.info[f"e_{name}"]
        frame.forces = atoms.arrays[f"f_{name}"]
        frame.stress = None
    metrics = Metrics()
    list(predict_frames(model, frames, f"energy/{name}", metrics))
    return metrics.to_dict()


@pytest.mark.parametrize("has_base", [True, False], ids=["base", "scratch"])
def test_each_level_learns_from_its_own_labels(tmp_path, has_base, monkeypatch):
    stand_as_in_file(monkeypatch)
    base = write_base(tmp_path) if has_base else None
    options = write_options(tmp_path, base)
    if not has_base:
        hypers = {"d_pet": 8, "d_head": 8, "d_node": 16, "d_feedforward": 8}
        options = replace(
            options, hypers=load_checkpoint(write_base(tmp_path, **hypers)).hypers
        )
    report = run_training(options, show_progress=False)
    assert report.target == "energy/a, energy/b"
    model = load_checkpoint(report.best_model).build_model()
    assert list(model.targets) == ["energy/a", "energy/b"]
    for name in "ab":
        found = measure(model, tmp_path, name)
        for key, value in found.items():
            # the report's numbers are those of predicting each level by itself
            expected = report.validation[f"energy/{name}.{key}"]
            assert value == pytest.approx(expected, rel=1e-6)
        # the shift of 7 eV an atom between the levels is an offset, and gone
        assert report.zero_step[f"energy/{name}.energy_mae"] < 2.0
        before = report.zero_step[f"energy/{name}.forces_mae"]
        # a new network learns little in these 30 steps
        if has_base:
            assert report.validation[f"energy/{name}.forces_mae"] < before
    pooled = [report.validation[f"energy/{n}.forces_mae"] for n in "ab"]
    assert report.validation["forces_mae"] == pytest.approx(np.mean(pooled))


def test_several_levels_resume_exactly_from_memory_and_store(tmp_path):
    options = write_options(tmp_path, write_base(tmp_path), ema_decay=0.5)
    check_resume(options, tmp_path, data_store=str(tmp_path / "stores"))


def test_lora_trains_the_heads_of_new_levels_only(tmp_path):
    base = write_base(tmp_path)
    options = write_options(tmp_path, base)
    targets = [
        replace(t, name="energy") if t.name == "energy/a" else t
        for t in options.targets.values()
    ]
    datasets = tuple(
        replace(d, targets=(target,))
        for d, target in zip(options.training_set, targets, strict=True)
    )
    options = replace(
        options,
        training_set=datasets,
        validation_set=(replace(options.validation_set[0], targets=tuple(targets)),),
        finetune=FinetuneOptions(method="lora", read_from=base),
        train=replace(options.train, num_epochs=2),
    )
    report = run_training(options, show_progress=False)
    before = load_checkpoint(base).state
    after = load_checkpoint(report.best_model.replace("best", "last")).state
    for name, value in before.items():
        if name.startswith("node_heads.energy."):
            assert torch.equal(after[name], value)
    factors = [name for name in after if ".lora_B" in name and "heads" in name]
    assert len(factors) == 4
    for name in factors:
        assert name.startswith(("node_heads.energy/b.", "edge_heads.energy/b."))
        assert after[name].abs().max() > 0.0


def test_a_frame_without_one_of_the_labels_counts_for_the_other(tmp_path):
    write_levels(tmp_path)
    frames = ase.io.read(tmp_path / "both.xyz", ":")
    del frames[0].info["e_b"], frames[1].arrays["f_b"]
    frames[2].info["e_a"] = np.nan
    ase.io.write(tmp_path / "both.xyz", frames)
    found = read_dataset(
        read_both(tmp_path), StoreRule(tmp_path, "never"), main_target="energy/a"
    )
    assert [list(frame.labels) for frame in found] == [["energy/a", "energy/b"]] * 9

    def find_missing(target, label):
        return [
            i for i, f in enumerate(found) if getattr(f.labels[target], label) is None
        ]

    assert [find_missing(t, "energy") for t in ("energy/a", "energy/b")] == [[2], [0]]
    assert [find_missing(t, "forces") for t in ("energy/a", "energy/b")] == [[], [1]]


def test_a_level_without_labels_is_named(tmp_path):
    options = write_options(tmp_path, write_base(tmp_path))
    without = replace(options.validation_set[0], targets=(options.targets["energy/a"],))
    options = replace(options, validation_set=(without,))
    with pytest.raises(DataError, match=r"validation set .* for energy/b"):
        run_training(options, show_progress=False)


def test_a_direct_head_of_another_level_than_the_first_is_refused(tmp_path):
    options = write_options(tmp_path, write_base(tmp_path))
    direct = TargetOptions(name="non_conservative_force")
    first, second = options.training_set
    second = replace(second, targets=(*second.targets, direct))
    with pytest.raises(ConfigError, match=r"stands with energy/b, .* go with energy/a"):
        run_training(
            replace(options, training_set=(first, second)), show_progress=False
        )


def test_each_target_has_an_uncertainty_of_its_own(tmp_path):
    options = write_options(tmp_path, num_epochs=1, uncertainty=True)
    report = run_training(options, show_progress=False)
    assert {k: v.n_train for k, v in report.uncertainty.items()} == {
        "energy/a": 9,
        "energy/b": 9,
    }
    best = load_checkpoint(tmp_path / "run" / "best_model.ckpt")
    one, other = build_uncertainties(best).values()
    assert not torch.equal(one.cholesky, other.cholesky)
    assert "energy/b: " in report.to_text()
