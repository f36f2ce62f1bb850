"""metatrain's uncertainty wrapper as the peer that numbers are compared with."""

import gzip

import torch
from metatomic.torch import ModelOutput, System
from metatrain.llpr import LLPRUncertaintyModel
from metatrain.utils.io import model_from_checkpoint
from metatrain.utils.neighbor_lists import (
    get_requested_neighbor_lists,
    get_system_with_neighbor_lists,
)
from support.peer import build_dataset_info, build_peer, build_structures
from support.structures import build_batch
from support.structures import build_structures as own_structures

from pet_calc.evaluate.fit_uncertainty import (
    CovarianceSum,
    FrameFeatures,
    fit_uncertainty,
)
from pet_calc.model.uncertainty import (
    LastLayerUncertainty,
    compute_features,
    sum_over_systems,
)

N_MEMBERS = 5


def load_wrapper(path, dtype=torch.float64):
    """metatrain's own reading of an uncertainty checkpoint."""
    opener = gzip.open if str(path).endswith(".gz") else open
    with opener(path, "rb") as file:
        content = torch.load(file, weights_only=False, map_location="cpu")
    wrapper = model_from_checkpoint(content, "export").to(dtype).eval()
    wrapper.model.additive_models[0].weights_to(torch.device("cpu"), torch.float64)
    return wrapper


def build_wrapper(targets=("energy",), *, seed=0, **hypers):
    """A peer with an uncertainty that was made by metatrain, of random frames."""
    peer = build_peer(list(targets), seed=seed, **hypers)
    members = {name: N_MEMBERS for name in targets}
    wrapper = LLPRUncertaintyModel(
        {"num_ensemble_members": members}, build_dataset_info(list(targets))
    )
    wrapper.set_wrapped_model(peer)
    wrapper = wrapper.to(torch.float64).eval()
    structures = list(build_structures().values())
    features = evaluate_wrapper(
        wrapper, structures, [name_features(name) for name in targets]
    )
    sizes = torch.tensor([len(atoms) for atoms in structures]).unsqueeze(1)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        for k, name in enumerate(targets):
            per_atom = features[name_features(name)] / sizes
            covariance = wrapper._get_covariance(name_of(name, "uncertainty"))
            covariance += per_atom.T @ per_atom
            wrapper._get_multiplier(name_of(name, "uncertainty")).fill_(0.3 + k)
        wrapper.compute_cholesky_decomposition(1e-4)
        wrapper.generate_ensemble()
    return wrapper


def name_features(target):
    return f"mtt::aux::{target}_last_layer_features"


def name_of(target, kind):
    """metatrain's name of a target's ``uncertainty`` or ``ensemble``."""
    return f"energy_{kind}" if target == "energy" else f"mtt::aux::{target}_{kind}"


def evaluate_wrapper(wrapper, structures, names, kind="system"):
    """Values by output of the wrapper, and the ensemble's gradients."""
    dtype = next(wrapper.parameters()).dtype
    systems = []
    for atoms in structures:
        box = torch.tensor(atoms.cell.array * atoms.pbc[:, None], dtype=dtype)
        system = System(
            types=torch.tensor(atoms.numbers, dtype=torch.int32),
            positions=torch.tensor(atoms.positions, dtype=dtype),
            cell=box,
            pbc=torch.tensor(atoms.pbc),
        )
        requests = get_requested_neighbor_lists(wrapper.model)
        systems.append(get_system_with_neighbor_lists(system, requests))
    gradients = ["positions"] if kind == "system" else []
    outputs = {
        name: ModelOutput(
            sample_kind=kind,
            explicit_gradients=gradients if "ensemble" in name else [],
        )
        for name in names
    }
    maps = wrapper(systems, outputs)
    values = {name: maps[name].block().values.detach() for name in names}
    for name in names:
        if "ensemble" in name and gradients:
            block = maps[name].block().gradient("positions")
            values[f"{name} forces"] = -block.values
    return values


def build_fitted(model, target="energy", seed=0):
    """An uncertainty of random frames' features."""
    pool = [*build_structures().values(), *own_structures()]
    known = set(model.atomic_types)
    chosen = [atoms for atoms in pool if set(atoms.numbers.tolist()) <= known][:3]
    batch = build_batch(chosen, model)
    per_atom = compute_features(model, batch, target).double()
    features = sum_over_systems(per_atom, batch)
    covariance = CovarianceSum(features.shape[1])
    covariance.add(features / 10)
    errors = torch.tensor([0.1, -0.2, 0.05], dtype=torch.float64)
    held_out = FrameFeatures(features / 10, errors)
    return fit_uncertainty(covariance, held_out, n_members=N_MEMBERS, seed=seed)[0]


def build_uncertainty(model, target="energy", seed=0):
    """The same, ready to be evaluated."""
    fitted = build_fitted(model, target, seed)
    return LastLayerUncertainty(
        fitted.cholesky, fitted.multiplier, fitted.displacements
    )
