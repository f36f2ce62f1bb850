// Kernels that work row by row: norms, activations, sums. A is the type that numbers are
// computed in, S the one in which matrix products read and write them (A or bfloat16).
//
// `ivdep` tells the compiler that arrays are worked on in place or apart, but never
// shifted: it would not vectorise loops over many arrays, exponentials among them.

#pragma once

#include <ATen/Parallel.h>
#include <c10/util/BFloat16.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <type_traits>
#include <vector>

namespace pet_calc::engine {

// rows of about this many numbers are worth a thread
constexpr int64_t GRAIN = 16384;

template <typename F>
void for_rows(int64_t n_rows, int64_t width, F work) {
    int64_t grain = std::max<int64_t>(1, GRAIN / std::max<int64_t>(1, width));
    at::parallel_for(0, n_rows, grain, [&](int64_t begin, int64_t end) { work(begin, end); });
}

// bfloat16 with round-to-nearest-even, in a form that compilers vectorise
inline float widen(c10::BFloat16 value) {
    uint32_t bits = static_cast<uint32_t>(value.x) << 16;
    float result;
    __builtin_memcpy(&result, &bits, 4);
    return result;
}
inline float widen(float value) { return value; }
inline double widen(double value) { return value; }

template <typename S, typename A>
inline S narrow(A value) {
    if constexpr (std::is_same_v<S, c10::BFloat16>) {
        float single = static_cast<float>(value);
        uint32_t bits;
        __builtin_memcpy(&bits, &single, 4);
        bits += 0x7fffu + ((bits >> 16) & 1u);
        return c10::BFloat16(static_cast<uint16_t>(bits >> 16), c10::BFloat16::from_bits());
    } else {
        return static_cast<S>(value);
    }
}

// Exponentials of more than this are infinite, which fast arithmetic does not know, and
// those of less than minus this do not count beside 1; vector exponentials would compute
// either number by number.
template <typename A>
constexpr A MOST_EXPONENT = sizeof(A) == 4 ? A(80) : A(700);

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

// out = a, converted
template <typename A, typename S>
void convert(const A *a, S *out, int64_t n_rows, int64_t d) {
    for_rows(n_rows, d, [&](int64_t begin, int64_t end) {
#pragma GCC ivdep
        for (int64_t k = begin * d; k < end * d; k++) out[k] = narrow<S>(a[k]);
    });
}

// stream = update + bias, or that added to it
template <bool adds, typename A, typename S>
void apply_update(A *stream, const S *update, const A *bias, int64_t n_rows, int64_t d) {
    for_rows(n_rows, d, [&](int64_t begin, int64_t end) {
        for (int64_t row = begin; row < end; row++) {
            A *s = stream + row * d;
            const S *u = update + row * d;
#pragma GCC ivdep
            for (int64_t k = 0; k < d; k++)
                s[k] = (adds ? s[k] : A(0)) + widen(u[k]) + bias[k];
        }
    });
}

template <typename A, typename S>
void add_update(A *stream, const S *update, const A *bias, int64_t n_rows, int64_t d) {
    apply_update<true, A, S>(stream, update, bias, n_rows, d);
}

template <typename A, typename S>
void set_update(A *stream, const S *update, const A *bias, int64_t n_rows, int64_t d) {
    apply_update<false, A, S>(stream, update, bias, n_rows, d);
}

// stream += update
template <typename A, typename S>
void add_rows(A *stream, const S *update, int64_t n_rows, int64_t d) {
    for_rows(n_rows, d, [&](int64_t begin, int64_t end) {
#pragma GCC ivdep
        for (int64_t k = begin * d; k < end * d; k++) stream[k] += widen(update[k]);
    });
}

// What a norm does, without its weights: those are folded into the next matrix.
template <typename A>
struct Norm {
    bool subtracts_mean;
    A eps;

    // out = (x - mean) * inverse, per row
    template <typename S>
    inline void row(const A *x, S *out, A *inverse, int64_t d) const {
        A mean = 0;
        if (subtracts_mean) {
#pragma GCC ivdep
            for (int64_t k = 0; k < d; k++) mean += x[k];
            mean /= d;
        }
        A square = 0;
#pragma GCC ivdep
        for (int64_t k = 0; k < d; k++) square += (x[k] - mean) * (x[k] - mean);
        A scale = A(1) / std::sqrt(square / d + eps);
#pragma GCC ivdep
        for (int64_t k = 0; k < d; k++) out[k] = narrow<S>((x[k] - mean) * scale);
        *inverse = scale;
    }

