"""Steps that are equally long in all directions of a matrix."""

import pytest
import torch
from support.models import build_model
from support.runs import build_options, check_resume, write_base

from pet_calc.config import TrainOptions, replace
from pet_calc.errors import ConfigError
from pet_calc.train.muon import Muon, find_matrices, orthogonalize
from pet_calc.train.optim import build_optimizer, set_learning_rate
from pet_calc.train.run import run_training


@pytest.mark.parametrize("shape", [(8, 8), (24, 8), (8, 24)])
@pytest.mark.parametrize("size", [1e-12, 1.0, 1e12])
def test_orthogonalized_matrices_keep_their_directions(shape, size):
    generator = torch.Generator().manual_seed(1)
    matrices = size * torch.randn(3, *shape, generator=generator, dtype=torch.float64)
    u, _, vh = torch.linalg.svd(matrices, full_matrices=False)
    inner = u.mT @ orthogonalize(matrices) @ vh.mT
    values = inner.diagonal(dim1=1, dim2=2)
    # the polynomial's own bounds for singular values that are not tiny
    assert float(values.min()) > 0.6
    assert float(values.max()) < 1.3
    assert torch.allclose(inner, torch.diag_embed(values), rtol=0.0, atol=1e-9)


def test_a_matrix_of_zeros_stays_zero():
    assert torch.equal(orthogonalize(torch.zeros(1, 4, 3)), torch.zeros(1, 4, 3))


def test_stacked_matrices_step_like_single_ones():
    generator = torch.Generator().manual_seed(2)
    gradients = torch.randn(2, 12, 8, generator=generator, dtype=torch.float64)
    gradients[:, :4] *= 100.0
    stack = torch.nn.Parameter(torch.ones(12, 8, dtype=torch.float64))
    single = [torch.nn.Parameter(part.clone()) for part in stack.detach().split(4)]
    optimizers = [
        Muon([{"params": [stack], "n_parts": 3}], weight_decay=0.1),
        Muon([{"params": single, "n_parts": 1}], weight_decay=0.1),
    ]
    for gradient in gradients:
        stack.grad = gradient.clone()
        for matrix, part in zip(single, gradient.split(4), strict=True):
            matrix.grad = part.clone()
        for optimizer in optimizers:
            optimizer.step()
    # products of other batch sizes may sum in another order
    assert torch.allclose(stack, torch.cat(single), rtol=0.0, atol=1e-12)


def test_steps_have_the_size_of_adams():
    generator = torch.Generator().manual_seed(3)
    matrix = torch.nn.Parameter(torch.zeros(16, 64))
    matrix.grad = 1e-5 * torch.randn(16, 64, generator=generator)
    optimizer = Muon([{"params": [matrix], "n_parts": 1}])
    optimizer.param_groups[0]["lr"] = 0.01
    optimizer.step()
    # 0.2 for singular values of 1, which they are to 0.3
    root_mean_square = float(matrix.detach().pow(2).mean().sqrt())
    assert root_mean_square == pytest.approx(0.01 * 0.2, rel=0.3)


def test_the_matrices_between_layers_are_found():
    model = build_model(activation="SwiGLU")
    names = {id(p): name for name, p in model.named_parameters()}
    found = {names[id(p)]: n_parts for p, n_parts in find_matrices(model).items()}
    layer = "gnn_layers.0.trans.layers.0."
    assert found[layer + "attention.input_linear.weight"] == 3
    assert found[layer + "mlp.w_in.weight"] == 2
    assert found[layer + "mlp.w_out.weight"] == 1
    assert found["node_heads.energy.0.0.weight"] == 1
    assert not any("embedder" in name or "last_layers" in name for name in found)
    assert not any(name.endswith("bias") for name in found)
    plain = build_model(activation="SiLU")
    assert 2 not in find_matrices(plain).values()


def test_every_trainable_parameter_is_in_one_optimizer():
    model = build_model()
    frozen = model.gnn_layers[0].trans.layers[0].mlp.w_out.weight.requires_grad_(False)
    optimizer = build_optimizer(model, TrainOptions(optimizer="muon"))
    set_learning_rate(optimizer, 0.25)
    assert all(group["lr"] == 0.25 for group in optimizer.param_groups)
    held = [id(p) for group in optimizer.param_groups for p in group["params"]]
    assert len(held) == len(set(held))
    trainable = {id(p) for p in model.parameters() if p.requires_grad}
    assert set(held) == trainable
    assert id(frozen) not in trainable


def test_a_run_is_resumed_exactly(tmp_path):
    train = {"optimizer": "muon", "weight_decay": 0.01}
    options = build_options(tmp_path, train=train, method="full")
    check_resume(options, tmp_path)


@pytest.mark.parametrize(("first", "second"), [("adam", "muon"), ("muon", "adam")])
def test_a_run_goes_on_with_its_own_optimizer(tmp_path, first, second):
    options = build_options(tmp_path, train={"optimizer": first}, method="full")
    run_training(options, stop_after=1, show_progress=False)
    changed = replace(options, train=replace(options.train, optimizer=second))
    with pytest.raises(ConfigError, match=f"expected {first}, .* got {second}"):
        run_training(changed, is_resumed=True, show_progress=False)


def test_low_rank_factors_are_refused(tmp_path):
    base = write_base(tmp_path)
    with pytest.raises(ConfigError, match="optimizer: expected adam with method lora"):
        build_options(tmp_path, base=base, train={"optimizer": "muon"}, method="lora")
