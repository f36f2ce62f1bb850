// Heads: from nodes and edges to energies.

#pragma once

#include "activation.h"
#include "run.h"

namespace pet_calc::engine {

// The last layer, with one output: values = silu(x + bias) . weight.
template <typename A, typename S>
struct LastLayer {
    static void forward(const S *x, const A *bias, const A *weight, A *values, int64_t n_rows,
                        int64_t d) {
        for_rows(n_rows, 4 * d, [&](int64_t begin, int64_t end) {
            for (int64_t row = begin; row < end; row++) {
                A sum = 0;
#pragma GCC ivdep
                for (int64_t k = 0; k < d; k++) {
                    A value = widen(x[row * d + k]) + bias[k];
                    sum += value * sigmoid(value) * weight[k];
                }
                values[row] = sum;
            }
        });
    }

    // grad_x, which may be x, for a gradient `grad_values` per row
    static void backward(const A *grad_values, const S *x, const A *bias, const A *weight,
                         S *grad_x, int64_t n_rows, int64_t d) {
        for_rows(n_rows, 4 * d, [&](int64_t begin, int64_t end) {
            for (int64_t row = begin; row < end; row++) {
#pragma GCC ivdep
                for (int64_t k = 0; k < d; k++) {
                    A slope = silu_slope(A(widen(x[row * d + k])) + bias[k]);
                    grad_x[row * d + k] = narrow<S>(grad_values[row] * weight[k] * slope);
                }
            }
        });
    }

    // `active` and `active_dot` are the activation and how it changes
    static void backward_dot(const A *grad_values, const A *grad_values_dot, const A *x,
                             const A *bias, const A *weight, const A *x_dot, A *grad_x,
                             A *grad_x_dot, A *active, A *active_dot, int64_t n_rows, int64_t d) {
        for_rows(n_rows, 4 * d, [&](int64_t begin, int64_t end) {
            for (int64_t row = begin; row < end; row++) {
                int64_t start = row * d;
                A grad = grad_values[row], grad_dot = grad_values_dot[row];
#pragma GCC ivdep
                for (int64_t k = 0; k < d; k++) {
                    SiluSlopes<A> slopes(x[start + k] + bias[k]);
                    A move = x_dot[start + k];
                    active[start + k] = slopes.value;
                    active_dot[start + k] = slopes.first * move;
                    grad_x[start + k] = grad * weight[k] * slopes.first;
                    grad_x_dot[start + k] =
                        weight[k] * (grad_dot * slopes.first + grad * slopes.second * move);
                }
            }
        });
    }
};

// Adds what one readout layer says to the energies, and the gradient in the factors.
template <typename A>
void add_values(const A *node_values, const A *edge_values, A node_bias, A edge_bias,
                const int64_t *first_edge, const A *factors, const A *scale, A *energies,
                A *grad_factors, int64_t n_atoms) {
    for (int64_t i = 0; i < n_atoms; i++) {
        A sum = node_values[i] + node_bias;
#pragma GCC ivdep
        for (int64_t k = first_edge[i]; k < first_edge[i + 1]; k++) {
            grad_factors[k] += (edge_values[k] + edge_bias) * scale[i];
            sum += (edge_values[k] + edge_bias) * factors[k];
        }
        energies[i] += sum * scale[i];
    }
}

// Writes what the last layer of a node head is applied to, and the sum over an atom's edges,
// weighted by the cutoff, of what that of an edge head is: `rows` [n_atoms, stride], in the
// first 2 d columns. Arguments as for LastLayer.
template <typename A, typename S>
void gather_features(const S *node_x, const A *node_bias, const S *edge_x, const A *edge_bias,
                     const int64_t *first_edge, const A *factors, A *rows, int64_t stride,
                     int64_t n_atoms, int64_t d) {
    if (n_atoms == 0) return;
    const int64_t n_rows = n_atoms + first_edge[n_atoms];
    for_rows(n_atoms, 4 * d * n_rows / n_atoms, [&](int64_t begin, int64_t end) {
        for (int64_t i = begin; i < end; i++) {
            A *node = rows + i * stride, *edges = node + d;
#pragma GCC ivdep
            for (int64_t k = 0; k < d; k++) {
                A value = widen(node_x[i * d + k]) + node_bias[k];
                node[k] = value * sigmoid(value);
                edges[k] = 0;
            }
            for (int64_t j = first_edge[i]; j < first_edge[i + 1]; j++) {
#pragma GCC ivdep
                for (int64_t k = 0; k < d; k++) {
                    A value = widen(edge_x[j * d + k]) + edge_bias[k];
                    edges[k] += factors[j] * value * sigmoid(value);
                }
            }
        }
    });
}

// values = last . silu(second(silu(first(x))))
template <typename M>
class Head {
    using A = typename M::A;
    using S = typename M::S;

