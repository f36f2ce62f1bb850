"""Direct heads with labels of their own, as metatrain's options describe them."""

import logging
import shutil

import ase.io
import numpy as np
import pytest
import torch
import yaml
from metatomic_ase import MetatomicCalculator
from support.frames import build_frames, write_frames
from support.runs import check_resume, stand_as_in_file, write_base

from pet_calc.calculator import PETCalculator
from pet_calc.checkpoint import load_checkpoint
from pet_calc.checkpoint.metatrain_write import save_metatrain_checkpoint
from pet_calc.checkpoint.open import load_merged_checkpoint
from pet_calc.config import parse_options, replace
from pet_calc.config.replay import ReplayOptions
from pet_calc.data.dataset import SystemDataset
from pet_calc.data.frames import LabeledFrame, read_frames
from pet_calc.data.labels import LabelKeys
from pet_calc.data.loader import BatchLoader
from pet_calc.errors import ConfigError, DataError
from pet_calc.export import export_model
from pet_calc.lora.freeze import HEAD_GROUPS
from pet_calc.model.hypers import TargetSpec
from pet_calc.train.direct import DirectObjective, label_direct, predict_direct
from pet_calc.train.run import run_training
from pet_calc.train.start.direct_heads import DirectHeads
from pet_calc.train.step_runner import compute_volumes
from pet_calc.train.steps import StepPredictor

FORCES, STRESS = "non_conservative_force", "non_conservative_stress"
BASE = [
    TargetSpec.for_energy(),
    TargetSpec.for_forces(FORCES),
    TargetSpec.for_stress(),
]
HEADS = DirectHeads(FORCES, STRESS, own_labels=(FORCES, STRESS))

TARGETS = """
energy:
  quantity: energy
  key: energy
  unit: eV
non_conservative_force:
  quantity: force
  read_from: {file}
  key: f_direct
  unit: eV/A
  per_atom: true
  num_subtargets: 1
  type:
    cartesian:
      rank: 1
non_conservative_stress:
  quantity: pressure
  key: s_direct
  unit: GPa
  sample_kind: system
  type:
    cartesian:
      rank: 2
"""
GPA = ase.units.GPa


def write_data(folder, name, n_frames=12, seed=0):
    """Direct labels that are no derivatives of the energy; each frame lacks some."""
    frames = build_frames(n_frames, seed)
    for i, atoms in enumerate(frames):
        if i != 1:
            atoms.arrays["f_direct"] = 2.0 * atoms.get_forces() + 0.1
        if atoms.pbc.all() and i != 3:
            atoms.info["s_direct"] = -3.0 * atoms.get_stress(voigt=False) / GPA
    ase.io.write(folder / name, frames)
    return str(folder / name)


def build_options(folder, base, *, targets=TARGETS, finetune=None, **training):
    data = write_data(folder, "train.xyz")
    systems = {"read_from": data, "length_unit": "angstrom"}
    targets = yaml.safe_load(targets.replace("{file}", data))
    validation = {"systems": write_data(folder, "val.xyz", 6, 1)}
    training = {
        "num_epochs": 16,
        "batch_size": 3,
        "learning_rate": 0.03,
        "per_structure_targets": [STRESS],
        **training,
    }
    if base is not None:
        training["finetune"] = {"method": "full", "read_from": base, **(finetune or {})}
    values = {
        "architecture": {"training": training},
        "device": "cpu",
        "base_precision": 64,
        "output": str(folder / "run"),
        "training_set": {"systems": systems, "targets": targets},
        "validation_set": {
            **validation,
            "targets": {
                n: {k: v for k, v in t.items() if k != "read_from"}
                for n, t in targets.items()
            },
        },
    }
    return parse_options(values)


def run(options, **kwargs):
    return run_training(options, show_progress=False, **kwargs)


def read(path):
    keys = LabelKeys(direct_forces="f_direct", direct_stress="s_direct")
    frames = read_frames(path, keys=keys)
    for frame in frames:
        if frame.direct_stress is not None:
            frame.direct_stress = frame.direct_stress * GPA
    return frames


