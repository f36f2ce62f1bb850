// From geometry, element and message to the edges' tokens.

#pragma once

#include "activation.h"
#include "run.h"

namespace pet_calc::engine {

// The first layer: x = table[kind] + geometry @ basis (+ product), out = silu(x). basis is
// [4, d].
template <typename A, typename S>
struct EdgeKernels {
    static void forward(const A *table, const int64_t *kinds, const A *geometry, const A *basis,
                        const S *product, S *x, S *out, int64_t n_edges, int64_t d) {
        for_rows(n_edges, 8 * d, [&](int64_t begin, int64_t end) {
            for (int64_t e = begin; e < end; e++) {
                const A *row = table + kinds[e] * d;
                A g0 = geometry[4 * e], g1 = geometry[4 * e + 1], g2 = geometry[4 * e + 2],
                  g3 = geometry[4 * e + 3];
#pragma GCC ivdep
                for (int64_t k = 0; k < d; k++) {
                    A value = row[k] + g0 * basis[k] + g1 * basis[d + k] + g2 * basis[2 * d + k] +
                              g3 * basis[3 * d + k];
                    if (product) value += widen(product[e * d + k]);
                    x[e * d + k] = narrow<S>(value);
                    out[e * d + k] = narrow<S>(value * sigmoid(value));
                }
            }
        });
    }

    // grad_x = grad_out * silu'(x), and grad_geometry += grad_x @ basis^T; grad_x may be
    // grad_out
    static void backward(const S *grad_out, const S *x, const A *basis, S *grad_x, A *grad_geometry,
                         int64_t n_edges, int64_t d) {
        for_rows(n_edges, 8 * d, [&](int64_t begin, int64_t end) {
            for (int64_t e = begin; e < end; e++) {
                A g0 = 0, g1 = 0, g2 = 0, g3 = 0;
#pragma GCC ivdep
                for (int64_t k = 0; k < d; k++) {
                    A value = widen(grad_out[e * d + k]) * silu_slope(A(widen(x[e * d + k])));
                    grad_x[e * d + k] = narrow<S>(value);
                    g0 += value * basis[k];
                    g1 += value * basis[d + k];
                    g2 += value * basis[2 * d + k];
                    g3 += value * basis[3 * d + k];
                }
                grad_geometry[4 * e] += g0;
                grad_geometry[4 * e + 1] += g1;
                grad_geometry[4 * e + 2] += g2;
                grad_geometry[4 * e + 3] += g3;
            }
        });
    }

    // x_dot = geometry_dot @ basis (+ product), and out_dot = silu'(x) * x_dot
    static void forward_dot(const A *geometry_dot, const A *basis, const A *product, const A *x,
                            A *x_dot, A *out_dot, int64_t n_edges, int64_t d) {
        for_rows(n_edges, 8 * d, [&](int64_t begin, int64_t end) {
            for (int64_t e = begin; e < end; e++) {
                const A *g = geometry_dot + 4 * e;
                A g0 = g[0], g1 = g[1], g2 = g[2], g3 = g[3];
#pragma GCC ivdep
                for (int64_t k = 0; k < d; k++) {
                    A value = g0 * basis[k] + g1 * basis[d + k] + g2 * basis[2 * d + k] +
                              g3 * basis[3 * d + k];
                    if (product) value += product[e * d + k];
                    x_dot[e * d + k] = value;
                    out_dot[e * d + k] = silu_slope(x[e * d + k]) * value;
                }
            }
        });
    }
};

// edge = compress(silu(table[kind] + geometry @ basis + message @ message^T))
template <typename M>
class EdgeEmbedding {
    using A = typename M::A;
    using S = typename M::S;

  public:
    explicit EdgeEmbedding(const GnnWeights &weights)
        : weights_(weights) {}

