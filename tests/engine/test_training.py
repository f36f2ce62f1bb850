"""Training steps of the compiled engine against PyTorch's double backward."""

import ase.build
import pytest
import torch
from ase import Atoms
from engine.test_from_model import VARIANTS
from support.models import build_model
from support.structures import build_batch, build_structures

from pet_calc.engine.supported import find_obstacle
from pet_calc.engine.training import TrainingEngine
from pet_calc.lora import LoRAConfig, inject_lora
from pet_calc.lora.freeze import freeze_for_heads, freeze_for_lora
from pet_calc.model.derivatives import predict
from pet_calc.model.fold import gather_weights

# sums in another order: of the largest value
TOLERANCES = {torch.float64: 1e-11, torch.float32: 1e-4}


def compute_loss(result):
    """A loss with a gradient of its own in every energy, force and stress."""
    weights = [
        torch.linspace(0.5, 1.5, part.numel(), dtype=part.dtype).view_as(part)
        for part in (result.energy, result.forces, result.stress)
    ]
    parts = (result.energy, result.forces, result.stress)
    return sum(
        (weight * part).pow(2).sum().double() + (weight * part).sum().double()
        for weight, part in zip(weights, parts, strict=True)
    )


def differentiate(model, result):
    parameters = {n: p for n, p in model.named_parameters() if p.requires_grad}
    found = torch.autograd.grad(
        compute_loss(result), list(parameters.values()), allow_unused=True
    )
    return {
        name: torch.zeros_like(parameters[name]) if value is None else value
        for name, value in zip(parameters, found, strict=True)
    }


def compare(model, batch, engine=None):
    assert find_obstacle(model, "energy") is None
    expected = predict(
        model,
        batch,
        with_stress=True,
        with_composition=False,
        is_training=True,
    )
    engine = engine or TrainingEngine()
    result = engine.predict(model, batch, "energy", with_stress=True)
    tolerance = TOLERANCES[model.edge_embedder.weight.dtype]
    for name in ("energy", "atomic_energies", "forces", "stress"):
        value, other = getattr(result, name), getattr(expected, name)
        assert value.dtype == other.dtype
        scale = float(other.detach().abs().max())
        assert float((value - other).detach().abs().max()) <= tolerance * scale, name
    gradients, others = differentiate(model, result), differentiate(model, expected)
    assert gradients.keys() == others.keys()
    for name, other in others.items():
        error = float((gradients[name] - other).abs().max())
        assert error <= tolerance * float(other.abs().max()), name
    # else a gradient that is zero everywhere would do
    assert sum(float(value.abs().sum()) for value in gradients.values()) > 0
    return gradients


@pytest.mark.parametrize("dtype", TOLERANCES, ids=str)
@pytest.mark.parametrize("name", VARIANTS)
def test_gradients_of_every_variant_equal_those_of_pytorch(name, dtype):
    model = build_model(dtype=dtype, **VARIANTS[name])
    compare(model, build_batch(build_structures(), model, skin=0.5))


def build_lora(targets, head_mode="freeze", rank=2, **options):
    model = build_model(**options)
    inject_lora(model, LoRAConfig(rank=rank, targets=targets))
    # some draws make float64's rounding larger than the tolerance
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_" in name:
                parameter.normal_(std=0.3, generator=generator)
    freeze_for_lora(model, head_mode=head_mode)
    return model


@pytest.mark.parametrize("n_atoms", [1, 2, 30])
def test_atoms_without_neighbours_and_blocks_of_any_length(n_atoms):
    model = build_model(cutoff=3.0)
    line = Atoms(
        f"O{n_atoms}", [[0.07 * k * k, 0.3 * (k % 2), 0] for k in range(n_atoms)]
    )
    compare(model, build_batch([line], model))


@pytest.mark.parametrize(
    ("targets", "head_mode"),
    [
        (("input_linear",), "freeze"),
        (("output_linear",), "train"),
        (("mlp",), "train"),
        (("compress",), "freeze"),
        (("center_contraction",), "freeze"),
        (("gnn_layers", "combination_mlps", "heads"), "lora"),
    ],
)
def test_gradients_reach_unmerged_lora(targets, head_mode):
    model = build_lora(targets, head_mode)
    gradients = compare(model, build_batch(build_structures(), model))
    if head_mode != "train":
        assert all("lora_" in name for name in gradients)
    assert all(float(value.abs().max()) > 0 for value in gradients.values())


