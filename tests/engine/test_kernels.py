"""Single kernels of the engine against PyTorch, with their three derivatives.

For y = f(x) a kernel has ``backward``, the gradient of x for one of y, ``forward_dot``,
how y changes when x does, and ``backward_dot``, how the first changes when both x and
the gradient of y do. Reduced to float64 all of them are the same numbers as PyTorch's.
"""

import pytest
import torch
import torch.nn.functional as F
from support.models import build_model
from support.structures import build_batch, build_structures
from torch.func import jvp, vjp

from pet_calc.engine.build import PROBE, load_engine
from pet_calc.model.edges import compute_edge_vectors

EXACT = {"rtol": 1e-11, "atol": 1e-11}
TOLERANCES = {torch.float64: 1e-13, torch.float32: 1e-5}


@pytest.fixture(scope="module")
def probe():
    load_engine(PROBE)
    return torch.ops.pet_calc_probe


def draw(*sizes, seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed + 1000 * len(sizes) + sum(sizes))
    return torch.randn(sizes, generator=generator, dtype=torch.float64).to(dtype)


def differentiate(function, inputs, dots, grad, grad_dot):
    """The three derivatives of a function with one result, by PyTorch."""

    def pull(*arguments):
        *values, gradient = arguments
        return vjp(function, *values)[1](gradient)

    backward = pull(*inputs, grad)
    forward_dot = jvp(function, inputs, dots)[1]
    backward_dot = jvp(pull, (*inputs, grad), (*dots, grad_dot))[1]
    return backward, forward_dot, backward_dot


def assert_close(found, expected, **tolerance):
    torch.testing.assert_close(found, expected, **(tolerance or EXACT))


# rows and columns that do and do not fill tiles and panels, and more terms than are
# summed at once
@pytest.mark.parametrize("dtype", TOLERANCES, ids=str)
@pytest.mark.parametrize("adds", [False, True])
@pytest.mark.parametrize(
    ("n", "n_in", "n_out"),
    [(0, 8, 8), (1, 1, 1), (5, 8, 40), (12, 16, 32), (37, 300, 7), (200, 24, 100)],
)
def test_products(probe, n, n_in, n_out, adds, dtype):
    x, matrix, out = (
        draw(n, n_in, dtype=dtype),
        draw(n_in, n_out, dtype=dtype),
        draw(n, n_out, seed=1, dtype=dtype),
    )
    expected = x @ matrix + (out if adds else 0)
    for laid_out in (matrix, matrix.t().contiguous().t()):
        found = out.clone()
        probe.multiply(x, probe.lay_out(laid_out), found, adds)
        tolerance = TOLERANCES[dtype] * n_in
        assert_close(found, expected, rtol=tolerance, atol=tolerance)


# ranks that do and do not fill registers, an odd number of terms, and numbers that pass
# through as bits: not-a-numbers would
@pytest.mark.parametrize("dtype", TOLERANCES, ids=str)
@pytest.mark.parametrize(
    ("n", "n_in", "rank"),
    [
        (0, 8, 8),
        (1, 2, 1),
        (37, 64, 8),
        (25, 48, 5),
        (99, 128, 16),
        (13, 7, 4),
        (30, 64, 23),
    ],
)
def test_products_with_few_columns(probe, n, n_in, rank, dtype):
    x, matrix = draw(n, n_in, dtype=dtype), draw(n_in, rank, seed=1, dtype=dtype)
    if n > 1:
        x[0], x[1] = 0.0, -0.0
    tolerance = TOLERANCES[dtype] * n_in
    for laid_out in (matrix, matrix.t().contiguous().t()):
        found = probe.shrink(x, laid_out)
        assert_close(found, x @ matrix, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("n_threads", [1, 2])
@pytest.mark.parametrize(
    ("n", "rank", "n_out"),
    [(0, 3, 8), (3, 1, 8), (150, 5, 64), (99, 70, 48), (70, 2, 7)],
)
def test_products_over_rows(probe, n, rank, n_out, n_threads):
    left, right, out = draw(n, rank), draw(n, n_out), draw(rank, n_out)
    expected = out + left.t() @ right
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(n_threads)
        probe.multiply_columns(left, right, out)
    finally:
        torch.set_num_threads(before)
    assert_close(out, expected)


# rows that do and do not fill runs and parts, columns that do and do not fill registers
@pytest.mark.parametrize("dtype", TOLERANCES, ids=str)
@pytest.mark.parametrize(
    ("n", "n_in", "n_out", "rank"),
    [(0, 8, 8, 2), (3, 7, 20, 1), (130, 64, 48, 8), (700, 33, 64, 5), (300, 48, 9, 18)],
)
def test_gradients_in_factors(probe, n, n_in, n_out, rank, dtype):
    a, b = draw(rank, n_in, dtype=dtype), draw(rank, n_out, seed=1, dtype=dtype)
    x, x_dot = (draw(n, n_in, seed=seed, dtype=dtype) for seed in (2, 3))
    grad, grad_dot = (draw(n, n_out, seed=seed, dtype=dtype) for seed in (4, 5))
    found = probe.multiply_factors(a, b, x, x_dot, grad, grad_dot)
    expected = (
        b @ (grad_dot.t() @ x + grad.t() @ x_dot),
        a @ (x.t() @ grad_dot + x_dot.t() @ grad),
    )
    # sums of as many products as rows and terms
    tolerance = TOLERANCES[dtype] * max(1, n)
    assert_close(found, expected, rtol=tolerance, atol=tolerance)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1 if before > 1 else 2)
        again = probe.multiply_factors(a, b, x, x_dot, grad, grad_dot)
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(one, other) for one, other in zip(found, again, strict=True))