    void forward(Run<M> &run) {
        const int64_t n = run.n_edges, d = run.d_pet;
        embedded_ = run.take_twin(n, d);
        const S *from_message = nullptr;
        if (has_message()) {
            message_ = run.keep_input(weights_.message, run.message);
            multiply(message_.value, weights_.message, run.edge_rows);
            from_message = data<S>(run.edge_rows);
        }
        active_ = run.take_input(weights_.compress, n);
        EdgeKernels<A, S>::forward(data<A>(weights_.table), data<int64_t>(run.input.kinds),
                                   data<A>(run.input.geometry), data<A>(weights_.basis),
                                   from_message, data<S>(embedded_.value), data<S>(active_.value),
                                   n, d);
        multiply(active_.value, weights_.compress, run.edge_rows);
        set_update<A, S>(data<A>(run.edge), data<S>(run.edge_rows), data<A>(weights_.compress.bias),
                         n, d);
    }

    void backward(Run<M> &run) {
        const int64_t n = run.n_edges, d = run.d_pet;
        grad_edge_ = run.keep_gradient(weights_.compress, run.edge);
        grad_active_ = run.take_gradient(n, d);
        multiply_backward(grad_edge_, weights_.compress, grad_active_);
        Tensor grad_embedded = run.find_place(grad_active_);
        EdgeKernels<A, S>::backward(data<S>(grad_active_), data<S>(embedded_.value),
                                    data<A>(weights_.basis), data<S>(grad_embedded),
                                    data<A>(run.out.grad_geometry), n, d);
        if (!has_message()) return;
        multiply_backward(grad_embedded, weights_.message, run.edge_rows);
        add_rows<A, S>(data<A>(run.message), data<S>(run.edge_rows), n, d);
    }

    void forward_dot(Run<M> &run) {
        const int64_t n = run.n_edges, d = run.d_pet;
        const A *from_message = nullptr;
        if (has_message()) {
            run.keep_dot(weights_.message, message_, run.message);
            multiply(run.message, weights_.message, run.edge_rows);
            from_message = data<A>(run.edge_rows);
        }
        EdgeKernels<A, A>::forward_dot(data<A>(run.geometry_dot), data<A>(weights_.basis),
                                       from_message, data<A>(embedded_.value),
                                       data<A>(embedded_.dot), data<A>(active_.dot), n, d);
        multiply(active_.dot, weights_.compress, run.edge);
    }

    void backward_dot(Run<M> &run) {
        const int64_t n = run.n_edges, d = run.d_pet;
        if (n == 0) return;
        run.add_gradient(weights_.compress, active_, grad_edge_, run.edge);
        Tensor grad_active_dot = run.borrow(ACTIVE, n, d);
        multiply_backward(run.edge, weights_.compress, grad_active_dot);
        Tensor grad_x = run.borrow(HIDDEN, n, d), grad_x_dot = run.borrow(HIDDEN_DOT, n, d);
        Silu<A, A>::backward_dot(data<A>(embedded_.value), data<A>(run.no_bias),
                                 data<A>(embedded_.dot), data<A>(grad_active_),
                                 data<A>(grad_active_dot), data<A>(grad_x), data<A>(grad_x_dot), n,
                                 d);
        run.gradients->add_to_rows(weights_.table, run.input.kinds, grad_x_dot);
        if (Tensor *basis = run.gradients->find(weights_.basis)) {
            add_product_of_columns<A>(run.input.geometry, grad_x_dot, *basis);
            add_product_of_columns<A>(run.geometry_dot, grad_x, *basis);
        }
        if (!has_message()) return;
        run.add_gradient(weights_.message, message_, grad_x, grad_x_dot);
        multiply_backward(grad_x_dot, weights_.message, run.edge_rows);
        add_rows<A, A>(data<A>(run.message), data<A>(run.edge_rows), n, d);
    }

  private:
    // the first layer has none
    bool has_message() const { return weights_.message.weight.defined(); }

    const GnnWeights &weights_;
    Twin message_, embedded_, active_;
    Tensor grad_edge_, grad_active_;
};

}  // namespace pet_calc::engine
