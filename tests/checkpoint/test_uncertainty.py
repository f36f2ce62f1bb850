"""Uncertainty equals metatrain's, from the same tensors."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from support.llpr import (
    N_MEMBERS,
    build_fitted,
    build_wrapper,
    evaluate_wrapper,
    load_wrapper,
    name_of,
)
from support.models import build_model, randomise_lora
from support.peer import build_peer, build_structures, load_peer
from support.structures import build_batch

from pet_calc.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from pet_calc.checkpoint.metatrain_write import save_metatrain_checkpoint
from pet_calc.checkpoint.open import (
    load_merged_checkpoint,
    load_merged_model,
    load_uncertainties,
)
from pet_calc.checkpoint.uncertainty import (
    build_uncertainties,
    choose_uncertainty,
    set_uncertainty,
)
from pet_calc.errors import CheckpointError, ModelError
from pet_calc.lora.inject import inject_lora
from pet_calc.lora.layer import LoRAConfig
from pet_calc.model.derivatives import predict
from pet_calc.model.uncertainty import (
    compute_features,
    compute_force_uncertainty,
    sum_over_systems,
)

SHARED = Path(__file__).parents[3] / "shared" / "checkpoints" / "llpr"
FILES = sorted(SHARED.glob("*.ckpt.gz"))
STRUCTURES = list(build_structures().values())
# numbers of 64 bits, and a factor whose condition is a few thousand
CLOSE = {"rtol": 1e-9, "atol": 1e-12}


def compare_with_metatrain(path, target="energy"):
    record = load_checkpoint(path)
    model = load_merged_model(record, dtype=torch.float64)
    own = build_uncertainties(record)[target]
    batch = build_batch(STRUCTURES, model)
    per_atom = compute_features(model, batch, target)
    total = sum_over_systems(per_atom, batch)
    wrapper = load_wrapper(path)
    name, ensemble = name_of(target, "uncertainty"), name_of(target, "ensemble")
    names = [name, ensemble, target]
    theirs = evaluate_wrapper(wrapper, STRUCTURES, names)
    of_atoms = evaluate_wrapper(wrapper, STRUCTURES, [name], "atom")
    torch.testing.assert_close(own(total), theirs[name][:, 0], **CLOSE)
    torch.testing.assert_close(own(per_atom), of_atoms[name][:, 0], **CLOSE)
    prediction = predict(model, batch, target)
    members = prediction.energy.unsqueeze(1) + own.deviate(total)
    torch.testing.assert_close(members, theirs[ensemble], **CLOSE)
    found = compute_force_uncertainty(model, batch, target, own)
    expected = theirs[f"{ensemble} forces"].std(dim=2)
    torch.testing.assert_close(found, expected, **CLOSE)
    assert (expected > 0).any()
    assert (own(per_atom) > 0).all()


@pytest.mark.skipif(not FILES, reason="the shared checkpoints are not here")
@pytest.mark.parametrize("path", FILES, ids=lambda p: p.name[:-8])
def test_uncertainties_of_the_shared_checkpoints_are_metatrain_s(path):
    compare_with_metatrain(path)


@pytest.mark.parametrize("target", ["energy", "energy/pbe"])
@pytest.mark.parametrize("featurizer", ["feedforward", "residual"])
def test_uncertainties_that_metatrain_has_made_are_the_same_here(
    tmp_path, featurizer, target
):
    targets = ["energy", "energy/pbe"]
    wrapper = build_wrapper(targets, featurizer_type=featurizer)
    path = tmp_path / "wrapped.ckpt"
    torch.save(wrapper.get_checkpoint(), path)
    compare_with_metatrain(path, target)
    record = load_checkpoint(path)
    own = build_uncertainties(record)
    assert list(own) == targets
    assert own[target].n_members == N_MEMBERS
    # our own format keeps them to the bit
    save_checkpoint(path, record)
    again = build_uncertainties(load_checkpoint(path))[target]
    for name, value in own[target].state_dict().items():
        assert torch.equal(again.state_dict()[name], value)


def test_a_target_that_metatrain_has_not_fitted_has_no_uncertainty(tmp_path):
    wrapper = build_wrapper(["energy"])
    wrapper._get_covariance("energy_uncertainty").zero_()
    path = tmp_path / "wrapped.ckpt"
    torch.save(wrapper.get_checkpoint(), path)
    own = build_uncertainties(load_checkpoint(path))
    assert own == {}
    with pytest.raises(ModelError, match="pet-calc uncertainty MODEL"):
        choose_uncertainty(own, "energy")


def test_tensors_of_another_size_are_refused(tmp_path):
    path = tmp_path / "wrapped.ckpt"
    torch.save(build_wrapper(["energy"]).get_checkpoint(), path)
    record = load_checkpoint(path)
    other = Checkpoint.from_model(build_model(d_head=4), extras=record.extras)
    with pytest.raises(CheckpointError, match="does not fit its 8 last-layer"):
        build_uncertainties(other)


def test_energies_in_another_unit_are_brought_to_ev(tmp_path):
    path = tmp_path / "wrapped.ckpt"
    torch.save(build_wrapper(["energy"]).get_checkpoint(), path)
    record = load_checkpoint(path)
    in_ev = build_uncertainties(record)["energy"]
    record.targets["energy"] = replace(record.targets["energy"], unit="Hartree")
    hartree = build_uncertainties(record)["energy"]
    for name in ("multiplier", "members"):
        ratio = getattr(hartree, name) / getattr(in_ev, name)
        torch.testing.assert_close(
            ratio, torch.full_like(ratio, 27.21138625), rtol=1e-7, atol=0
        )


@pytest.mark.parametrize("target", ["energy", "energy/pbe"])
@pytest.mark.parametrize("has_lora", [False, True])
def test_metatrain_opens_what_was_made_here_and_gives_the_same_numbers(
    tmp_path, target, has_lora
):
    path = tmp_path / "model.ckpt"
    torch.save(build_peer(["energy", "energy/pbe"]).get_checkpoint(), path)
    model = load_checkpoint(path).build_model()
    if has_lora:
        inject_lora(model, LoRAConfig(rank=1, alpha=4.0, targets=("last_layers",)))
        randomise_lora(model)
    record = Checkpoint.from_model(model)
    merged = load_merged_model(record)
    for seed, name in enumerate(record.targets):
        set_uncertainty(record, merged, name, build_fitted(merged, name, seed))
    save_metatrain_checkpoint(path, record)
    compare_with_metatrain(path, target)
    # and from the record itself, without a way through metatrain
    theirs = build_uncertainties(load_checkpoint(path))[target]
    own = build_uncertainties(record)[target]
    for name, value in own.state_dict().items():
        torch.testing.assert_close(theirs.state_dict()[name], value, **CLOSE)


def test_metatrain_fine_tunes_what_was_made_here(tmp_path):
    path = tmp_path / "model.ckpt"
    record = Checkpoint.from_model(build_model())
    model = load_merged_model(record)
    set_uncertainty(record, model, "energy", build_fitted(model))
    save_metatrain_checkpoint(path, record)
    load_peer(path, torch.float64, "finetune")


def test_a_model_in_another_unit_keeps_it_and_gives_ev():
    """As the file of a model in Hartree, which is converted when it is opened."""
    record = Checkpoint.from_model(build_model())
    record.targets["energy"] = replace(record.targets["energy"], unit="Hartree")
    model = load_merged_model(record)
    fitted = build_fitted(model)
    set_uncertainty(record, model, "energy", fitted)
    assert build_uncertainties(record)["energy"].multiplier == pytest.approx(
        fitted.multiplier
    )
    in_hartree = build_uncertainties(record, in_ev=False)["energy"].multiplier
    assert float(in_hartree) == pytest.approx(fitted.multiplier / 27.21138625)
    merged = load_merged_checkpoint(record)
    assert merged.targets["energy"].unit == "eV"
    again = build_uncertainties(merged)["energy"]
    assert float(again.multiplier) == pytest.approx(fitted.multiplier)
    spread = fitted.displacements - fitted.displacements.mean(dim=0)
    torch.testing.assert_close(again.members, spread, rtol=1e-9, atol=1e-9)


def test_an_adapter_leaves_no_uncertainty_of_the_base():
    record = Checkpoint.from_model(build_model())
    model = load_merged_model(record)
    set_uncertainty(record, model, "energy", build_fitted(model))
    assert list(load_uncertainties(record)) == ["energy"]
    assert load_uncertainties(record, adapter="any.safetensors") == {}