def measure(model, frames, heads=HEADS):
    """Mean absolute errors of the direct heads, from one frame after the other."""
    errors = {"forces": [], "stress": []}
    for frame in frames:
        (batch, _), *_ = BatchLoader(
            SystemDataset([frame], model.pair_cutoff), 1, dtype=torch.float64
        )
        prediction = predict_direct(model, batch, heads)
        if frame.direct_forces is not None:
            found = prediction.forces.detach().numpy()
            errors["forces"].append(abs(found - frame.direct_forces).ravel())
        if frame.direct_stress is not None:
            found = prediction.stress[0].detach().numpy()
            errors["stress"].append(abs(found - frame.direct_stress).ravel())
    return {name: np.concatenate(parts).mean() for name, parts in errors.items()}


def split_state(checkpoint, heads):
    state = load_checkpoint(checkpoint).state
    parts = {name: name.split(".") for name in state}
    return {
        name: value
        for name, value in state.items()
        if parts[name][0] in HEAD_GROUPS and parts[name][1] in heads
    }


@pytest.mark.parametrize("method", ["full", "heads"])
def test_each_head_learns_from_its_own_labels(tmp_path, method, caplog, monkeypatch):
    stand_as_in_file(monkeypatch)
    base = write_base(tmp_path, targets=BASE)
    with caplog.at_level(logging.INFO, "pet_calc"):
        report = run(build_options(tmp_path, base, finetune={"method": method}))
    assert "direct_forces 11 of 12, from arrays['f_direct']" in caplog.text
    assert "direct_stress 3 of 12, from info['s_direct']" in caplog.text
    model = load_checkpoint(report.best_model).build_model()
    assert list(model.targets) == ["energy", FORCES, STRESS]
    found = measure(model, read(tmp_path / "val.xyz"))
    for name, value in found.items():
        # the log's errors are those of the head against its own labels
        assert report.validation[f"direct_{name}_mae"] == pytest.approx(value)
        assert value < 0.97 * report.zero_step[f"direct_{name}_mae"], name


def test_direct_heads_alone_from_scratch_export_and_convert(tmp_path):
    """Energies without gradients, and direct heads: metatrain's quickest training."""
    targets = TARGETS.replace("unit: eV\n", "unit: eV\n  forces: off\n", 1)
    options = build_options(tmp_path, None, targets=targets)
    hypers = load_checkpoint(write_base(tmp_path)).hypers
    report = run(replace(options, hypers=hypers))
    assert "forces_mae" not in report.validation
    for name in ("direct_forces_mae", "direct_stress_mae"):
        assert report.validation[name] < report.zero_step[name]
    record = load_checkpoint(report.best_model)
    model = record.build_model()
    labels = [f.direct_forces for f in read(tmp_path / "train.xyz")]
    size = np.sqrt(
        np.mean(np.concatenate([v.ravel() for v in labels if v is not None]) ** 2)
    )
    assert model.baseline.tables[FORCES].scale[0].item() == pytest.approx(size)
    # the heads are a file's like any other's
    atoms = build_frames(1)[0]
    options = {"non_conservative": True, "dtype": "float64"}
    expected = PETCalculator(report.best_model, **options)
    export_model(model, tmp_path / "model.pt")
    save_metatrain_checkpoint(
        tmp_path / "theirs.ckpt", load_merged_checkpoint(report.best_model)
    )
    for calculator in (
        PETCalculator(tmp_path / "theirs.ckpt", **options),
        MetatomicCalculator(tmp_path / "model.pt", non_conservative=True),
    ):
        for quantity in ("forces", "stress"):
            np.testing.assert_allclose(
                calculator.get_property(quantity, atoms.copy()),
                expected.get_property(quantity, atoms.copy()),
                atol=1e-9,
            )


