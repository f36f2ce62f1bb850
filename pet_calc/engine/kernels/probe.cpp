// Single kernels as functions for PyTorch, for tests and benchmarks. Compiled only when
// they ask for it.

#include "activation.h"
#include "attention.h"
#include "attention_dot.h"
#include "cutoff.h"
#include "embedding.h"
#include "linear.h"
#include "low_rank.h"
#include "norm.h"
#include "readout.h"

#include <torch/library.h>

#include <string>
#include <tuple>

namespace pet_calc::engine {

namespace {

using Two = std::tuple<Tensor, Tensor>;
using Maybe = c10::optional<Tensor>;

// calls `work` with a number of the tensor's type
template <typename F>
auto with_type(const Tensor &x, F work) {
    TORCH_CHECK(x.is_contiguous(), "expected contiguous memory");
    if (x.scalar_type() == at::kDouble) return work(double());
    TORCH_CHECK(x.scalar_type() == at::kFloat, "expected float64 or float32");
    return work(float());
}

template <typename A>
const A *data_or_null(const Maybe &x) {
    return x.has_value() ? data<A>(*x) : nullptr;
}

// ---- products

// panels of a matrix [rows, columns]
Tensor lay_out(const Tensor &matrix) { return lay_out_panels(matrix); }

// out = x times the matrix in panels, or that added to it
void multiply_laid_out(const Tensor &x, const Tensor &panels, const Tensor &out, bool adds) {
    with_type(x, [&](auto one) { multiply_panels<decltype(one)>(x, panels, out, adds); });
}

// x times a matrix of few columns
Tensor shrink(const Tensor &x, const Tensor &factor) {
    Tensor out = at::empty({x.size(0), factor.size(1)}, x.options());
    with_type(x, [&](auto one) {
        using A = decltype(one);
        Shrinker<A>(factor).shrink(data<A>(x), x.stride(0), x.size(0), data<A>(out));
    });
    return out;
}

// gradients in the factors a [r, in] and b [r, out] of a layer
Two multiply_factors(const Tensor &a, const Tensor &b, const Tensor &x, const Tensor &x_dot,
                     const Tensor &grad_y, const Tensor &grad_y_dot) {
    Tensor grad_a = at::zeros_like(a), grad_b = at::zeros_like(b);
    with_type(x, [&](auto one) {
        add_factor_gradients<decltype(one)>(a, b, {x, x_dot}, {grad_y, grad_y_dot}, &grad_a,
                                            &grad_b);
    });
    return {grad_a, grad_b};
}

// out += left transposed times right
void multiply_columns(const Tensor &left, const Tensor &right, Tensor out) {
    with_type(left, [&](auto one) { add_product_of_columns<decltype(one)>(left, right, out); });
}

// ---- rows

// there and back
Tensor round_to_bfloat16(const Tensor &x) {
    Tensor rounded = at::empty_like(x, x.options().dtype(at::kBFloat16));
    convert<float, c10::BFloat16>(data<float>(x), data<c10::BFloat16>(rounded), x.size(0),
                                  x.size(1));
    Tensor out = at::zeros_like(x);
    add_rows<float, c10::BFloat16>(data<float>(out), data<c10::BFloat16>(rounded), x.size(0),
                                   x.size(1));
    return out;
}

void update_rows(const Tensor &stream, const Tensor &update, const Tensor &bias, bool adds) {
    with_type(stream, [&](auto one) {
        using A = decltype(one);
        auto apply = adds ? add_update<A, A> : set_update<A, A>;
        apply(data<A>(stream), data<A>(update), data<A>(bias), stream.size(0), stream.size(1));
    });
}

void average_reverse(const Tensor &message, const Tensor &edge, const Tensor &reverse) {
    with_type(message, [&](auto one) {
        using A = decltype(one);
        average_with_reverse<A>(data<A>(message), data<A>(edge), data<int64_t>(reverse),
                                message.size(0), message.size(1));
    });
}

// ---- norms: of rows, or with `reverse` of each row next to its reverse's

template <typename F>
auto with_norm(const Tensor &x, bool subtracts_mean, double eps, const Maybe &reverse, F work) {
    return with_type(x, [&](auto one) {
        using A = decltype(one);
        Norm<A> norm{subtracts_mean, A(eps)};
        if (!reverse.has_value()) return work(one, norm, x.size(1));
        Tensor both = at::empty({reverse->size(0), 2 * x.size(1)}, x.options());
        return work(one, PairNorm<A>{norm, data<int64_t>(*reverse), data<A>(both)}, 2 * x.size(1));
    });
}

Two norm_forward(const Tensor &x, bool subtracts_mean, double eps, const Maybe &reverse) {
    return with_norm(x, subtracts_mean, eps, reverse, [&](auto one, auto norm, int64_t width) {
        using A = decltype(one);
        Tensor out = at::empty({x.size(0), width}, x.options());
        Tensor inverse = at::empty({x.size(0)}, x.options());
        norm.forward(data<A>(x), data<A>(out), data<A>(inverse), x.size(0), x.size(1));
        return Two{out, inverse};
    });
}

// `like` has the size of x
Tensor norm_backward(const Tensor &like, const Tensor &grad_out, const Tensor &out,
                     const Tensor &inverse, bool subtracts_mean, const Maybe &reverse) {
    return with_norm(like, subtracts_mean, 0, reverse, [&](auto one, auto norm, int64_t) {
        using A = decltype(one);
        Tensor grad_x = at::zeros_like(like);
        norm.backward(data<A>(grad_out), data<A>(out), data<A>(inverse), data<A>(grad_x),
                      like.size(0), like.size(1));
        return grad_x;
    });
}

Two norm_forward_dot(const Tensor &x_dot, const Tensor &out, const Tensor &inverse,
                     bool subtracts_mean, const Maybe &reverse) {
    return with_norm(x_dot, subtracts_mean, 0, reverse, [&](auto one, auto norm, int64_t) {
        using A = decltype(one);
        Tensor out_dot = at::empty_like(out), along = at::empty_like(inverse);
        norm.forward_dot(data<A>(x_dot), data<A>(out), data<A>(inverse), data<A>(out_dot),
                         data<A>(along), x_dot.size(0), x_dot.size(1));
        return Two{out_dot, along};
    });
}

Tensor norm_backward_dot(const Tensor &like, const Tensor &grad_out, const Tensor &grad_out_dot,
                         const Tensor &out, const Tensor &out_dot, const Tensor &inverse,
                         const Tensor &along, bool subtracts_mean, const Maybe &reverse) {
    return with_norm(like, subtracts_mean, 0, reverse, [&](auto one, auto norm, int64_t) {
        using A = decltype(one);
        Tensor grad_x_dot = at::zeros_like(like);
        norm.backward_dot(data<A>(grad_out), data<A>(grad_out_dot), data<A>(out), data<A>(out_dot),
                          data<A>(inverse), data<A>(along), data<A>(grad_x_dot), like.size(0),
                          like.size(1));
        return grad_x_dot;
    });
}

// ---- activations, by name

template <typename F>
auto with_activation(const std::string &name, const Tensor &x, F work) {
    TORCH_CHECK(name == "silu" || name == "gate", "no activation ", name);
    return with_type(x, [&](auto one) {
        using A = decltype(one);
        if (name == "gate") return work(one, Gate<A, A>(), x.size(1) / 2);
        return work(one, Silu<A, A>(), x.size(1));
    });
}

Tensor activation_forward(const std::string &name, const Tensor &x, const Tensor &bias) {
    return with_activation(name, x, [&](auto one, auto activation, int64_t d) {
        using A = decltype(one);
        Tensor out = at::empty({x.size(0), d}, x.options());
        activation.forward(data<A>(x), data<A>(bias), data<A>(out), x.size(0), d);
        return out;
    });
}

Tensor activation_backward(const std::string &name, const Tensor &grad_out, const Tensor &x,
                           const Tensor &bias) {
    return with_activation(name, x, [&](auto one, auto activation, int64_t d) {
        using A = decltype(one);
        Tensor grad_x = at::empty_like(x);
        activation.backward(data<A>(grad_out), data<A>(x), data<A>(bias), data<A>(grad_x),
                            x.size(0), d);
        return grad_x;
    });
}

Tensor activation_forward_dot(const std::string &name, const Tensor &x, const Tensor &bias,
                              const Tensor &x_dot) {
    return with_activation(name, x, [&](auto one, auto activation, int64_t d) {
        using A = decltype(one);
        Tensor out_dot = at::empty({x.size(0), d}, x.options());
        activation.forward_dot(data<A>(x), data<A>(bias), data<A>(x_dot), data<A>(out_dot),
                               x.size(0), d);
        return out_dot;
    });
}

Two activation_backward_dot(const std::string &name, const Tensor &x, const Tensor &bias,
                            const Tensor &x_dot, const Tensor &grad_out,
                            const Tensor &grad_out_dot) {
    return with_activation(name, x, [&](auto one, auto activation, int64_t d) {
        using A = decltype(one);
        Tensor grad_x = at::empty_like(x), grad_x_dot = at::empty_like(x);
        activation.backward_dot(data<A>(x), data<A>(bias), data<A>(x_dot), data<A>(grad_out),
                                data<A>(grad_out_dot), data<A>(grad_x), data<A>(grad_x_dot),
                                x.size(0), d);
        return Two{grad_x, grad_x_dot};
    });
}

// ---- first layer of the embedding, last layer of a head

Two embedding_forward(const Tensor &table, const Tensor &kinds, const Tensor &geometry,
                      const Tensor &basis, const Maybe &product) {
    return with_type(table, [&](auto one) {
        using A = decltype(one);
        Tensor x = at::empty({kinds.size(0), table.size(1)}, table.options());
        Tensor out = at::empty_like(x);
        EdgeKernels<A, A>::forward(data<A>(table), data<int64_t>(kinds), data<A>(geometry),
                                   data<A>(basis), data_or_null<A>(product), data<A>(x),
                                   data<A>(out), x.size(0), x.size(1));
        return Two{x, out};
    });
}

Two embedding_backward(const Tensor &grad_out, const Tensor &x, const Tensor &basis) {
    return with_type(x, [&](auto one) {
        using A = decltype(one);
        Tensor grad_x = at::empty_like(x), grad_geometry = at::zeros({x.size(0), 4}, x.options());
        EdgeKernels<A, A>::backward(data<A>(grad_out), data<A>(x), data<A>(basis), data<A>(grad_x),
                                    data<A>(grad_geometry), x.size(0), x.size(1));
        return Two{grad_x, grad_geometry};
    });
}

Two embedding_forward_dot(const Tensor &geometry_dot, const Tensor &basis, const Maybe &product_dot,
                          const Tensor &x) {
    return with_type(x, [&](auto one) {
        using A = decltype(one);
        Tensor x_dot = at::empty_like(x), out_dot = at::empty_like(x);
        EdgeKernels<A, A>::forward_dot(data<A>(geometry_dot), data<A>(basis),
                                       data_or_null<A>(product_dot), data<A>(x), data<A>(x_dot),
                                       data<A>(out_dot), x.size(0), x.size(1));
        return Two{x_dot, out_dot};
    });
}

Tensor last_layer_forward(const Tensor &x, const Tensor &bias, const Tensor &weight) {
    return with_type(x, [&](auto one) {
        using A = decltype(one);
        Tensor values = at::empty({x.size(0)}, x.options());
        LastLayer<A, A>::forward(data<A>(x), data<A>(bias), data<A>(weight), data<A>(values),
                                 x.size(0), x.size(1));
        return values;
    });
}

Tensor last_layer_backward(const Tensor &grad_values, const Tensor &x, const Tensor &bias,
                           const Tensor &weight) {
    return with_type(x, [&](auto one) {
        using A = decltype(one);
        Tensor grad_x = at::empty_like(x);
        LastLayer<A, A>::backward(data<A>(grad_values), data<A>(x), data<A>(bias), data<A>(weight),
                                  data<A>(grad_x), x.size(0), x.size(1));
        return grad_x;
    });
}

// grad_x and grad_x_dot, the activation and how it changes
std::tuple<Tensor, Tensor, Tensor, Tensor> last_layer_backward_dot(
    const Tensor &grad_values, const Tensor &grad_values_dot, const Tensor &x, const Tensor &bias,
    const Tensor &weight, const Tensor &x_dot) {
    return with_type(x, [&](auto one) {
        using A = decltype(one);
        Tensor grad_x = at::empty_like(x), grad_x_dot = at::empty_like(x);
        Tensor active = at::empty_like(x), active_dot = at::empty_like(x);
        LastLayer<A, A>::backward_dot(data<A>(grad_values), data<A>(grad_values_dot), data<A>(x),
                                      data<A>(bias), data<A>(weight), data<A>(x_dot),
                                      data<A>(grad_x), data<A>(grad_x_dot), data<A>(active),
                                      data<A>(active_dot), x.size(0), x.size(1));
        return std::make_tuple(grad_x, grad_x_dot, active, active_dot);
    });
}

// ---- attention, in float64 and for a few widths of heads

using Real = double;

// calls `work` with the blocks and the width of a head as a constant
template <typename F>
auto with_blocks(const Tensor &qkv, const Tensor &first_edge, const Tensor &logs, int64_t n_heads,
                 double scale, F work) {
    const int64_t n_atoms = first_edge.size(0) - 1, width = qkv.size(1) / (3 * n_heads);
    auto starts = find_weight_starts(data<int64_t>(first_edge), n_atoms, n_heads);
    Blocks<Real> blocks{n_atoms,       n_heads,         width, scale, data<int64_t>(first_edge),
                        starts.data(), data<Real>(logs)};
    TORCH_CHECK(width == 4 || width == 12 || width == 32, "no probe of width ", width);
    if (width == 4) return work(blocks, starts.back(), std::integral_constant<int64_t, 4>());
    if (width == 12) return work(blocks, starts.back(), std::integral_constant<int64_t, 12>());
    return work(blocks, starts.back(), std::integral_constant<int64_t, 32>());
}

// the attention's weights, as it keeps them, and what it leaves
Two attention_forward(const Tensor &qkv, const Tensor &bias, const Tensor &first_edge,
                      const Tensor &logs, int64_t n_heads, double scale) {
    return with_blocks(
        qkv, first_edge, logs, n_heads, scale, [&](const auto &blocks, int64_t size, auto width) {
            Tensor weights = at::empty({size}, qkv.options());
            Tensor out = at::empty({qkv.size(0), qkv.size(1) / 3}, qkv.options());
            attend_forward<decltype(width)::value, Real, Real>(
                blocks, data<Real>(qkv), data<Real>(bias), data<Real>(weights), data<Real>(out));
            return Two{weights, out};
        });
}

Two attention_backward(const Tensor &grad_out, const Tensor &qkv, const Tensor &bias,
                       const Tensor &first_edge, const Tensor &logs, int64_t n_heads, double scale,
                       const Tensor &weights) {
    return with_blocks(qkv, first_edge, logs, n_heads, scale,
                       [&](const auto &blocks, int64_t, auto width) {
                           Tensor grad_qkv = at::empty_like(qkv), grad_logs = at::zeros_like(logs);
                           attend_backward<decltype(width)::value, Real, Real>(
                               blocks, data<Real>(grad_out), data<Real>(qkv), data<Real>(bias),
                               data<Real>(weights), data<Real>(grad_qkv), data<Real>(grad_logs));
                           return Two{grad_qkv, grad_logs};
                       });
}

Two attention_forward_dot(const Tensor &qkv, const Tensor &bias, const Tensor &first_edge,
                          const Tensor &logs, int64_t n_heads, double scale, const Tensor &weights,
                          const Tensor &qkv_dot, const Tensor &logs_dot) {
    return with_blocks(
        qkv, first_edge, logs, n_heads, scale, [&](const auto &blocks, int64_t, auto width) {
            Tensor weights_dot = at::empty_like(weights);
            Tensor out_dot = at::empty({qkv.size(0), qkv.size(1) / 3}, qkv.options());
            attend_forward_dot<decltype(width)::value, Real>(
                blocks, data<Real>(qkv), data<Real>(bias), data<Real>(qkv_dot),
                data<Real>(logs_dot), data<Real>(weights), data<Real>(weights_dot),
                data<Real>(out_dot));
            return Two{weights_dot, out_dot};
        });
}

Tensor attention_backward_dot(const Tensor &grad_out, const Tensor &grad_out_dot, const Tensor &qkv,
                              const Tensor &bias, const Tensor &first_edge, const Tensor &logs,
                              int64_t n_heads, double scale, const Tensor &weights,
                              const Tensor &weights_dot, const Tensor &qkv_dot) {
    return with_blocks(
        qkv, first_edge, logs, n_heads, scale, [&](const auto &blocks, int64_t, auto width) {
            Tensor grad_qkv_dot = at::empty_like(qkv);
            attend_backward_dot<decltype(width)::value, Real>(
                blocks, data<Real>(grad_out), data<Real>(grad_out_dot), data<Real>(qkv),
                data<Real>(bias), data<Real>(qkv_dot), data<Real>(weights), data<Real>(weights_dot),
                data<Real>(grad_qkv_dot));
            return grad_qkv_dot;
        });
}

// ---- cutoff

// Pairs of which edges are chosen. `numbers`: radius, width, n_wanted and adaptive_width of
// Cutoff; n_wanted is 0 without an adaptive radius.
template <typename F>
auto with_selection(const Tensor &vectors, const Tensor &starts, const Tensor &neighbors,
                    const Tensor &reverse, const std::vector<double> &numbers, bool is_bump,
                    F work) {
    return with_type(vectors, [&](auto one) {
        using A = decltype(one);
        Cutoff cutoff{numbers.at(0), numbers.at(1), numbers.at(2),
                      numbers.at(3), is_bump,       numbers.at(2) > 0};
        const int64_t n_atoms = starts.size(0) - 1;
        Selection<A> selection;
        select<A>(cutoff, data<A>(vectors), data<int64_t>(neighbors), data<int64_t>(reverse),
                  data<int64_t>(starts), n_atoms, selection);
        const int64_t n_edges = selection.kept.size();
        Tensor geometry = at::empty({n_edges, 4}, vectors.options());
        Tensor factors = at::empty({n_edges}, vectors.options());
        measure<A>(cutoff, data<A>(vectors), data<int64_t>(neighbors), n_atoms, selection,
                   data<A>(geometry), data<A>(factors));
        return work(one, cutoff, n_atoms, selection, geometry, factors);
    });
}

Tensor copy_of(const std::vector<int64_t> &values) {
    return at::tensor(values, at::TensorOptions().dtype(at::kLong));
}

// pairs that are edges, their reverses, geometry and cutoff factors; radii [n_atoms] if adaptive
std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> cutoff_forward(
    const Tensor &vectors, const Tensor &starts, const Tensor &neighbors, const Tensor &reverse,
    const std::vector<double> &numbers, bool is_bump) {
    return with_selection(vectors, starts, neighbors, reverse, numbers, is_bump,
                          [&](auto, const Cutoff &, int64_t, const auto &selection,
                              const Tensor &geometry, const Tensor &factors) {
                              return std::make_tuple(
                                  copy_of(selection.kept), copy_of(selection.reverse), geometry,
                                  factors, at::tensor(selection.radii, vectors.options()));
                          });
}

Tensor cutoff_backward(const Tensor &vectors, const Tensor &starts, const Tensor &neighbors,
                       const Tensor &reverse, const std::vector<double> &numbers, bool is_bump,
                       const Tensor &grad_geometry, const Tensor &grad_factors) {
    return with_selection(vectors, starts, neighbors, reverse, numbers, is_bump,
                          [&](auto one, const Cutoff &cutoff, int64_t n_atoms,
                              const auto &selection, const Tensor &, const Tensor &) {
                              using A = decltype(one);
                              Tensor gradient = at::empty_like(vectors);
                              select_backward<A>(cutoff, data<A>(vectors), data<int64_t>(starts),
                                                 n_atoms, selection, data<A>(grad_geometry),
                                                 data<A>(grad_factors), data<A>(gradient));
                              return gradient;
                          });
}

Two cutoff_forward_dot(const Tensor &vectors, const Tensor &starts, const Tensor &neighbors,
                       const Tensor &reverse, const std::vector<double> &numbers, bool is_bump,
                       const Tensor &vectors_dot) {
    return with_selection(
        vectors, starts, neighbors, reverse, numbers, is_bump,
        [&](auto one, const Cutoff &cutoff, int64_t n_atoms, const auto &selection,
            const Tensor &geometry, const Tensor &factors) {
            using A = decltype(one);
            Tensor geometry_dot = at::empty_like(geometry), factors_dot = at::empty_like(factors);
            select_forward_dot<A>(cutoff, data<A>(vectors), data<A>(vectors_dot),
                                  data<int64_t>(neighbors), data<int64_t>(starts), n_atoms,
                                  selection, data<A>(geometry_dot), data<A>(factors_dot));
            return Two{geometry_dot, factors_dot};
        });
}

}  // namespace

}  // namespace pet_calc::engine