def test_bfloat16_is_rounded_to_even():
    load_engine(PROBE)
    x = torch.cat([draw(20, 17, dtype=torch.float32) * s for s in (1e-30, 1.0, 1e30)])
    x[0] = 1.0 + torch.arange(17) * 2.0**-8  # halfway every other time
    found = torch.ops.pet_calc_probe.round_to_bfloat16(x)
    assert torch.equal(found, x.to(torch.bfloat16).to(torch.float32))


@pytest.mark.parametrize("adds", [False, True])
def test_updates_of_a_stream(probe, adds):
    stream, update, bias = draw(9, 13), draw(9, 13, seed=1), draw(13)
    expected = update + bias + (stream if adds else 0)
    probe.update_rows(stream, update, bias, adds)
    assert_close(stream, expected)


def test_a_message_is_averaged_with_the_reverse(probe):
    message, edge = draw(6, 5), draw(6, 5, seed=1)
    reverse = torch.tensor([1, 0, 4, 5, 2, 3])
    expected = 0.5 * (message + edge[reverse])
    probe.average_reverse(message, edge, reverse)
    assert_close(message, expected)


@pytest.mark.parametrize("is_pair", [False, True])
@pytest.mark.parametrize("subtracts_mean", [False, True])
@pytest.mark.parametrize("width", [1, 24, 37])
def test_norms(probe, width, subtracts_mean, is_pair):
    x, x_dot = draw(6, width), draw(6, width, seed=1)
    reverse = torch.tensor([1, 0, 4, 5, 2, 3]) if is_pair else None
    eps = 1e-3

    def norm(x):
        if is_pair:
            x = torch.cat([x, x[reverse]], dim=1)
        if subtracts_mean:
            return F.layer_norm(x, x.shape[1:], eps=eps)
        return F.rms_norm(x, x.shape[1:], eps=eps)

    out, inverse = probe.norm_forward(x, subtracts_mean, eps, reverse)
    assert_close(out, norm(x))
    grad, grad_dot = draw(*out.shape, seed=2), draw(*out.shape, seed=3)
    expected = differentiate(norm, (x,), (x_dot,), grad, grad_dot)
    same = (subtracts_mean, reverse)
    assert_close(probe.norm_backward(x, grad, out, inverse, *same), expected[0][0])
    out_dot, along = probe.norm_forward_dot(x_dot, out, inverse, *same)
    assert_close(out_dot, expected[1])
    found = probe.norm_backward_dot(
        x, grad, grad_dot, out, out_dot, inverse, along, *same
    )
    assert_close(found, expected[2][0])