def choose_sizes(d_pet):
    return {"d_pet": d_pet, "d_node": 64, "d_feedforward": 64, "num_heads": d_pet // 4}


@pytest.mark.parametrize("dtype", TOLERANCES, ids=str)
@pytest.mark.parametrize("rank", [1, 7])
@pytest.mark.parametrize("d_pet", [20, 64])
def test_gradients_go_by_the_factors_of_lora(d_pet, rank, dtype):
    targets = ("input_linear", "output_linear", "mlp", "compress")
    model = build_lora(targets, rank=rank, dtype=dtype, **choose_sizes(d_pet))
    with torch.no_grad():  # as they are, networks of this width exceed float32
        for parameter in model.parameters():
            parameter.mul_(0.3)
    by_factors = gather_weights(model, with_factors=True)
    layer = "gnn_layers.0.trans.layers.0.attention.input_linear"
    assert (f"{layer}.lora_A" in by_factors) == (d_pet == 64 or rank == 1)
    compare(model, build_large_batch(model))


def test_activations_far_from_zero_do_not_cost_float32_its_digits():
    targets = ("input_linear", "output_linear", "mlp", "compress")
    models = {
        # activations up to 1e6, where a slope of the sigmoid must be nothing but 0
        dtype: build_lora(targets, rank=1, dtype=dtype, **choose_sizes(64))
        for dtype in TOLERANCES
    }
    model = models[torch.float32]
    models[torch.float64].load_state_dict(model.state_dict())
    options = {"with_stress": True, "with_composition": False, "is_training": True}
    exact, rounded = (
        differentiate(other, predict(other, build_large_batch(other), **options))
        for other in (models[torch.float64], model)
    )
    batch = build_large_batch(model)
    result = TrainingEngine().predict(model, batch, "energy", with_stress=True)
    found = differentiate(model, result)
    for name, value in exact.items():
        scale = float(value.abs().max())
        unavoidable = float((rounded[name] - value).abs().max()) / scale
        error = float((found[name] - value).abs().max()) / scale
        assert unavoidable < 1e-2
        # another order of sums; with slopes of 6e-8 the largest error was 3.7
        assert error < 10 * unavoidable + 1e-4, name


@pytest.mark.parametrize("dtype", TOLERANCES, ids=str)
def test_matrices_are_laid_out_where_there_are_many_rows(dtype):
    model = build_model(dtype=dtype)
    compare(model, build_large_batch(model))


def build_large_batch(model):
    bulk = ase.build.bulk("Si", "diamond", 5.4, cubic=True).repeat(2)
    bulk.rattle(0.1, seed=1)
    batch = build_batch([bulk], model)
    assert len(batch.centers) > 512  # ENOUGH_ROWS of weights.h
    return batch


def test_what_is_kept_of_frozen_weights_follows_their_changes():
    model = build_lora(("input_linear",))
    engine = TrainingEngine()
    batch = build_large_batch(model)
    compare(model, batch, engine)
    needed = engine.count_bytes()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_" in name:
                parameter.add_(0.1)
    compare(model, batch, engine)
    assert engine.count_bytes() == needed
    layer = model.gnn_layers[0].trans.layers[0].mlp.w_in
    with torch.no_grad():
        layer.weight.mul_(1.5)
    compare(model, batch, engine)
    layer.weight = torch.nn.Parameter(layer.weight.flip(0), requires_grad=False)
    compare(model, batch, engine)
    model.requires_grad_(True)
    compare(model, batch, engine)
    compare(build_lora(("compress",)), batch, engine)


def test_frozen_weights_are_folded_once(monkeypatch):
    # LoRA on attention alone: norms are folded into the layers of both MLPs
    model = build_lora(("input_linear",), **choose_sizes(20))
    engine = TrainingEngine()
    batch = build_batch(build_structures(), model)
    seen = []
    start_step = engine.start_step

    def record(hypers, inputs, layouts, tensors, trained):
        seen.append(dict(tensors))
        return start_step(hypers, inputs, layouts, tensors, trained)

    monkeypatch.setattr(engine, "start_step", record)
    for _ in range(3):
        compare(model, batch, engine)
    corrected = {name.split(".lora_")[0] for name in seen[0] if ".lora_" in name}
    frozen = [name for name in seen[0] if name.rpartition(".")[0] not in corrected]
    assert any("center_in" in name for name in frozen)
    for name in frozen:
        if ".last" not in name:  # views of one row, made anew
            assert seen[1][name] is seen[2][name], name


def test_without_gradients_nothing_is_kept():
    model = build_lora(("input_linear",))
    engine = TrainingEngine()
    batch = build_large_batch(model)
    for _ in range(2):
        with torch.no_grad():
            found = engine.predict(model, batch, "energy")
            model.gnn_layers[0].trans.layers[
                0
            ].attention.input_linear.lora_A.weight.add_(0.1)
    with torch.no_grad():
        found = engine.predict(model, batch, "energy")
    expected = predict(model, batch, with_composition=False)
    scale = float(expected.forces.abs().max())
    assert float((found.forces - expected.forces).abs().max()) < 1e-11 * scale


def test_gradients_of_heads_alone():
    model = build_model(num_gnn_layers=3, featurizer_type="residual")
    freeze_for_heads(model)
    gradients = compare(model, build_batch(build_structures(), model))
    assert all("head" in name or "last_layer" in name for name in gradients)


def test_the_engine_follows_the_weights_and_the_sizes():
    model = build_model()
    engine = TrainingEngine()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-6)
    structures = build_structures()
    for count in (2, 5, 1):
        batch = build_batch(structures[:count], model)
        optimizer.zero_grad()
        result = engine.predict(model, batch, "energy", with_stress=True)
        compute_loss(result).backward()
        optimizer.step()
        expected = predict(model, batch, with_composition=False)
        found = engine.predict(model, batch, "energy")
        scale = float(expected.forces.abs().max())
        assert float((found.forces - expected.forces).detach().abs().max()) < (
            1e-11 * scale
        )
    assert engine.count_bytes() > 0