TORCH_LIBRARY(pet_calc_probe, library) {
    using namespace pet_calc::engine;
    library.def("lay_out", &lay_out);
    library.def("multiply", &multiply_laid_out);
    library.def("shrink", &shrink);
    library.def("multiply_factors", &multiply_factors);
    library.def("multiply_columns", &multiply_columns);
    library.def("round_to_bfloat16", &round_to_bfloat16);
    library.def("update_rows", &update_rows);
    library.def("average_reverse", &average_reverse);
    library.def("norm_forward", &norm_forward);
    library.def("norm_backward", &norm_backward);
    library.def("norm_forward_dot", &norm_forward_dot);
    library.def("norm_backward_dot", &norm_backward_dot);
    library.def("activation_forward", &activation_forward);
    library.def("activation_backward", &activation_backward);
    library.def("activation_forward_dot", &activation_forward_dot);
    library.def("activation_backward_dot", &activation_backward_dot);
    library.def("embedding_forward", &embedding_forward);
    library.def("embedding_backward", &embedding_backward);
    library.def("embedding_forward_dot", &embedding_forward_dot);
    library.def("last_layer_forward", &last_layer_forward);
    library.def("last_layer_backward", &last_layer_backward);
    library.def("last_layer_backward_dot", &last_layer_backward_dot);
    library.def("attention_forward", &attention_forward);
    library.def("attention_backward", &attention_backward);
    library.def("attention_forward_dot", &attention_forward_dot);
    library.def("attention_backward_dot", &attention_backward_dot);
    library.def("cutoff_forward", &cutoff_forward);
    library.def("cutoff_backward", &cutoff_backward);
    library.def("cutoff_forward_dot", &cutoff_forward_dot);
}