@pytest.mark.parametrize("name", ["silu", "gate"])
@pytest.mark.parametrize("width", [1, 16, 19])
def test_activations(probe, width, name):
    n_in = width if name == "silu" else 2 * width
    # both tails too
    x, bias = 10 * draw(8, n_in), draw(n_in)
    x[0], x[1] = 800.0, -800.0
    x_dot = draw(8, n_in, seed=1)

    def activate(x):
        x = x + bias
        if name == "silu":
            return x * torch.sigmoid(x)
        return x[:, :width] * torch.sigmoid(x[:, width:])

    out = probe.activation_forward(name, x, bias)
    assert_close(out, activate(x))
    grad, grad_dot = draw(*out.shape, seed=2), draw(*out.shape, seed=3)
    expected = differentiate(activate, (x,), (x_dot,), grad, grad_dot)
    assert_close(probe.activation_backward(name, grad, x, bias), expected[0][0])
    assert_close(probe.activation_forward_dot(name, x, bias, x_dot), expected[1])
    found = probe.activation_backward_dot(name, x, bias, x_dot, grad, grad_dot)
    assert_close(found[0], expected[0][0])
    assert_close(found[1], expected[2][0])


@pytest.mark.parametrize("has_message", [False, True])
def test_the_embedding_of_edges(probe, has_message):
    n, d = 7, 19
    table, basis, kinds = draw(3, d), draw(4, d), torch.tensor([0, 2, 1, 1, 0, 2, 2])
    geometry, geometry_dot = draw(n, 4), draw(n, 4, seed=1)
    product = draw(n, d) if has_message else None
    product_dot = draw(n, d, seed=1) if has_message else None
    zero = torch.zeros(n, d, dtype=torch.float64)

    def embed(geometry, product):
        return F.silu(table[kinds] + geometry @ basis + product)

    inputs = (geometry, zero if product is None else product)
    dots = (geometry_dot, zero if product_dot is None else product_dot)
    x, out = probe.embedding_forward(table, kinds, geometry, basis, product)
    assert_close(out, embed(*inputs))
    grad = draw(n, d, seed=2)
    backward, forward_dot, _ = differentiate(embed, inputs, dots, grad, grad)
    grad_x, grad_geometry = probe.embedding_backward(grad, x, basis)
    assert_close(grad_x, backward[1])
    assert_close(grad_geometry, backward[0])
    x_dot, out_dot = probe.embedding_forward_dot(geometry_dot, basis, product_dot, x)
    assert_close(x_dot, geometry_dot @ basis + dots[1])
    assert_close(out_dot, forward_dot)


def test_the_last_layer_of_a_head(probe):
    x, x_dot, bias, weight = (
        draw(5, 21),
        draw(5, 21, seed=1),
        draw(21),
        draw(21, seed=1),
    )

    def read(x):
        return F.silu(x + bias) @ weight

    assert_close(probe.last_layer_forward(x, bias, weight), read(x))
    grad, grad_dot = draw(5), draw(5, seed=1)
    backward, _, backward_dot = differentiate(read, (x,), (x_dot,), grad, grad_dot)
    assert_close(probe.last_layer_backward(grad, x, bias, weight), backward[0])
    grad_x, grad_x_dot, active, active_dot = probe.last_layer_backward_dot(
        grad, grad_dot, x, bias, weight, x_dot
    )
    assert_close(grad_x, backward[0])
    assert_close(grad_x_dot, backward_dot[0])
    expected = jvp(lambda x: F.silu(x + bias), (x,), (x_dot,))
    assert_close((active, active_dot), expected)


# an atom alone, one whose keys fill whole registers, and one whose do not
COUNTS = [0, 15, 16, 3]


@pytest.mark.parametrize("width", [4, 12, 32])
def test_attention(probe, width):
    n_heads, scale = 3, 0.7
    n_edges = sum(COUNTS)
    n = len(COUNTS) + n_edges
    first_edge = torch.tensor([0, *COUNTS]).cumsum(0)
    qkv, bias = draw(n, 3 * n_heads * width), draw(3 * n_heads * width)
    # weights from 1 down to those of a key that nearly nobody sees
    logs = torch.linspace(0.0, -34.0, n_edges, dtype=torch.float64)

    def attend(qkv, logs):
        parts = (qkv + bias).view(n, 3, n_heads, width)
        nodes, edges = [], []
        for atom in range(len(COUNTS)):
            start, end = first_edge[atom], first_edge[atom + 1]
            rows = [atom, *range(len(COUNTS) + start, len(COUNTS) + end)]
            query, key, value = parts[rows].permute(1, 2, 0, 3)
            mask = torch.cat([logs.new_zeros(1), logs[start:end]])
            weights = torch.softmax(scale * query @ key.transpose(1, 2) + mask, dim=2)
            out = (weights @ value).transpose(0, 1).reshape(len(rows), -1)
            nodes.append(out[:1])
            edges.append(out[1:])
        return torch.cat([*nodes, *edges])

    shape = (qkv, bias, first_edge, logs, n_heads, scale)
    weights, out = probe.attention_forward(*shape)
    assert_close(out, attend(qkv, logs))
    dots = (draw(*qkv.shape, seed=1), draw(n_edges, seed=1))
    grad, grad_dot = draw(*out.shape, seed=2), draw(*out.shape, seed=3)
    backward, forward_dot, backward_dot = differentiate(
        attend, (qkv, logs), dots, grad, grad_dot
    )
    assert_close(probe.attention_backward(grad, *shape, weights), backward)
    weights_dot, out_dot = probe.attention_forward_dot(*shape, weights, *dots)
    assert_close(out_dot, forward_dot)
    found = probe.attention_backward_dot(
        grad, grad_dot, *shape, weights, weights_dot, dots[0]
    )
    assert_close(found, backward_dot[0])