  public:
    explicit Head(const HeadWeights &weights)
        : weights_(weights) {}

    Tensor forward(Run<M> &run, const Tensor &stream) {
        const int64_t n = stream.size(0), width = weights_.last.size(0);
        first_ = run.take_twin(n, width);
        second_ = run.take_twin(n, width);
        Tensor values = run.take_real(n, 1);
        in_ = run.keep_input(weights_.first, stream);
        multiply(in_.value, weights_.first, first_.value);
        hidden_ = run.take_input(weights_.second, n);
        Silu<A, S>::forward(data<S>(first_.value), data<A>(weights_.first.bias),
                            data<S>(hidden_.value), n, width);
        multiply(hidden_.value, weights_.second, second_.value);
        LastLayer<A, S>::forward(data<S>(second_.value), data<A>(weights_.second.bias),
                                 data<A>(weights_.last), data<A>(values), n, width);
        return values;
    }

    // what `forward` left before the last layer's activation, until `backward`
    const S *hidden() const { return data<S>(second_.value); }
    const A *hidden_bias() const { return data<A>(weights_.second.bias); }
    int64_t width() const { return weights_.last.size(0); }

    // stream += its gradient, for a gradient of the values
    void backward(Run<M> &run, const A *grad_values, const Tensor &stream) {
        const int64_t n = stream.size(0), width = weights_.last.size(0);
        Tensor grad_x = run.find_place(second_.value);
        LastLayer<A, S>::backward(grad_values, data<S>(second_.value),
                                  data<A>(weights_.second.bias), data<A>(weights_.last),
                                  data<S>(grad_x), n, width);
        grad_hidden_ = run.take_gradient(n, width);
        multiply_backward(grad_x, weights_.second, grad_hidden_);
        Silu<A, S>::backward(data<S>(grad_hidden_), data<S>(first_.value),
                             data<A>(weights_.first.bias), data<S>(grad_x), n, width);
        Tensor product = run.borrow(ACTIVE, n, stream.size(1));
        multiply_backward(grad_x, weights_.first, product);
        add_rows<A, S>(data<A>(stream), data<S>(product), n, stream.size(1));
    }

    void forward_dot(Run<M> &run, const Tensor &stream) {
        const int64_t n = stream.size(0), width = weights_.last.size(0);
        run.keep_dot(weights_.first, in_, stream);
        multiply(stream, weights_.first, first_.dot);
        Silu<A, A>::forward_dot(data<A>(first_.value), data<A>(weights_.first.bias),
                                data<A>(first_.dot), data<A>(hidden_.dot), n, width);
        multiply(hidden_.dot, weights_.second, second_.dot);
    }

