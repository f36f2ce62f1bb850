// Second derivatives of attention.h; names as in norm.h.

#pragma once

#include "attention.h"

namespace pet_calc::engine {

// weights_dot and out_dot; logs_dot [n_edges] is how the log factors change
template <int64_t D, typename A>
void attend_forward_dot(const Blocks<A> &blocks, const A *qkv, const A *bias, const A *qkv_dot,
                        const A *logs_dot, const A *weights, A *weights_dot, A *out_dot) {
    int64_t n_heads = blocks.n_heads;
    at::parallel_for(0, blocks.n_atoms, 1, [&](int64_t begin, int64_t end) {
        std::vector<A> scratch;
        for (int64_t atom = begin; atom < end; atom++) {
            int64_t size = blocks.size(atom), padded = pad(size), part = size * D;
            scratch.resize(6 * n_heads * part + (2 * D + 1) * padded);
            A *loaded = scratch.data(), *loaded_dot = loaded + 3 * n_heads * part;
            A *turned = loaded_dot + 3 * n_heads * part, *turned_dot = turned + D * padded;
            A *__restrict__ mask = turned_dot + D * padded;
            for (int64_t t = 0; t < padded; t++) mask[t] = 0;
            for (int64_t t = 1; t < size; t++) mask[t] = logs_dot[blocks.first_edge[atom] + t - 1];
            load_block<D>(blocks, atom, 3 * n_heads, qkv, bias, loaded);
            load_block<D, A>(blocks, atom, 3 * n_heads, qkv_dot, nullptr, loaded_dot);
            for (int64_t head = 0; head < n_heads; head++) {
                A *query = loaded + head * part, *query_dot = loaded_dot + head * part;
                const A *key = query + n_heads * part, *key_dot = query_dot + n_heads * part;
                const A *value = key + n_heads * part, *value_dot = key_dot + n_heads * part;
                int64_t start = blocks.weight_starts[atom] + head * size * padded;
                const A *kept = weights + start;
                A *kept_dot = weights_dot + start;
                transpose<D>(key, turned, size, padded);
                transpose<D>(key_dot, turned_dot, size, padded);
                multiply_turned<D>(query, turned_dot, size, padded, kept_dot);
                multiply_turned<D, true>(query_dot, turned, size, padded, kept_dot);
                for (int64_t a = 0; a < size; a++) {
                    const A *__restrict__ p = kept + a * padded;
                    A *__restrict__ p_dot = kept_dot + a * padded;
                    A along = 0;
                    for (int64_t b = 0; b < padded; b++) {
                        p_dot[b] = p_dot[b] * blocks.scale + mask[b];
                        along += p[b] * p_dot[b];
                    }
                    for (int64_t b = 0; b < padded; b++) p_dot[b] = p[b] * (p_dot[b] - along);
                }
                combine<D>(kept_dot, value, size, padded, query_dot);
                combine<D, true>(kept, value_dot, size, padded, query_dot);
            }
            store_block<D>(blocks, atom, n_heads, loaded_dot, out_dot);
        }
    });
}

// grad_qkv_dot from grad_out and grad_out_dot
template <int64_t D, typename A>
void attend_backward_dot(const Blocks<A> &blocks, const A *grad_out, const A *grad_out_dot,
                         const A *qkv, const A *bias, const A *qkv_dot, const A *weights,
                         const A *weights_dot, A *grad_qkv_dot) {
    int64_t n_heads = blocks.n_heads;
    at::parallel_for(0, blocks.n_atoms, 1, [&](int64_t begin, int64_t end) {
        std::vector<A> scratch;
        for (int64_t atom = begin; atom < end; atom++) {
            int64_t size = blocks.size(atom), padded = pad(size), part = size * D;
            scratch.resize((8 * n_heads + 1) * part + (2 * D + 2 * size) * padded);
            A *loaded = scratch.data(), *loaded_dot = loaded + 3 * n_heads * part;
            A *loaded_grad = loaded_dot + 3 * n_heads * part;
            A *loaded_grad_dot = loaded_grad + n_heads * part;
            A *grad_key_dot = loaded_grad_dot + n_heads * part;
            A *turned = grad_key_dot + part, *turned_dot = turned + D * padded;
            A *grad_logits = turned_dot + D * padded,
              *grad_logits_dot = grad_logits + size * padded;
            load_block<D>(blocks, atom, 3 * n_heads, qkv, bias, loaded);
            load_block<D, A>(blocks, atom, 3 * n_heads, qkv_dot, nullptr, loaded_dot);
            load_block<D, A>(blocks, atom, n_heads, grad_out, nullptr, loaded_grad);
            load_block<D, A>(blocks, atom, n_heads, grad_out_dot, nullptr, loaded_grad_dot);
            for (int64_t head = 0; head < n_heads; head++) {
                const A *query = loaded + head * part, *key = query + n_heads * part;
                const A *value = key + n_heads * part;
                A *query_dot = loaded_dot + head * part, *key_dot = query_dot + n_heads * part;
                A *value_dot = key_dot + n_heads * part;
                const A *head_grad = loaded_grad + head * part;
                const A *head_grad_dot = loaded_grad_dot + head * part;
                int64_t start = blocks.weight_starts[atom] + head * size * padded;
                const A *p = weights + start, *p_dot = weights_dot + start;
                transpose<D>(value, turned, size, padded);
                transpose<D>(value_dot, turned_dot, size, padded);
                multiply_turned<D>(head_grad, turned, size, padded, grad_logits);
                multiply_turned<D>(head_grad, turned_dot, size, padded, grad_logits_dot);
                multiply_turned<D, true>(head_grad_dot, turned, size, padded, grad_logits_dot);
                for (int64_t a = 0; a < size; a++) {
                    const A *__restrict__ weight = p + a * padded;
                    const A *__restrict__ weight_dot = p_dot + a * padded;
                    A *__restrict__ grad_logit = grad_logits + a * padded;
                    A *__restrict__ grad_logit_dot = grad_logits_dot + a * padded;
                    A along = 0, along_dot = 0;
                    for (int64_t b = 0; b < padded; b++) {
                        along += weight[b] * grad_logit[b];
                        along_dot += weight_dot[b] * grad_logit[b] + weight[b] * grad_logit_dot[b];
                    }
                    for (int64_t b = 0; b < padded; b++) {
                        A excess = grad_logit[b] - along;
                        grad_logit_dot[b] =
                            (weight_dot[b] * excess + weight[b] * (grad_logit_dot[b] - along_dot)) *
                            blocks.scale;
                        grad_logit[b] = weight[b] * excess * blocks.scale;
                    }
                }
                // gradients take the place of what they are in
                combine_down<D>(grad_logits_dot, query, size, padded, grad_key_dot);
                combine_down<D, true>(grad_logits, query_dot, size, padded, grad_key_dot);
                combine<D>(grad_logits_dot, key, size, padded, query_dot);
                combine<D, true>(grad_logits, key_dot, size, padded, query_dot);
                std::copy(grad_key_dot, grad_key_dot + part, key_dot);
                combine_down<D>(p_dot, head_grad, size, padded, value_dot);
                combine_down<D, true>(p, head_grad_dot, size, padded, value_dot);
            }
            store_block<D>(blocks, atom, 3 * n_heads, loaded_dot, grad_qkv_dot);
        }
    });
}

}  // namespace pet_calc::engine