def test_lora_trains_heads_that_the_base_lacks(tmp_path, caplog):
    base = write_base(tmp_path)
    with caplog.at_level(logging.INFO, "pet_calc"):
        report = run(
            build_options(
                tmp_path,
                base,
                finetune={"method": "lora", "config": {"rank": 2}},
                learning_rate=0.003,
            )
        )
    assert f"new target {FORCES} starts from random weights" in caplog.text
    assert (
        report.validation["direct_forces_mae"] < report.zero_step["direct_forces_mae"]
    )
    before, after = (split_state(p, ["energy"]) for p in (base, report.best_model))
    for name, value in before.items():
        assert torch.equal(value, after[name])
    atoms = build_frames(1)[0]
    forces = [
        PETCalculator(
            *args, non_conservative=True, dtype="float64", **kwargs
        ).get_forces(atoms.copy())
        for args, kwargs in (
            ((report.best_model,), {}),
            ((base,), {"adapter": tmp_path / "run" / "adapter.safetensors"}),
        )
    ]
    np.testing.assert_allclose(*forces, atol=1e-10)


def test_a_variant_starts_from_the_heads_of_the_base(tmp_path):
    base = write_base(tmp_path, targets=BASE[:2])
    targets = TARGETS[: TARGETS.index("non_conservative_stress")]
    # the old spelling, and a level of its own
    targets = targets.replace("energy:", "energy/pbe:", 1).replace(
        "non_conservative_force:", "non_conservative_forces/pbe:"
    )
    report = run(build_options(tmp_path, base, targets=targets, learning_rate=1e-12))
    old, new = split_state(base, [FORCES]), load_checkpoint(report.best_model)
    assert list(new.targets) == ["energy/pbe", "non_conservative_forces/pbe"]
    for name, value in old.items():
        found = new.state[name.replace(FORCES, "non_conservative_forces/pbe")]
        torch.testing.assert_close(found, value, rtol=0, atol=1e-9)


def test_a_run_is_resumed_exactly_from_memory_and_store(tmp_path):
    base = write_base(tmp_path, targets=BASE)
    check_resume(
        build_options(tmp_path, base, num_epochs=4),
        tmp_path,
        data_store=str(tmp_path / "store"),
    )


def test_a_set_with_direct_labels_only_adds_to_one_with_energies(tmp_path):
    base = write_base(tmp_path, targets=BASE)
    options = build_options(tmp_path, base, num_epochs=2)
    energies, direct = (
        replace(options.training_set[0], targets=targets)
        for targets in (
            options.training_set[0].energy_targets,
            options.training_set[0].direct_targets,
        )
    )
    # of a file of their own: of the same one they are labels of the same frames
    direct = replace(
        direct, read_from=(str(shutil.copy(direct.read_from[0], tmp_path / "own.xyz")),)
    )
    apart = replace(options, training_set=(direct, energies))
    report = run(apart)
    assert report.target == "non_conservative_force, non_conservative_stress, energy"
    assert report.n_steps == 2 * 8
    assert report.validation["direct_forces_mae"] < 1e3


def compute_share(objective, model, part, step):
    volumes = compute_volumes(part.batch)
    heads = objective.direct
    outputs = StepPredictor().predict(model, part.batch, [], heads, is_training=True)
    arguments = (outputs, model, part, volumes, step.totals)
    return objective.compute(*arguments).share.detach()


def test_frames_without_a_label_do_not_count(tmp_path):
    """A step's loss is the mean over what is labelled, however it is cut."""
    base = write_base(tmp_path, targets=BASE)
    model = load_checkpoint(base).build_model(dtype=torch.float64)
    options = build_options(tmp_path, base)
    task = DirectObjective(HEADS, options.train.loss_of("energy"), target="")
    frames = read(tmp_path / "train.xyz")
    for frame in frames:
        # what the heads must not look at
        frame.forces = None if frame.forces is None else 1e6 * frame.forces
    dataset = SystemDataset(frames, model.pair_cutoff)
    shares = []
    for most in (None, 1):
        loader = BatchLoader(dataset, 12, dtype=torch.float64, most_tokens=most)
        (step,) = loader.iterate_steps()
        shares.append(
            sum(compute_share(task, model, p, step).item() for p in step.parts)
        )
    assert shares[0] == pytest.approx(shares[1], rel=1e-12)
    labelled = [f for f in frames if f.direct_forces is not None]
    squares = []
    for frame in labelled:
        (batch, _), *_ = BatchLoader(
            SystemDataset([frame], model.pair_cutoff), 1, dtype=torch.float64
        )
        found = predict_direct(model, batch, HEADS).forces.detach().numpy()
        squares.append(((found - frame.direct_forces) ** 2).mean(axis=1))
    no_stress = replace(task.loss, stress=replace(task.loss.stress, weight=0.0))
    forces_only = DirectObjective(HEADS, no_stress, target="")
    (step,) = BatchLoader(dataset, 12, dtype=torch.float64).iterate_steps()
    (part,) = step.parts
    share = compute_share(forces_only, model, part, step).item()
    assert share == pytest.approx(np.concatenate(squares).mean(), rel=1e-12)