    void backward_dot(Run<M> &run, const Tensor &grad_values, const Tensor &grad_values_dot,
                      const Tensor &stream) {
        const int64_t n = stream.size(0), width = weights_.last.size(0);
        if (n == 0) return;
        Tensor grad_x = run.borrow(HIDDEN, n, width), grad_x_dot = run.borrow(HIDDEN_DOT, n, width);
        Twin active{run.borrow(ACTIVE, n, width), run.borrow(ACTIVE_DOT, n, width)};
        LastLayer<A, A>::backward_dot(data<A>(grad_values), data<A>(grad_values_dot),
                                      data<A>(second_.value), data<A>(weights_.second.bias),
                                      data<A>(weights_.last), data<A>(second_.dot), data<A>(grad_x),
                                      data<A>(grad_x_dot), data<A>(active.value),
                                      data<A>(active.dot), n, width);
        if (Tensor *last = run.gradients->find(weights_.last)) {
            last->addmv_(active.value.t(), grad_values_dot);
            last->addmv_(active.dot.t(), grad_values);
        }
        if (Tensor *bias = run.gradients->find(weights_.last_bias))
            bias->add_(grad_values_dot.sum());
        run.add_gradient(weights_.second, hidden_, grad_x, grad_x_dot);
        Tensor grad_hidden_dot = active.value;
        multiply_backward(grad_x_dot, weights_.second, grad_hidden_dot);
        Silu<A, A>::backward_dot(data<A>(first_.value), data<A>(weights_.first.bias),
                                 data<A>(first_.dot), data<A>(grad_hidden_),
                                 data<A>(grad_hidden_dot), data<A>(grad_x), data<A>(grad_x_dot), n,
                                 width);
        run.add_gradient(weights_.first, in_, grad_x, grad_x_dot);
        if (!run.gradients->has_trunk()) return;
        Tensor product = run.borrow(ACTIVE, n, stream.size(1));
        multiply_backward(grad_x_dot, weights_.first, product);
        add_rows<A, A>(data<A>(stream), data<A>(product), n, stream.size(1));
    }

  private:
    const HeadWeights &weights_;
    Twin in_, first_, hidden_, second_;
    Tensor grad_hidden_;
};

// What one readout layer adds to the energies: E_i = scale_i (h(node_i) + sum_j f_ij h'(edge_ij))
template <typename M>
class Readout {
    using A = typename M::A;
    using S = typename M::S;

  public:
    Readout(const HeadWeights &node, const HeadWeights &edge)
        : node_bias_(node.last_bias), edge_bias_(edge.last_bias), node_(node), edge_(edge) {}

    void forward(Run<M> &run, const Tensor &edges) {
        Tensor node_values = node_.forward(run, run.node), edge_values = edge_.forward(run, edges);
        add_values<A>(data<A>(node_values), data<A>(edge_values), A(node_bias_.item<double>()),
                      A(edge_bias_.item<double>()), run.first_edge, run.factors, run.scale,
                      data<A>(run.out.energies), data<A>(run.out.grad_factors), run.n_atoms);
    }

    int64_t n_features() const { return 2 * node_.width(); }

    // writes the features of this layer from a column of the output on, after `forward`
    void write_features(Run<M> &run, int64_t column) {
        const int64_t stride = run.out.features.size(1);
        gather_features<A, S>(node_.hidden(), node_.hidden_bias(), edge_.hidden(),
                              edge_.hidden_bias(), run.first_edge, run.factors,
                              data<A>(run.out.features) + column, stride, run.n_atoms,
                              node_.width());
    }

    void backward(Run<M> &run, const Tensor &edges) {
        node_.backward(run, run.scale, run.node);
        edge_.backward(run, data<A>(run.grad_edge_values), edges);
    }

    void forward_dot(Run<M> &run, const Tensor &edges) {
        node_.forward_dot(run, run.node);
        edge_.forward_dot(run, edges);
    }

    // `grad_nodes_dot` [n_atoms], `grad_edges_dot` [n_edges]: of the heads' values
    void backward_dot(Run<M> &run, const Tensor &grad_nodes_dot, const Tensor &grad_edges_dot,
                      const Tensor &edges) {
        node_.backward_dot(run, run.input.scale, grad_nodes_dot, run.node);
        edge_.backward_dot(run, run.grad_edge_values.squeeze(1), grad_edges_dot, edges);
    }

  private:
    const Tensor node_bias_, edge_bias_;
    Head<M> node_, edge_;
};

}  // namespace pet_calc::engine