CUTOFFS = {
    "fixed": {},
    "cosine": {"cutoff_function": "Cosine"},
    "adaptive": {"num_neighbors_adaptive": 6.0},
    "crowded": {"num_neighbors_adaptive": 3.0, "cutoff_width_adaptive": 0.3},
    "lonely": {"num_neighbors_adaptive": 500.0},
}


@pytest.mark.parametrize("name", CUTOFFS)
def test_the_edges_of_a_cutoff(probe, name):
    model = build_model(adaptive_cutoff_method="solver", **CUTOFFS[name])
    batch = build_batch(build_structures(), model, skin=0.5)
    vectors = compute_edge_vectors(batch).detach().requires_grad_(True)
    index = model.selector(batch, vectors)
    edges = model.selector.measure(batch, vectors, index)
    geometry = torch.cat([edges.vectors, edges.distances.unsqueeze(1)], dim=1)

    hypers = model.hypers
    counts = torch.bincount(batch.centers, minlength=len(batch.species))
    pairs = (F.pad(counts.cumsum(0), (1, 0)), batch.neighbors, batch.reverse)
    numbers = [
        *(hypers.cutoff, hypers.cutoff_width),
        *(hypers.num_neighbors_adaptive or 0.0, hypers.cutoff_width_adaptive),
    ]
    shape = (vectors.detach(), *pairs, numbers, hypers.cutoff_function == "Bump")
    kept, reverse, found, factors, radii = probe.cutoff_forward(*shape)
    assert torch.equal(kept, index.kept)
    assert torch.equal(reverse, index.reverse)
    assert_close(found, geometry.detach())
    assert_close(factors, edges.cutoff_factors.detach())
    assert len(kept) < len(vectors)  # some pairs are no edges

    grad = draw(*geometry.shape), draw(len(factors))
    (expected,) = torch.autograd.grad(
        [geometry, edges.cutoff_factors], vectors, list(grad), retain_graph=True
    )
    assert_close(probe.cutoff_backward(*shape, *grad), expected)
    # how the results change, by the gradient: <grad, J dot> = <J^T grad, dot>
    dot = draw(*vectors.shape, seed=1)
    changes = probe.cutoff_forward_dot(*shape, dot)
    along = sum((a * b).sum() for a, b in zip(grad, changes, strict=True))
    assert_close(along, (expected * dot).sum())
    if hypers.num_neighbors_adaptive is not None:
        solve_again(radii, batch, vectors.detach(), hypers)


def solve_again(radii, batch, vectors, hypers):
    """Check that soft counts at the radii are those wanted, by their own formula."""
    distances = (vectors.pow(2).sum(1) + 1e-15).sqrt()
    width, wanted = hypers.cutoff_width_adaptive, hypers.num_neighbors_adaptive
    s = (distances - (radii[batch.centers] - width)) / width
    inside = s.clamp(1e-6, 1 - 1e-6)
    bump = 0.5 * (1 + torch.tanh(1 / torch.tan(torch.pi * inside)))
    counts = wanted * (radii / hypers.cutoff) ** 3
    counts = counts.index_add(0, batch.centers, bump)
    is_free = (radii > hypers.cutoff / 16) & (radii < hypers.cutoff)
    assert is_free.any()
    assert_close(counts[is_free], torch.full_like(counts[is_free], wanted))


def test_an_activation_that_is_not_there_is_named(probe):
    with pytest.raises(RuntimeError, match="no activation relu"):
        probe.activation_forward("relu", draw(2, 2), draw(2))
