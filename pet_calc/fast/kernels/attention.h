// Attention inside blocks of one atom and its edges, without padding.
//
// Rows of `mixed` [n_tokens, 3 d] hold query, key and value of each token: atoms first,
// then edges sorted by atom. A block is atom i and the edges first[i] to first[i + 1].

#pragma once

#include "registers.h"
#include "rows.h"

#include <limits>

namespace pet_calc::fast {

template <typename A>
struct Blocks {
    int64_t n_atoms;
    int64_t n_heads;
    int64_t d_head;
    A scale;
    const int64_t *first;     // [n_atoms + 1], first edge of each atom
    const int64_t *weights;   // [n_atoms + 1], where each block's weights start
    const A *log_factors;     // [n_edges]

    int64_t size(int64_t atom) const { return first[atom + 1] - first[atom] + 1; }
    int64_t row(int64_t atom, int64_t token) const {
        return token == 0 ? atom : n_atoms + first[atom] + token - 1;
    }
};

// scratch rows are padded to this many numbers, so that loops over keys need no tail
constexpr int64_t LANES = 16;
inline int64_t pad(int64_t n) { return (n + LANES - 1) / LANES * LANES; }

// rows of one part (0 query, 1 key, 2 value) of a head, plus bias, into out [size, D]
template <int64_t D, typename A, typename S>
inline void load_part(const Blocks<A> &blocks, const S *mixed, const A *bias, int64_t atom,
                      int64_t head, int64_t part, A *out) {
    int64_t d = blocks.n_heads * D, offset = part * d + head * D;
    int64_t size = blocks.size(atom);
    for (int64_t t = 0; t < size; t++) {
        const S *row = mixed + blocks.row(atom, t) * 3 * d + offset;
        for (int64_t k = 0; k < D; k++) out[t * D + k] = widen(row[k]) + bias[offset + k];
    }
}

// out [D, padded] = in [size, D] transposed, zero beyond size
template <int64_t D, typename A>
inline void transpose(const A *in, A *out, int64_t size, int64_t padded) {
    for (int64_t k = 0; k < D; k++) {
        for (int64_t t = 0; t < size; t++) out[k * padded + t] = in[t * D + k];
        for (int64_t t = size; t < padded; t++) out[k * padded + t] = 0;
    }
}

// sums that are added to in turn, since each addition waits for the last one of its own
constexpr int64_t N_SUMS = 4;

// out [D] = sum over rows of factors[stride * t] * rows[t, D]
template <int64_t D, typename A>
inline void combine(const A *factors, int64_t stride, const A *rows, int64_t n_rows, A *out) {
    constexpr int64_t W = choose_width<A>(D), N = D / W;
    constexpr int64_t M = N >= N_SUMS ? 1 : N_SUMS / N;
    using V = typename Lanes<A, W>::type;
    V sum[M][N] = {};
    int64_t t = 0;
    for (; t + M <= n_rows; t += M) {
#pragma GCC unroll 4
        for (int64_t m = 0; m < M; m++) {
            A factor = factors[stride * (t + m)];
            const V *row = reinterpret_cast<const V *>(rows + (t + m) * D);
#pragma GCC unroll 8
            for (int64_t k = 0; k < N; k++) sum[m][k] += factor * row[k];
        }
    }
    for (; t < n_rows; t++) {
        A factor = factors[stride * t];
        const V *row = reinterpret_cast<const V *>(rows + t * D);
#pragma GCC unroll 8
        for (int64_t k = 0; k < N; k++) sum[0][k] += factor * row[k];
    }
#pragma GCC unroll 8
    for (int64_t k = 0; k < N; k++) {
        V total = sum[0][k];
#pragma GCC unroll 4
        for (int64_t m = 1; m < M; m++) total += sum[m][k];
        reinterpret_cast<V *>(out)[k] = total;
    }
}

// out [padded] = row [D] . turned [D, padded]
template <int64_t D, typename A>
inline void multiply_turned(const A *row, const A *turned, int64_t padded, A *out) {
    constexpr int64_t W = choose_width<A>(LANES);
    using V = typename Lanes<A, W>::type;
    static_assert(D % N_SUMS == 0);
    for (int64_t start = 0; start < padded; start += W) {
        V sum[N_SUMS] = {};
#pragma GCC unroll 8
        for (int64_t k = 0; k < D; k += N_SUMS) {
#pragma GCC unroll 4
            for (int64_t m = 0; m < N_SUMS; m++)
                sum[m] += row[k + m] *
                          *reinterpret_cast<const V *>(turned + (k + m) * padded + start);
        }
        *reinterpret_cast<V *>(out + start) = (sum[0] + sum[1]) + (sum[2] + sum[3]);
    }
}

// weights [n_heads, size, padded] of each block are kept for the backward pass
template <int64_t D, typename A, typename S>
void attend(const Blocks<A> &blocks, const S *mixed, const A *bias, A *weights, S *out) {
    int64_t d = blocks.n_heads * D;
    at::parallel_for(0, blocks.n_atoms, 1, [&](int64_t begin, int64_t end) {
        std::vector<A> scratch;
        for (int64_t atom = begin; atom < end; atom++) {
            int64_t size = blocks.size(atom), padded = pad(size);
            scratch.resize(3 * size * D + D * padded + padded);
            A *query = scratch.data(), *key = query + size * D, *value = key + size * D;
            A *turned = value + size * D, *__restrict__ mask = turned + D * padded;
            mask[0] = 0;
            for (int64_t t = 1; t < size; t++)
                mask[t] = blocks.log_factors[blocks.first[atom] + t - 1];
            // finite, so that it survives fast arithmetic; its exponential is next to 0
            for (int64_t t = size; t < padded; t++) mask[t] = A(-1e30);
            A *kept = weights + blocks.weights[atom];
            for (int64_t head = 0; head < blocks.n_heads; head++) {
                load_part<D>(blocks, mixed, bias, atom, head, 0, query);
                load_part<D>(blocks, mixed, bias, atom, head, 1, key);
                load_part<D>(blocks, mixed, bias, atom, head, 2, value);
                transpose<D>(key, turned, size, padded);
                for (int64_t a = 0; a < size; a++) {
                    A *__restrict__ p = kept + (head * size + a) * padded;
                    multiply_turned<D>(query + a * D, turned, padded, p);
                    A largest = A(-1e30);
                    for (int64_t b = 0; b < padded; b++) {
                        p[b] = p[b] * blocks.scale + mask[b];
                        largest = p[b] > largest ? p[b] : largest;
                    }
                    A sum = 0;
                    for (int64_t b = 0; b < padded; b++) {
                        p[b] = std::exp(std::max(p[b] - largest, -MOST_EXPONENT<A>));
                        sum += p[b];
                    }
                    A inverse = A(1) / sum;
                    for (int64_t b = 0; b < padded; b++) p[b] *= inverse;
                    A total[D];
                    combine<D>(p, 1, value, size, total);
                    S *o = out + blocks.row(atom, a) * d + head * D;
                    for (int64_t k = 0; k < D; k++) o[k] = narrow<S>(total[k]);
                }
            }
        }
    });
}

// of_mixed = gradient of `mixed`; of_logs [n_edges] += gradient of the log factors
template <int64_t D, typename A, typename S>
void attend_backward(const Blocks<A> &blocks, const S *of_out, const S *mixed, const A *bias,
                     const A *weights, S *of_mixed, A *of_logs) {
    int64_t d = blocks.n_heads * D;
    at::parallel_for(0, blocks.n_atoms, 1, [&](int64_t begin, int64_t end) {
        std::vector<A> scratch;
        for (int64_t atom = begin; atom < end; atom++) {
            int64_t size = blocks.size(atom), padded = pad(size);
            scratch.resize(4 * size * D + D * padded + (size + 1) * padded);
            A *query = scratch.data(), *key = query + size * D, *value = key + size * D;
            A *from = value + size * D, *turned = from + size * D;
            A *of_logits = turned + D * padded, *__restrict__ of_mask = of_logits + size * padded;
            for (int64_t t = 0; t < padded; t++) of_mask[t] = 0;
            const A *kept = weights + blocks.weights[atom];
            for (int64_t head = 0; head < blocks.n_heads; head++) {
                load_part<D>(blocks, mixed, bias, atom, head, 0, query);
                load_part<D>(blocks, mixed, bias, atom, head, 1, key);
                load_part<D>(blocks, mixed, bias, atom, head, 2, value);
                transpose<D>(value, turned, size, padded);
                for (int64_t t = 0; t < size; t++) {
                    const S *row = of_out + blocks.row(atom, t) * d + head * D;
                    for (int64_t k = 0; k < D; k++) from[t * D + k] = widen(row[k]);
                }
                const A *p = kept + head * size * padded;
                for (int64_t a = 0; a < size; a++) {
                    const A *__restrict__ weight = p + a * padded;
                    A *__restrict__ of_logit = of_logits + a * padded;
                    multiply_turned<D>(from + a * D, turned, padded, of_logit);
                    A along = 0;
                    for (int64_t b = 0; b < padded; b++) along += weight[b] * of_logit[b];
                    for (int64_t b = 0; b < padded; b++) {
                        A slope = weight[b] * (of_logit[b] - along);
                        of_mask[b] += slope;
                        of_logit[b] = slope * blocks.scale;
                    }
                }
                for (int64_t t = 0; t < size; t++) {
                    S *row = of_mixed + blocks.row(atom, t) * 3 * d + head * D;
                    A total[3][D];
                    combine<D>(of_logits + t * padded, 1, key, size, total[0]);
                    combine<D>(of_logits + t, padded, query, size, total[1]);
                    combine<D>(p + t, padded, from, size, total[2]);
                    for (int64_t part = 0; part < 3; part++)
                        for (int64_t k = 0; k < D; k++)
                            row[part * d + k] = narrow<S>(total[part][k]);
                }
            }
            for (int64_t t = 1; t < size; t++)
                of_logs[blocks.first[atom] + t - 1] += of_mask[t];
        }
    });
}

}  // namespace pet_calc::fast