    template <typename S>
    void forward(const A *x, S *out, A *inverse, int64_t n_rows, int64_t d) const {
        for_rows(n_rows, d, [&](int64_t begin, int64_t end) {
            for (int64_t r = begin; r < end; r++) row(x + r * d, out + r * d, inverse + r, d);
        });
    }

    // gradient += derivative of the norm, applied to the gradient of `out`
    template <typename S>
    void backward(const S *of_out, const S *out, const A *inverse, A *gradient,
                  int64_t n_rows, int64_t d) const {
        for_rows(n_rows, d, [&](int64_t begin, int64_t end) {
            for (int64_t r = begin; r < end; r++)
                backward_row(of_out + r * d, out + r * d, inverse[r], gradient + r * d, d);
        });
    }

    template <typename S, typename G>
    inline void backward_row(const G *of_out, const S *out, A inverse, A *gradient,
                             int64_t d) const {
        A along = 0, mean = 0;
#pragma GCC ivdep
        for (int64_t k = 0; k < d; k++) along += widen(of_out[k]) * widen(out[k]);
        along /= d;
        if (subtracts_mean) {
#pragma GCC ivdep
            for (int64_t k = 0; k < d; k++) mean += widen(of_out[k]);
            mean /= d;
        }
#pragma GCC ivdep
        for (int64_t k = 0; k < d; k++)
            gradient[k] += inverse * (widen(of_out[k]) - mean - widen(out[k]) * along);
    }
};

// out = silu(x + bias)
template <typename A, typename S>
void silu_forward(const S *x, const A *bias, S *out, int64_t n_rows, int64_t d) {
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

// of_x = of_out * silu'(x + bias); of_x may be of_out
template <typename A, typename S>
void silu_backward(const S *of_out, const S *x, const A *bias, S *of_x, int64_t n_rows,
                   int64_t d) {
    for_rows(n_rows, 4 * d, [&](int64_t begin, int64_t end) {
        for (int64_t row = begin; row < end; row++) {
            const S *in = x + row * d;
#pragma GCC ivdep
            for (int64_t k = 0; k < d; k++) {
                A slope = silu_slope(A(widen(in[k])) + bias[k]);
                of_x[row * d + k] = narrow<S>(widen(of_out[row * d + k]) * slope);
            }
        }
    });
}

// x [n, 2 d] holds value and gate; out = value * sigmoid(gate)
template <typename A, typename S>
void gate_forward(const S *x, const A *bias, S *out, int64_t n_rows, int64_t d) {
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

// x becomes its own gradient
template <typename A, typename S>
void gate_backward(const S *of_out, S *x, const A *bias, int64_t n_rows, int64_t d) {
    for_rows(n_rows, 4 * d, [&](int64_t begin, int64_t end) {
        for (int64_t row = begin; row < end; row++) {
            S *value = x + 2 * row * d, *gate = value + d;
            const S *g = of_out + row * d;
#pragma GCC ivdep
            for (int64_t k = 0; k < d; k++) {
                Sigmoid<A> s(A(widen(gate[k])) + bias[d + k]);
                A v = widen(value[k]) + bias[k];
                A from = widen(g[k]);
                value[k] = narrow<S>(from * s.value);
                gate[k] = narrow<S>(from * v * s.value * s.rest);
            }
        }
    });
}

// First layer of the edge embedding: x = table[kind] + geometry @ basis (+ product), and
// out = silu(x). basis is [4, d].
template <typename A, typename S>
void embed_edges(const A *table, const int64_t *kinds, const A *geometry, const A *basis,
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

// of_geometry += of_x @ basis^T, where of_x = of_out * silu'(x) is written over of_out
template <typename A, typename S>
void embed_edges_backward(S *of_out, const S *x, const A *basis, A *of_geometry,
                          int64_t n_edges, int64_t d) {
    for_rows(n_edges, 8 * d, [&](int64_t begin, int64_t end) {
        for (int64_t e = begin; e < end; e++) {
            A g0 = 0, g1 = 0, g2 = 0, g3 = 0;
#pragma GCC ivdep
            for (int64_t k = 0; k < d; k++) {
                A of_x = widen(of_out[e * d + k]) * silu_slope(A(widen(x[e * d + k])));
                of_out[e * d + k] = narrow<S>(of_x);
                g0 += of_x * basis[k];
                g1 += of_x * basis[d + k];
                g2 += of_x * basis[2 * d + k];
                g3 += of_x * basis[3 * d + k];
            }
            of_geometry[4 * e] += g0;
            of_geometry[4 * e + 1] += g1;
            of_geometry[4 * e + 2] += g2;
            of_geometry[4 * e + 3] += g3;
        }
    });
}

// both [2 d] = an edge's row next to its reverse's
template <typename A>
inline void gather_pair(const A *edge, const int64_t *reverse, int64_t e, int64_t d, A *both) {
    const A *own = edge + e * d, *other = edge + reverse[e] * d;
#pragma GCC ivdep
    for (int64_t k = 0; k < d; k++) both[k] = own[k];
#pragma GCC ivdep
    for (int64_t k = 0; k < d; k++) both[d + k] = other[k];
}

// out [n, 2 d] = norm of each edge's row next to its reverse's
template <typename A, typename S>
void pair_norm_forward(const Norm<A> &norm, const A *edge, const int64_t *reverse, S *out,
                       A *inverse, int64_t n_edges, int64_t d) {
    for_rows(n_edges, 2 * d, [&](int64_t begin, int64_t end) {
        std::vector<A> both(2 * d);
        for (int64_t e = begin; e < end; e++) {
            gather_pair(edge, reverse, e, d, both.data());
            norm.row(both.data(), out + 2 * e * d, inverse + e, 2 * d);
        }
    });
}

// edge += its own half of `both` [n, 2 d] and the other half of its reverse's
template <typename A>
void add_both_ways(const A *both, const int64_t *reverse, A *edge, int64_t n_edges, int64_t d) {
    for_rows(n_edges, 2 * d, [&](int64_t begin, int64_t end) {
        for (int64_t e = begin; e < end; e++) {
            const A *own = both + 2 * e * d, *other = both + 2 * reverse[e] * d + d;
#pragma GCC ivdep
            for (int64_t k = 0; k < d; k++) edge[e * d + k] += own[k] + other[k];
        }
    });
}

// of_edge += what both rows of each edge get; scratch is [n, 2 d]
template <typename A, typename S>
void pair_norm_backward(const Norm<A> &norm, const S *of_out, const S *out, const A *inverse,
                        const int64_t *reverse, A *scratch, A *of_edge, int64_t n_edges,
                        int64_t d) {
    for_rows(n_edges, 2 * d, [&](int64_t begin, int64_t end) {
#pragma GCC ivdep
        for (int64_t k = 2 * begin * d; k < 2 * end * d; k++) scratch[k] = 0;
        for (int64_t e = begin; e < end; e++)
            norm.backward_row(of_out + 2 * e * d, out + 2 * e * d, inverse[e],
                              scratch + 2 * e * d, 2 * d);
    });
    add_both_ways(scratch, reverse, of_edge, n_edges, d);
}

// message = (message + edge of the reverse) / 2
template <typename A>
void average_with_reverse(A *message, const A *edge, const int64_t *reverse, int64_t n_edges,
                          int64_t d) {
    for_rows(n_edges, d, [&](int64_t begin, int64_t end) {
        for (int64_t e = begin; e < end; e++) {
            const A *other = edge + reverse[e] * d;
#pragma GCC ivdep
            for (int64_t k = 0; k < d; k++)
                message[e * d + k] = A(0.5) * (message[e * d + k] + other[k]);
        }
    });
}

// Last linear layer with one output: values = silu(x + bias) . weight.
template <typename A, typename S>
void last_layer(const S *x, const A *bias, const A *weight, A *values, int64_t n_rows,
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

// Adds what one readout layer says to the energies, and the gradient in the factors.
template <typename A>
void add_values(const A *of_node, const A *of_edge, A node_bias, A edge_bias,
                const int64_t *starts, const A *factors, const A *scale, A *energies,
                A *of_factors, int64_t n_atoms) {
    for (int64_t i = 0; i < n_atoms; i++) {
        A sum = of_node[i] + node_bias;
#pragma GCC ivdep
        for (int64_t k = starts[i]; k < starts[i + 1]; k++) {
            of_factors[k] += (of_edge[k] + edge_bias) * scale[i];
            sum += (of_edge[k] + edge_bias) * factors[k];
        }
        energies[i] += sum * scale[i];
    }
}

// x becomes its own gradient for a gradient `of_values` per row
template <typename A, typename S>
void last_layer_backward(const A *of_values, S *x, const A *bias, const A *weight,
                         int64_t n_rows, int64_t d) {
    for_rows(n_rows, 4 * d, [&](int64_t begin, int64_t end) {
        for (int64_t row = begin; row < end; row++) {
#pragma GCC ivdep
            for (int64_t k = 0; k < d; k++) {
                A slope = silu_slope(A(widen(x[row * d + k])) + bias[k]);
                x[row * d + k] = narrow<S>(of_values[row] * weight[k] * slope);
            }
        }
    });
}

}  // namespace pet_calc::engine
