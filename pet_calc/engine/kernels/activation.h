// Activations and their derivatives; names as in norm.h. Each has the same four functions,
// which read a product and add its bias. Gradients may be written over what they are in.

#pragma once

#include "rows.h"

namespace pet_calc::engine {

// The sigmoid of x, and what is missing to 1. That is not computed as 1 - value, which fast
// divisions leave at 6e-8 where it should be 0: slopes multiply it with a large x.
template <typename A>
struct Sigmoid {
    A value, rest;
    explicit Sigmoid(A x) {
        A power = std::exp(std::min(-x, MOST_EXPONENT<A>));
        value = A(1) / (A(1) + power);
        rest = power * value;
    }
};

template <typename A>
inline A sigmoid(A x) {
    return Sigmoid<A>(x).value;
}

// derivative of silu(x) = x sigmoid(x)
template <typename A>
inline A silu_slope(A x) {
    Sigmoid<A> s(x);
    return s.value * (A(1) + x * s.rest);
}

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

// out = silu(x + bias)
template <typename A, typename S>
struct Silu {
    static void forward(const S *x, const A *bias, S *out, int64_t n_rows, int64_t d) {
        for_rows(n_rows, 4 * d, [&](int64_t begin, int64_t end) {
            for (int64_t row = begin; row < end; row++) {
                const S *in = x + row * d;
                S *o = out + row * d;
#pragma GCC ivdep
                for (int64_t k = 0; k < d; k++) {
                    A value = widen(in[k]) + bias[k];
                    o[k] = narrow<S>(value * sigmoid(value));
                }
            }
        });
    }

    // grad_x = grad_out * silu'(x + bias); it may be either of them
    static void backward(const S *grad_out, const S *x, const A *bias, S *grad_x, int64_t n_rows,
                         int64_t d) {
        for_rows(n_rows, 4 * d, [&](int64_t begin, int64_t end) {
            for (int64_t row = begin; row < end; row++) {
                const S *in = x + row * d;
#pragma GCC ivdep
                for (int64_t k = 0; k < d; k++) {
                    A slope = silu_slope(A(widen(in[k])) + bias[k]);
                    grad_x[row * d + k] = narrow<S>(widen(grad_out[row * d + k]) * slope);
                }
            }
        });
    }

    // out_dot = silu'(x + bias) * x_dot
    static void forward_dot(const A *x, const A *bias, const A *x_dot, A *out_dot, int64_t n_rows,
                            int64_t d) {
        for_rows(n_rows, 4 * d, [&](int64_t begin, int64_t end) {
            for (int64_t row = begin; row < end; row++)
#pragma GCC ivdep
                for (int64_t k = 0; k < d; k++)
                    out_dot[row * d + k] =
                        silu_slope(x[row * d + k] + bias[k]) * x_dot[row * d + k];
        });
    }

    static void backward_dot(const A *x, const A *bias, const A *x_dot, const A *grad_out,
                             const A *grad_out_dot, A *grad_x, A *grad_x_dot, int64_t n_rows,
                             int64_t d) {
        for_rows(n_rows, 4 * d, [&](int64_t begin, int64_t end) {
            for (int64_t row = begin; row < end; row++) {
                int64_t start = row * d;
#pragma GCC ivdep
                for (int64_t k = 0; k < d; k++) {
                    SiluSlopes<A> slopes(x[start + k] + bias[k]);
                    grad_x[start + k] = grad_out[start + k] * slopes.first;
                    grad_x_dot[start + k] = grad_out_dot[start + k] * slopes.first +
                                            grad_out[start + k] * slopes.second * x_dot[start + k];
                }
            }
        });
    }
};

// x [n, 2 d] holds value and gate; out [n, d] = value * sigmoid(gate)
template <typename A, typename S>
struct Gate {
    static void forward(const S *x, const A *bias, S *out, int64_t n_rows, int64_t d) {
        for_rows(n_rows, 4 * d, [&](int64_t begin, int64_t end) {
            for (int64_t row = begin; row < end; row++) {
                const S *value = x + 2 * row * d, *gate = value + d;
                S *o = out + row * d;
#pragma GCC ivdep
                for (int64_t k = 0; k < d; k++)
                    o[k] = narrow<S>((widen(value[k]) + bias[k]) *
                                     sigmoid(A(widen(gate[k])) + bias[d + k]));
            }
        });
    }

    // grad_x [n, 2 d] may be x
    static void backward(const S *grad_out, const S *x, const A *bias, S *grad_x, int64_t n_rows,
                         int64_t d) {
        for_rows(n_rows, 4 * d, [&](int64_t begin, int64_t end) {
            for (int64_t row = begin; row < end; row++) {
                const S *value = x + 2 * row * d, *gate = value + d;
                S *grad_value = grad_x + 2 * row * d, *grad_gate = grad_value + d;
                const S *g = grad_out + row * d;
#pragma GCC ivdep
                for (int64_t k = 0; k < d; k++) {
                    Sigmoid<A> s(A(widen(gate[k])) + bias[d + k]);
                    A v = widen(value[k]) + bias[k];
                    A from = widen(g[k]);
                    grad_value[k] = narrow<S>(from * s.value);
                    grad_gate[k] = narrow<S>(from * v * s.value * s.rest);
                }
            }
        });
    }

    static void forward_dot(const A *x, const A *bias, const A *x_dot, A *out_dot, int64_t n_rows,
                            int64_t d) {
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

    static void backward_dot(const A *x, const A *bias, const A *x_dot, const A *grad_out,
                             const A *grad_out_dot, A *grad_x, A *grad_x_dot, int64_t n_rows,
                             int64_t d) {
        for_rows(n_rows, 4 * d, [&](int64_t begin, int64_t end) {
            for (int64_t row = begin; row < end; row++) {
                int64_t start = 2 * row * d;
                const A *value = x + start, *gate = value + d;
                const A *value_dot = x_dot + start, *gate_dot = value_dot + d;
                const A *g = grad_out + row * d, *g_dot = grad_out_dot + row * d;
                A *grad_value = grad_x + start, *grad_gate = grad_value + d;
                A *grad_value_dot = grad_x_dot + start, *grad_gate_dot = grad_value_dot + d;
#pragma GCC ivdep
                for (int64_t k = 0; k < d; k++) {
                    Sigmoid<A> s(gate[k] + bias[d + k]);
                    A v = value[k] + bias[k];
                    A slope = s.value * s.rest, bend = slope * (s.rest - s.value);
                    grad_value[k] = g[k] * s.value;
                    grad_gate[k] = g[k] * v * slope;
                    grad_value_dot[k] = g_dot[k] * s.value + g[k] * slope * gate_dot[k];
                    grad_gate_dot[k] = (g_dot[k] * v + g[k] * value_dot[k]) * slope +
                                       g[k] * v * bend * gate_dot[k];
                }
            }
        });
    }
};

}  // namespace pet_calc::engine
