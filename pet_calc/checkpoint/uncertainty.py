"""The uncertainty that a checkpoint carries: tensors to modules and back.

The tensors lie in ``Checkpoint.extras["llpr"]``, named as version 4 of metatrain's
wrapper names them, in the unit of the model's energies.
"""

from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor

from pet_calc.checkpoint.llpr import LATEST_VERSION
from pet_calc.checkpoint.record import Checkpoint
from pet_calc.checkpoint.to_ev import is_angstrom
from pet_calc.errors import CheckpointError, ModelError
from pet_calc.model.hypers import TargetSpec
from pet_calc.model.pet import PET
from pet_calc.model.uncertainty import LastLayerUncertainty
from pet_calc.units import energy_factor

LLPR = "llpr"
HOW_TO_MAKE = (
    "`pet-calc uncertainty MODEL TRAIN.xyz --val VAL.xyz -o NEW` makes one, and "
    "`pet-calc finetune --uncertainty` at the end of a training"
)


@dataclass(frozen=True)
class FittedUncertainty:
    """What a checkpoint keeps of a target's uncertainty; energies in eV."""

    covariance: Tensor
    """[n_features, n_features], of features per atom, without ridge."""
    cholesky: Tensor
    """[n_features, n_features], lower factor of the covariance with the ridge."""
    multiplier: float
    """The calibrated scale, eV."""
    displacements: Tensor
    """[n_members, n_features], what is added to the last layer, eV."""


def build_uncertainties(
    record: Checkpoint, *, in_ev: bool = True
) -> dict[str, LastLayerUncertainty]:
    """Return the uncertainty of each energy that has one, on the CPU.

    Args:
        record: as read from a file.
        in_ev: bring them to eV as ``load_merged_model`` does with the model; else they
            are in the unit of the target.

    Raises:
        CheckpointError: if the tensors do not fit the model.
    """
    state = _get_state(record)
    found = {}
    for name in list_fitted(record):
        output = name_uncertainty(name)
        cholesky = state[f"cholesky_{output}"]
        n_features = count_features(record)
        members = state.get(f"llpr_ensemble_layers.{name}.weight")
        if members is None:
            members = torch.zeros((0, n_features))
        multiplier = state.get(f"multiplier_{output}", torch.ones(1))
        shapes = tuple(cholesky.shape), members.shape[1], multiplier.numel()
        if shapes != ((n_features, n_features), n_features, 1):
            raise CheckpointError(
                f"{record.source or 'the model'}: the uncertainty of {name} does not "
                f"fit its {n_features} last-layer features: the factor is "
                f"{tuple(cholesky.shape)}, the ensemble {tuple(members.shape)}"
            )
        factor = _find_factor(record, record.targets[name]) if in_ev else 1.0
        found[name] = LastLayerUncertainty(
            cholesky, factor * float(multiplier), factor * members.to(torch.float64)
        )
    return found


def list_fitted(record: Checkpoint) -> list[str]:
    """Return the names of the energies that have an uncertainty."""
    state = _get_state(record)
    return [
        name
        for name, spec in record.targets.items()
        if spec.is_energy and _is_fitted(state, name_uncertainty(name))
    ]


def set_uncertainty(
    record: Checkpoint, model: PET, target: str, fitted: FittedUncertainty
) -> None:
    """Put a target's uncertainty into a checkpoint, in place of one that it has.

    Args:
        record: the checkpoint, whose energies may be in another unit than eV.
        model: built from it, LoRA merged, in eV.
        target: its name.
        fitted: the uncertainty, in eV.
    """
    saved: dict[str, Any] = record.extras.get(LLPR) or {}
    state = dict(saved.get("state") or {})
    members = dict(saved.get("num_ensemble_members") or {})
    output = name_uncertainty(target)
    factor = _find_factor(record, record.targets[target])
    displacements = fitted.displacements / factor
    # the last layer itself cancels when the ensemble is centred; metatrain has it there
    weights = get_last_layer(model, target).to(displacements)
    state[f"covariance_{output}"] = fitted.covariance
    state[f"cholesky_{output}"] = fitted.cholesky
    state[f"multiplier_{output}"] = torch.tensor(
        [fitted.multiplier / factor], dtype=torch.float64
    )
    state[f"llpr_ensemble_layers.{target}.weight"] = weights + displacements
    members[target] = len(displacements)
    record.extras[LLPR] = {
        "version": LATEST_VERSION,
        "state": state,
        "num_ensemble_members": members,
    }


def convert_wrapper_to_ev(extras: dict[str, Any], record: Checkpoint) -> dict[str, Any]:
    """Return the extras of a record for the same model in eV.

    Args:
        extras: of the record, left as they are.
        record: in whatever unit.
    """
    factors = {
        name: _find_factor(record, spec)
        for name, spec in record.targets.items()
        if spec.is_energy
    }
    saved: dict[str, Any] = extras.get(LLPR) or {}
    state = dict(saved.get("state") or {})
    for target, factor in factors.items():
        for name in (
            f"multiplier_{name_uncertainty(target)}",
            f"llpr_ensemble_layers.{target}.weight",
        ):
            if name in state and factor != 1.0:
                state[name] = factor * state[name]
    return {**extras, LLPR: {**saved, "state": state}} if saved else dict(extras)


def choose_uncertainty(
    uncertainties: dict[str, LastLayerUncertainty], target: str, source: str = ""
) -> LastLayerUncertainty:
    """Return that of a target.

    Raises:
        ModelError: if there is none, saying which command makes it.
    """
    if target not in uncertainties:
        raise ModelError(describe_missing(source or "the model", target))
    return uncertainties[target]


def describe_missing(source: str, target: str) -> str:
    """Return that a model has no uncertainty, and which command makes it."""
    return f"{source} carries no uncertainty of {target}; {HOW_TO_MAKE}"


def name_uncertainty(target: str) -> str:
    """Return metatrain's name of a target's uncertainty, in its tensors' names."""
    if target == "energy":
        return "energy_uncertainty"
    return f"mtt::aux::{target.removeprefix('mtt::')}_uncertainty"


def count_features(record: Checkpoint) -> int:
    """Return the number of last-layer features of a model's targets."""
    return record.hypers.num_last_layer_features


def get_last_layer(model: PET, target: str) -> Tensor:
    """Return the weights of a target of one value in the order of the features.

    They are [1, n_features]; LoRA must be merged.
    """
    pairs = zip(
        cast(Any, model.node_last_layers[target]),
        cast(Any, model.edge_last_layers[target]),
        strict=True,
    )
    linears = [linear for pair in pairs for part in pair for linear in part.values()]
    return torch.cat([linear.weight.detach().cpu() for linear in linears], dim=1)


def _get_state(record: Checkpoint) -> dict[str, Tensor]:
    saved = record.extras.get(LLPR) or {}
    state: dict[str, Tensor] = saved.get("state") or {}
    return state


def _is_fitted(state: dict[str, Tensor], output: str) -> bool:
    cholesky = state.get(f"cholesky_{output}")
    if cholesky is None:
        return False
    covariance = state.get(f"covariance_{output}")
    # metatrain keeps zeros for what was never fitted
    diagonal = cholesky.diagonal()
    has_data = covariance is None or bool(covariance.any())
    return has_data and bool((diagonal > 0).all())


def _find_factor(record: Checkpoint, spec: TargetSpec) -> float:
    """Return what brings the target's energies to eV, as in ``to_ev``."""
    if not is_angstrom(record.length_unit):
        return 1.0
    return energy_factor(spec.unit or "eV")