def test_replayed_labels_of_the_base_are_what_its_direct_heads_say(tmp_path):
    base = write_base(tmp_path, targets=BASE)
    model = load_checkpoint(base).build_model(dtype=torch.float64)
    frames = [LabeledFrame.from_atoms(atoms) for atoms in build_frames(6)]
    label_direct(model, HEADS, frames)
    found = measure(model, frames)
    # nothing to learn: batched and one by one differ in rounding only
    assert max(found.values()) < 1e-12
    frames = [LabeledFrame.from_atoms(atoms) for atoms in build_frames(6)]
    label_direct(model, DirectHeads(), frames)
    for frame in frames:
        assert frame.direct_forces is frame.forces
        assert frame.direct_stress is frame.stress


def test_replay_keeps_the_direct_heads_in_place(tmp_path):
    """On labels of the base alone they stay; without replay they leave."""
    base = write_base(tmp_path, targets=BASE)
    old = write_frames(tmp_path, n_frames=6, seed=7, name="old.xyz")
    model = load_checkpoint(base).build_model(dtype=torch.float64)
    frames = read_frames(old)
    label_direct(model, HEADS, frames)
    changes = []
    for weight in (1e-9, 30.0):
        options = build_options(tmp_path, base, num_epochs=6)
        energy = (options.energy_targets["energy"],)
        replayed = replace(options.training_set[0], read_from=(old,), targets=energy)
        folder = tmp_path / f"weight {weight}"
        replay = ReplayOptions(labels="base", weight=weight)
        run(
            replace(
                options,
                # its own labels are those of the base as the frames stand
                train=replace(options.train, replay=replay, augmentation="none"),
                replay_set=(replayed,),
                output=str(folder),
            )
        )
        last = load_checkpoint(folder / "last_model.ckpt").build_model()
        changes.append(measure(last, frames)["forces"])
    assert changes[1] < 0.7 * changes[0]


ENERGY = "energy: {key: energy}\n"
HEAD = ENERGY + "non_conservative_force: {key: f_direct}"
TWO = ENERGY + "non_conservative_force: {key: a}\nnon_conservative_forces: {key: b}"
FROZEN = {"method": "lora", "head_mode": "freeze"}


@pytest.mark.parametrize(
    ("targets", "finetune", "message"),
    [
        (HEAD.removeprefix(ENERGY), {}, "expected an energy beside"),
        (HEAD.replace("f_direct", "f"), {}, "'f', the key for direct forces"),
        (HEAD.replace("_force", "_stress/pbe"), {}, "stress/pbe is not supported"),
        (HEAD.replace("_force", "_force/pbe"), {}, "of energy, the first"),
        (HEAD.replace("key: f_direct", "type: scalar"), {}, "type: expected"),
        (HEAD.replace("key: f_direct", "forces: on"), {}, "forces: belongs to an"),
        (TWO, {}, "one direct force, got"),
        (HEAD, {"direct_heads": "drop"}, "expected train, got drop"),
        (HEAD, FROZEN, "random weights; write train"),
    ],
)
def test_what_cannot_be_trained_is_named(tmp_path, targets, finetune, message):
    base = write_base(tmp_path)
    with pytest.raises((ConfigError, DataError), match=message):
        run(build_options(tmp_path, base, targets=targets, finetune=finetune))
