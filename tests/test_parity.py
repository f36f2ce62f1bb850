"""Same numbers as metatrain: energies, forces, stress, other outputs."""

from pathlib import Path

import pytest
import torch
from support.peer import build_peer, build_structures, evaluate_peer, load_peer
from support.structures import build_batch

from pet_calc.checkpoint import load_checkpoint
from pet_calc.model.derivatives import predict
from pet_calc.model.edges import compute_edge_vectors

SHARED = Path(__file__).parents[2] / "shared" / "checkpoints"
FILES = sorted(SHARED.glob("*/*.ckpt.gz"))
# float64: the same sums in another order. float32: the same, and metatrain adds the
# composition energies in float32, we in float64.
TOLERANCES = {torch.float64: 1e-10, torch.float32: 1e-5}
# Values are compared relative to the largest one, but in float32 to no less than this
# (eV, eV/A, eV/A^3): shared models of width 1 have forces of 0.004 eV/A that are the
# difference of large numbers, and metatrain's own float32 is 30 % off its float64.
SMALLEST_SCALES = {torch.float64: 0.0, torch.float32: 0.1}
# Of width 1, so that RMSNorm is a sign: metatrain's own float32 forces are 14 % off its
# float64, and another order of the same sums shows 4 orders above the rounding.
ILL_CONDITIONED = {"model-v8_trainer-v9.ckpt.gz": 1e-4}
OLD = {"normalization": "LayerNorm", "activation": "SiLU", "d_node": 8}
ADAPTIVE = {"num_neighbors_adaptive": 6.0}
VARIANTS = {
    "default": {},
    "residual": {"featurizer_type": "residual"},
    "post_norm": {"transformer_type": "PostLN"},
    "post_norm_narrow_node": {"transformer_type": "PostLN", "d_node": 8},
    "layer_norm": {"normalization": "LayerNorm"},
    "silu": {"activation": "SiLU"},
    "narrow_node": {"d_node": 8},
    "cosine": {"cutoff_function": "Cosine"},
    "old": {
        **OLD,
        "transformer_type": "PostLN",
        "featurizer_type": "residual",
        "cutoff_function": "Cosine",
    },
    "temperature": {"attention_temperature": 1.7},
    "three_layers": {"num_gnn_layers": 3, "d_pet": 16},
    "one_layer": {"num_gnn_layers": 1, "num_attention_layers": 1},
    "solver": {**ADAPTIVE, "adaptive_cutoff_method": "solver"},
    "grid": {**ADAPTIVE, "adaptive_cutoff_method": "grid"},
    "grid_residual": {
        **ADAPTIVE,
        "adaptive_cutoff_method": "grid",
        "cutoff_width_adaptive": 0.5,
        "featurizer_type": "residual",
    },
    "conditioned": {"system_conditioning": True},
    "conditioned_residual": {
        "system_conditioning": True,
        "featurizer_type": "residual",
    },
    "zbl": {"zbl": True},
}
SEVERAL = [
    "energy",
    "energy/pbe",
    "non_conservative_force",
    "non_conservative_stress",
    "mtt::charges",
]


def evaluate_ours(model, structures, targets):
    """The same dict as ``evaluate_peer`` gives, in one batch."""
    batch = build_batch(structures, model)
    n_systems = len(structures)
    raw = model(batch, compute_edge_vectors(batch), targets)
    results = {}
    for name in targets:
        if name.startswith("energy"):
            prediction = predict(model, batch, name, with_stress=True)
            results[name] = prediction.energy[:, None]
            results[f"{name} forces"] = prediction.forces
            results[f"{name} stress"] = prediction.stress
            continue
        values = raw[name].to(torch.float64) + model.composition(batch, name)
        if model.targets[name].sample_kind == "system":
            values = values.new_zeros(n_systems, values.shape[1]).index_add(
                0, batch.system_of_atom, values
            )
        results[name] = values
    return {name: value.detach().to(torch.float64) for name, value in results.items()}


def compute_errors(found, expected, scales):
    """Largest difference per quantity, relative to its largest value."""
    return {
        name: float((found[name].reshape(r.shape) - r).abs().max()) / scales[name]
        for name, r in expected.items()
    }


def compare(ours, peer, targets, tolerance):
    """Check every structure alone, and all of them in one batch."""
    structures = list(build_structures().values())
    for k, atoms in enumerate(structures):
        atoms.info.update(charge=k % 3 - 1, spin=1 + k % 2)
    together = evaluate_peer(peer, structures, targets)
    # of all structures: symmetry makes some values vanish, and noise has no scale
    smallest = SMALLEST_SCALES[ours.edge_embedder.weight.dtype]
    scales = {k: max(float(v.abs().max()), smallest) for k, v in together.items()}
    worst = compute_errors(evaluate_ours(ours, structures, targets), together, scales)
    for atoms in structures:
        expected = evaluate_peer(peer, [atoms], targets)
        errors = compute_errors(evaluate_ours(ours, [atoms], targets), expected, scales)
        worst = {name: max(worst[name], error) for name, error in errors.items()}
    assert max(worst.values()) < tolerance, worst
    return worst


@pytest.mark.skipif(not FILES, reason="the shared checkpoints are not here")
@pytest.mark.parametrize("dtype", TOLERANCES, ids=str)
@pytest.mark.parametrize("path", FILES, ids=lambda p: f"{p.parent.name}-{p.name[:-8]}")
def test_shared_checkpoint_gives_the_same_numbers(path, dtype):
    ours = load_checkpoint(path).build_model(dtype=dtype)
    tolerance = TOLERANCES[dtype]
    if dtype == torch.float32:
        tolerance = ILL_CONDITIONED.get(path.name, tolerance)
    compare(ours, load_peer(path, dtype), ["energy"], tolerance)


@pytest.mark.parametrize("dtype", TOLERANCES, ids=str)
@pytest.mark.parametrize("name", VARIANTS)
def test_variant_gives_the_same_numbers(name, dtype, tmp_path):
    peer = build_peer(dtype=dtype, **VARIANTS[name])
    torch.save(peer.get_checkpoint(), tmp_path / "model.ckpt")
    ours = load_checkpoint(tmp_path / "model.ckpt").build_model()
    compare(ours, peer, ["energy"], TOLERANCES[dtype])


@pytest.mark.parametrize("zbl", [False, True])
def test_several_targets_give_the_same_numbers(zbl, tmp_path):
    peer = build_peer(SEVERAL, zbl=zbl)
    torch.save(peer.get_checkpoint(), tmp_path / "model.ckpt")
    ours = load_checkpoint(tmp_path / "model.ckpt").build_model()
    compare(ours, peer, SEVERAL, TOLERANCES[torch.float64])
