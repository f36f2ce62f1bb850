// Attention inside blocks of one atom and its edges, without padding.
//
// Rows of `qkv` [n_tokens, 3 d] hold query, key and value of each token: atoms first,
// then edges sorted by atom. A block is atom i and the edges first_edge[i] to first_edge[i + 1].

#pragma once

#include "rows.h"
#include "tiles.h"

#include <c10/util/Exception.h>

#include <type_traits>

namespace pet_calc::engine {

template <typename A>
struct Blocks {
    int64_t n_atoms;
    int64_t n_heads;
    int64_t d_head;
    A scale;
    const int64_t *first_edge;     // [n_atoms + 1], first edge of each atom
    const int64_t *weight_starts;  // [n_atoms + 1], where each block's weights start
    const A *log_factors;          // [n_edges]

    int64_t size(int64_t atom) const { return first_edge[atom + 1] - first_edge[atom] + 1; }
    int64_t row(int64_t atom, int64_t token) const {
        return token == 0 ? atom : n_atoms + first_edge[atom] + token - 1;
    }
};

// rows of numbers per key are padded to full registers, so that loops over keys need no tail
constexpr int64_t LANES = REGISTER_BYTES / sizeof(float);
inline int64_t pad(int64_t n) { return (n + LANES - 1) / LANES * LANES; }

// calls `work` with the width of an attention head as a constant
template <typename F>
void with_head_width(int64_t width, F work) {
    switch (width) {
        case 4: return work(std::integral_constant<int64_t, 4>());
#ifndef PET_CALC_ONE_HEAD_WIDTH  // which tests with sanitizers ask for
        case 8: return work(std::integral_constant<int64_t, 8>());
        case 12: return work(std::integral_constant<int64_t, 12>());
        case 16: return work(std::integral_constant<int64_t, 16>());
        case 24: return work(std::integral_constant<int64_t, 24>());
        case 32: return work(std::integral_constant<int64_t, 32>());
        case 48: return work(std::integral_constant<int64_t, 48>());
        case 64: return work(std::integral_constant<int64_t, 64>());
        case 80: return work(std::integral_constant<int64_t, 80>());
        case 96: return work(std::integral_constant<int64_t, 96>());
        case 128: return work(std::integral_constant<int64_t, 128>());
#endif
    }
    TORCH_CHECK(false, "no kernel for attention heads of width ", width);
}

// starts [n_atoms + 1] of the attention weights of each atom's block
inline std::vector<int64_t> find_weight_starts(const int64_t *first_edge, int64_t n_atoms,
                                               int64_t n_heads) {
    std::vector<int64_t> starts(n_atoms + 1, 0);
    for (int64_t i = 0; i < n_atoms; i++) {
        int64_t size = first_edge[i + 1] - first_edge[i] + 1;
        starts[i + 1] = starts[i] + size * pad(size) * n_heads;
    }
    return starts;
}

// out [n_parts, size, D] = a block's rows of `from` [n_tokens, n_parts * D], plus a bias
// [n_parts * D] where there is one. Whole rows at a time: memory is fast in order only.
template <int64_t D, typename A, typename S>
inline void load_block(const Blocks<A> &blocks, int64_t atom, int64_t n_parts, const S *from,
                       const A *bias, A *out) {
    using V = Vector<A, choose_width<A>(D)>;
    constexpr int64_t W = sizeof(V) / sizeof(A);
    int64_t size = blocks.size(atom);
    for (int64_t t = 0; t < size; t++) {
        const S *row = from + blocks.row(atom, t) * n_parts * D;
        for (int64_t part = 0; part < n_parts; part++) {
            A *to = out + (part * size + t) * D;
            if constexpr (std::is_same_v<A, S>)
                for (int64_t k = 0; k < D; k += W)
                    *reinterpret_cast<V *>(to + k) =
                        *reinterpret_cast<const V *>(row + part * D + k);
            else
                for (int64_t k = 0; k < D; k++) to[k] = widen(row[part * D + k]);
            if (bias == nullptr) continue;
            for (int64_t k = 0; k < D; k += W)
                *reinterpret_cast<V *>(to + k) += *reinterpret_cast<const V *>(bias + part * D + k);
        }
    }
}

// the way back, without a bias
template <int64_t D, typename A, typename S>
inline void store_block(const Blocks<A> &blocks, int64_t atom, int64_t n_parts, const A *in,
                        S *to) {
    using V = Vector<A, choose_width<A>(D)>;
    constexpr int64_t W = sizeof(V) / sizeof(A);
    int64_t size = blocks.size(atom);
    for (int64_t t = 0; t < size; t++) {
        S *row = to + blocks.row(atom, t) * n_parts * D;
        for (int64_t part = 0; part < n_parts; part++) {
            const A *from = in + (part * size + t) * D;
            if constexpr (std::is_same_v<A, S>)
                for (int64_t k = 0; k < D; k += W)
                    *reinterpret_cast<V *>(row + part * D + k) =
                        *reinterpret_cast<const V *>(from + k);
            else
                for (int64_t k = 0; k < D; k++) row[part * D + k] = narrow<S>(from[k]);
        }
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

// out [size, padded] = rows [size, D] . turned [D, padded]
template <int64_t D, bool adds = false, typename A>
inline void multiply_turned(const A *rows, const A *turned, int64_t size, int64_t padded, A *out) {
    multiply_block<choose_width<A>(LANES), adds>(Terms<A>{rows, D, 1, turned, padded, D}, size,
                                                 padded, out, padded);
}

// out [size, D] = factors [size, padded] . rows [size, D]
template <int64_t D, bool adds = false, typename A>
inline void combine(const A *factors, const A *rows, int64_t size, int64_t padded, A *out) {
    multiply_block<choose_width<A>(D), adds>(Terms<A>{factors, padded, 1, rows, D, size}, size, D,
                                             out, D);
}

// the same with the factors transposed
template <int64_t D, bool adds = false, typename A>
inline void combine_down(const A *factors, const A *rows, int64_t size, int64_t padded, A *out) {
    multiply_block<choose_width<A>(D), adds>(Terms<A>{factors, 1, padded, rows, D, size}, size, D,
                                             out, D);
}

// weights [n_heads, size, padded] of each block are kept for the backward pass
template <int64_t D, typename A, typename S>
void attend_forward(const Blocks<A> &blocks, const S *qkv, const A *bias, A *weights, S *out) {
    int64_t n_heads = blocks.n_heads;
    at::parallel_for(0, blocks.n_atoms, 1, [&](int64_t begin, int64_t end) {
        std::vector<A> scratch;
        for (int64_t atom = begin; atom < end; atom++) {
            int64_t size = blocks.size(atom), padded = pad(size), part = size * D;
            scratch.resize(3 * n_heads * part + D * padded + padded);
            A *loaded = scratch.data(), *turned = loaded + 3 * n_heads * part;
            A *__restrict__ mask = turned + D * padded;
            mask[0] = 0;
            for (int64_t t = 1; t < size; t++)
                mask[t] = blocks.log_factors[blocks.first_edge[atom] + t - 1];
            // finite, so that it survives fast arithmetic; its exponential is next to 0
            for (int64_t t = size; t < padded; t++) mask[t] = A(-1e30);
            load_block<D>(blocks, atom, 3 * n_heads, qkv, bias, loaded);
            for (int64_t head = 0; head < n_heads; head++) {
                A *query = loaded + head * part, *key = query + n_heads * part;
                const A *value = key + n_heads * part;
                A *kept = weights + blocks.weight_starts[atom] + head * size * padded;
                transpose<D>(key, turned, size, padded);
                multiply_turned<D>(query, turned, size, padded, kept);
                for (int64_t a = 0; a < size; a++) {
                    A *__restrict__ p = kept + a * padded;
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
                }
                combine<D>(kept, value, size, padded, query);
            }
            store_block<D>(blocks, atom, n_heads, loaded, out);
        }
    });
}

// grad_qkv = gradient of `qkv`; grad_logs [n_edges] += gradient of the log factors
template <int64_t D, typename A, typename S>
void attend_backward(const Blocks<A> &blocks, const S *grad_out, const S *qkv, const A *bias,
                     const A *weights, S *grad_qkv, A *grad_logs) {
    int64_t n_heads = blocks.n_heads;
    at::parallel_for(0, blocks.n_atoms, 1, [&](int64_t begin, int64_t end) {
        std::vector<A> scratch;
        for (int64_t atom = begin; atom < end; atom++) {
            int64_t size = blocks.size(atom), padded = pad(size), part = size * D;
            scratch.resize((4 * n_heads + 1) * part + (D + size + 1) * padded);
            A *loaded = scratch.data(), *loaded_grad = loaded + 3 * n_heads * part;
            A *grad_key = loaded_grad + n_heads * part, *turned = grad_key + part;
            A *grad_logits = turned + D * padded, *__restrict__ grad_mask =
                                                      grad_logits + size * padded;
            for (int64_t t = 0; t < padded; t++) grad_mask[t] = 0;
            load_block<D>(blocks, atom, 3 * n_heads, qkv, bias, loaded);
            load_block<D, A>(blocks, atom, n_heads, grad_out, nullptr, loaded_grad);
            for (int64_t head = 0; head < n_heads; head++) {
                A *query = loaded + head * part, *key = query + n_heads * part;
                A *value = key + n_heads * part;
                const A *head_grad = loaded_grad + head * part;
                const A *p = weights + blocks.weight_starts[atom] + head * size * padded;
                transpose<D>(value, turned, size, padded);
                multiply_turned<D>(head_grad, turned, size, padded, grad_logits);
                for (int64_t a = 0; a < size; a++) {
                    const A *__restrict__ weight = p + a * padded;
                    A *__restrict__ grad_logit = grad_logits + a * padded;
                    A along = 0;
                    for (int64_t b = 0; b < padded; b++) along += weight[b] * grad_logit[b];
                    for (int64_t b = 0; b < padded; b++) {
                        A slope = weight[b] * (grad_logit[b] - along);
                        grad_mask[b] += slope;
                        grad_logit[b] = slope * blocks.scale;
                    }
                }
                // gradients take the place of what they are in
                combine_down<D>(grad_logits, query, size, padded, grad_key);
                combine<D>(grad_logits, key, size, padded, query);
                std::copy(grad_key, grad_key + part, key);
                combine_down<D>(p, head_grad, size, padded, value);
            }
            store_block<D>(blocks, atom, 3 * n_heads, loaded, grad_qkv);
            for (int64_t t = 1; t < size; t++)
                grad_logs[blocks.first_edge[atom] + t - 1] += grad_mask[t];
        }
    });
}

}  // namespace pet_calc::engine
