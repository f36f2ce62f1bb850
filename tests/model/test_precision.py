"""Large products in bfloat16, all else in float32."""

from contextlib import nullcontext

import pytest
import torch
import torch.nn.functional as F
from support.models import build_model
from support.structures import build_batch, build_structures

from pet_calc.model.derivatives import predict
from pet_calc.model.precision import NARROW, Bfloat16Products
from pet_calc.train.recompute import recompute_layers

WIDE = {"d_pet": 32, "d_node": 64, "d_head": 32, "d_feedforward": 32}


def build_wide_model():
    model = build_model(dtype=torch.float32, **WIDE)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("weight") and parameter.dim() == 2:
                # outputs of size one from inputs of size one
                parameter /= parameter.shape[1] ** 0.5
    return model


def differentiate(model, batch, precision=Bfloat16Products):
    """Forces, and the gradient of a loss on them by weight."""
    model.zero_grad()
    with precision():
        found = predict(model, batch, is_training=True)
    # the context is over: the products in the graph keep what they are
    found.forces.square().mean().backward()
    gradient = [p.grad.flatten() for p in model.parameters() if p.grad is not None]
    return found.forces.detach(), torch.cat(gradient)


def test_a_wide_layer_multiplies_in_bfloat16_and_returns_float32():
    torch.manual_seed(0)
    x, weight, bias = torch.randn(5, 64), torch.randn(40, 64), torch.randn(40)
    with Bfloat16Products():
        found = F.linear(x, weight, bias)
    product = (x.bfloat16() @ weight.bfloat16().T).float()
    torch.testing.assert_close(found, product + bias, rtol=1e-2, atol=1e-2)
    assert found.dtype == torch.float32
    assert not torch.equal(found, F.linear(x, weight, bias))


@pytest.mark.parametrize(
    ("dtype", "n_in", "n_out"),
    [
        (torch.float32, 4, 64),
        (torch.float32, 64, NARROW - 1),
        (torch.float64, 64, 64),
    ],
)
def test_narrow_layers_and_float64_are_exact(dtype, n_in, n_out):
    x, weight = torch.randn(5, n_in, dtype=dtype), torch.randn(n_out, n_in, dtype=dtype)
    with Bfloat16Products():
        found = F.linear(x, weight)
    assert torch.equal(found, F.linear(x, weight))


def test_energies_and_forces_are_off_by_bfloat16s_rounding():
    model = build_wide_model()
    batch = build_batch(build_structures(), model)
    exact = predict(model, batch, with_stress=True)
    with Bfloat16Products():
        mixed = predict(model, batch, with_stress=True)
    # bfloat16 has eight bits: 0.4 % per product, and a few layers of them
    for one, other in zip(exact[1:4], mixed[1:4], strict=True):
        assert 0 < (one - other).norm() < 0.03 * one.norm()
    again = predict(model, batch, with_stress=True)
    assert torch.equal(again.forces, exact.forces)


def test_the_training_gradient_points_where_the_exact_one_does():
    model = build_wide_model()
    batch = build_batch(build_structures(), model)
    forces, gradient = differentiate(model, batch)
    exact_forces, exact = differentiate(model, batch, nullcontext)
    assert not torch.equal(forces, exact_forces)
    assert F.cosine_similarity(gradient, exact, 0) > 0.99


def test_layers_that_are_computed_again_have_the_same_precision():
    model = build_wide_model()
    batch = build_batch(build_structures(), model)
    forces, gradient = differentiate(model, batch)
    exact, _ = differentiate(model, batch, nullcontext)
    recompute_layers(model)
    again, other = differentiate(model, batch)
    assert (again - forces).norm() < 1e-2 * (exact - forces).norm()
    # the two parts of a weight's gradient are added in float32 here, else in bfloat16
    assert F.cosine_similarity(gradient, other, 0) > 0.999