def test_memory_is_used_again_from_step_to_step():
    model = build_model()
    engine = TrainingEngine()
    batch = build_batch(build_structures(), model)
    sizes = []
    for _ in range(4):
        result = engine.predict(model, batch, "energy")
        torch.autograd.grad(result.forces.sum(), model.edge_embedder.weight)
        del result
        sizes.append(engine.count_bytes())
    # the first step finds out what it has to borrow
    assert sizes[1] == sizes[2] == sizes[3]


def test_less_is_kept_where_less_trains():
    sizes = {}
    for name in ("full", "lora", "heads", "nothing"):
        model = build_lora(("input_linear", "output_linear"))
        if name == "full":
            model.requires_grad_(True)
        elif name == "heads":
            freeze_for_heads(model)
        elif name == "nothing":
            model.requires_grad_(False)
        engine = TrainingEngine()
        result = engine.predict(model, build_large_batch(model), "energy")
        if name != "nothing":
            result.forces.sum().backward()
        sizes[name] = engine.count_bytes()
    assert sizes["nothing"] < sizes["heads"] < sizes["lora"] < sizes["full"]
    # what goes into layers that do not train is not kept
    assert sizes["lora"] < 0.9 * sizes["full"]


def test_two_steps_at_once_do_not_share_their_memory():
    model = build_model()
    engine = TrainingEngine()
    first, second = (
        build_batch(part, model)
        for part in (build_structures()[:2], build_structures()[2:])
    )
    both = [engine.predict(model, part, "energy") for part in (first, second)]
    gradients = [
        torch.autograd.grad(part.forces.pow(2).sum(), model.edge_embedder.weight)[0]
        for part in both
    ]
    alone = engine.predict(model, first, "energy")
    (expected,) = torch.autograd.grad(
        alone.forces.pow(2).sum(), model.edge_embedder.weight
    )
    assert torch.equal(gradients[0], expected)
