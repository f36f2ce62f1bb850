// Second derivatives of the kernels in rows.h.
//
// A loss of energies and forces needs, for its gradient in the weights, how the energy's
// gradient changes when positions move along the loss's gradient in the forces. `x_dot`
// is how x changes along that direction, `of_x` the energy's gradient in x, `of_x_dot`
// how that changes, plus the loss's own gradient through the energy. Each kernel here is
// the derivative of one in rows.h along the direction.

#pragma once

#include "rows.h"

namespace pet_calc::engine {

template <typename A>
struct SiluSlopes {
    A value, first, second;  // silu, and its derivatives
    explicit SiluSlopes(A x) {
        Sigmoid<A> s(x);
        value = x * s.value;
        first = s.value * (A(1) + x * s.rest);
        second = s.value * s.rest * (A(2) + x * (s.rest - s.value));
    }
};

// out_dot = (x_dot - mean - out * along) * inverse, where along = mean of out * x_dot
template <typename A>
inline void norm_row_dot(const Norm<A> &norm, const A *x_dot, const A *out, A inverse, A *out_dot,
                         A *along, int64_t d) {
    A mean = 0, sum = 0;
    if (norm.subtracts_mean) {
#pragma GCC ivdep
        for (int64_t k = 0; k < d; k++) mean += x_dot[k];
        mean /= d;
    }
#pragma GCC ivdep
    for (int64_t k = 0; k < d; k++) sum += out[k] * (x_dot[k] - mean);
    sum /= d;
#pragma GCC ivdep
    for (int64_t k = 0; k < d; k++) out_dot[k] = inverse * (x_dot[k] - mean - out[k] * sum);
    *along = sum;
}

template <typename A>
void norm_dot(const Norm<A> &norm, const A *x_dot, const A *out, const A *inverse, A *out_dot,
              A *along, int64_t n_rows, int64_t d) {
    for_rows(n_rows, d, [&](int64_t begin, int64_t end) {
        for (int64_t r = begin; r < end; r++)
            norm_row_dot(norm, x_dot + r * d, out + r * d, inverse[r], out_dot + r * d,
                         along + r, d);
    });
}

// gradient += how Norm::backward_row's addition changes
template <typename A>
inline void norm_back_row_dot(const Norm<A> &norm, const A *of_out, const A *of_out_dot,
                              const A *out, const A *out_dot, A inverse, A along, A *gradient,
                              int64_t d) {
    A m = 0, m_dot = 0, mean = 0, mean_dot = 0;
#pragma GCC ivdep
    for (int64_t k = 0; k < d; k++) {
        m += out[k] * of_out[k];
        m_dot += out_dot[k] * of_out[k] + out[k] * of_out_dot[k];
    }
    m /= d;
    m_dot /= d;
    if (norm.subtracts_mean) {
#pragma GCC ivdep
        for (int64_t k = 0; k < d; k++) {
            mean += of_out[k];
            mean_dot += of_out_dot[k];
        }
        mean /= d;
        mean_dot /= d;
    }
    A inverse_dot = -inverse * inverse * along;
#pragma GCC ivdep
    for (int64_t k = 0; k < d; k++)
        gradient[k] += inverse * (of_out_dot[k] - mean_dot - out_dot[k] * m - out[k] * m_dot) +
                       inverse_dot * (of_out[k] - mean - out[k] * m);
}

template <typename A>
void norm_back_dot(const Norm<A> &norm, const A *of_out, const A *of_out_dot, const A *out,
                   const A *out_dot, const A *inverse, const A *along, A *gradient,
                   int64_t n_rows, int64_t d) {
    for_rows(n_rows, 2 * d, [&](int64_t begin, int64_t end) {
        for (int64_t r = begin; r < end; r++)
            norm_back_row_dot(norm, of_out + r * d, of_out_dot + r * d, out + r * d,
                              out_dot + r * d, inverse[r], along[r], gradient + r * d, d);
    });
}

template <typename A>
void pair_norm_dot(const Norm<A> &norm, const A *edge_dot, const int64_t *reverse, const A *out,
                   const A *inverse, A *out_dot, A *along, int64_t n_edges, int64_t d) {
    for_rows(n_edges, 2 * d, [&](int64_t begin, int64_t end) {
        std::vector<A> both(2 * d);
        for (int64_t e = begin; e < end; e++) {
            gather_pair(edge_dot, reverse, e, d, both.data());
            norm_row_dot(norm, both.data(), out + 2 * e * d, inverse[e], out_dot + 2 * e * d,
                         along + e, 2 * d);
        }
    });
}

// out_dot = silu'(x + bias) * x_dot
template <typename A>
void silu_dot(const A *x, const A *bias, const A *x_dot, A *out_dot, int64_t n_rows, int64_t d) {
    for_rows(n_rows, 4 * d, [&](int64_t begin, int64_t end) {
        for (int64_t row = begin; row < end; row++)
#pragma GCC ivdep
            for (int64_t k = 0; k < d; k++)
                out_dot[row * d + k] = silu_slope(x[row * d + k] + bias[k]) * x_dot[row * d + k];
    });
}

// of_x and of_x_dot from those of silu(x + bias)
template <typename A>
void silu_back_dot(const A *x, const A *bias, const A *x_dot, const A *of_out,
                   const A *of_out_dot, A *of_x, A *of_x_dot, int64_t n_rows, int64_t d) {
    for_rows(n_rows, 4 * d, [&](int64_t begin, int64_t end) {
        for (int64_t row = begin; row < end; row++) {
            int64_t start = row * d;
#pragma GCC ivdep
            for (int64_t k = 0; k < d; k++) {
                SiluSlopes<A> slopes(x[start + k] + bias[k]);
                of_x[start + k] = of_out[start + k] * slopes.first;
                of_x_dot[start + k] = of_out_dot[start + k] * slopes.first +
                                      of_out[start + k] * slopes.second * x_dot[start + k];
            }
        }
    });
}

// The same for value * sigmoid(gate), where x [n, 2 d] holds both.
template <typename A>
void gate_dot(const A *x, const A *bias, const A *x_dot, A *out_dot, int64_t n_rows, int64_t d) {
    for_rows(n_rows, 4 * d, [&](int64_t begin, int64_t end) {
        for (int64_t row = begin; row < end; row++) {
            const A *value = x + 2 * row * d, *gate = value + d;
            const A *value_dot = x_dot + 2 * row * d, *gate_dot = value_dot + d;
#pragma GCC ivdep
            for (int64_t k = 0; k < d; k++) {
                Sigmoid<A> s(gate[k] + bias[d + k]);
                out_dot[row * d + k] =
                    s.value * (value_dot[k] + (value[k] + bias[k]) * s.rest * gate_dot[k]);
            }
        }
    });
}

template <typename A>
void gate_back_dot(const A *x, const A *bias, const A *x_dot, const A *of_out,
                   const A *of_out_dot, A *of_x, A *of_x_dot, int64_t n_rows, int64_t d) {
    for_rows(n_rows, 4 * d, [&](int64_t begin, int64_t end) {
        for (int64_t row = begin; row < end; row++) {
            int64_t start = 2 * row * d;
            const A *value = x + start, *gate = value + d;
            const A *value_dot = x_dot + start, *gate_dot = value_dot + d;
            const A *of = of_out + row * d, *of_dot = of_out_dot + row * d;
            A *of_value = of_x + start, *of_gate = of_value + d;
            A *of_value_dot = of_x_dot + start, *of_gate_dot = of_value_dot + d;
#pragma GCC ivdep
            for (int64_t k = 0; k < d; k++) {
                Sigmoid<A> s(gate[k] + bias[d + k]);
                A v = value[k] + bias[k];
                A slope = s.value * s.rest, bend = slope * (s.rest - s.value);
                of_value[k] = of[k] * s.value;
                of_gate[k] = of[k] * v * slope;
                of_value_dot[k] = of_dot[k] * s.value + of[k] * slope * gate_dot[k];
                of_gate_dot[k] = (of_dot[k] * v + of[k] * value_dot[k]) * slope +
                                 of[k] * v * bend * gate_dot[k];
            }
        }
    });
}

// x_dot = geometry_dot @ basis (+ product), and out_dot = silu'(x) * x_dot
template <typename A>
void embed_edges_dot(const A *geometry_dot, const A *basis, const A *product, const A *x,
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

// Of a last layer values = silu(x + bias) . weight: of_x and of_x_dot from those of the
// values; active and active_dot are the activation and how it changes.
template <typename A>
void last_layer_back_dot(const A *of_values, const A *of_values_dot, const A *x, const A *bias,
                         const A *weight, const A *x_dot, A *of_x, A *of_x_dot, A *active,
                         A *active_dot, int64_t n_rows, int64_t d) {
    for_rows(n_rows, 4 * d, [&](int64_t begin, int64_t end) {
        for (int64_t row = begin; row < end; row++) {
            int64_t start = row * d;
            A of = of_values[row], of_dot = of_values_dot[row];
#pragma GCC ivdep
            for (int64_t k = 0; k < d; k++) {
                SiluSlopes<A> slopes(x[start + k] + bias[k]);
                A move = x_dot[start + k];
                active[start + k] = slopes.value;
                active_dot[start + k] = slopes.first * move;
                of_x[start + k] = of * weight[k] * slopes.first;
                of_x_dot[start + k] =
                    weight[k] * (of_dot * slopes.first + of * slopes.second * move);
            }
        }
    });
}

}  // namespace pet_calc::engine
