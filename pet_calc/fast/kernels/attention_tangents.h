// Second derivatives of attention.h; names as in row_tangents.h.

#pragma once

#include "attention.h"

namespace pet_calc::fast {

// load_part without a bias, for what changes
template <int64_t D, typename A>
inline void load_part_dot(const Blocks<A> &blocks, const A *mixed_dot, int64_t atom, int64_t head,
                          int64_t part, A *out) {
    int64_t d = blocks.n_heads * D, offset = part * d + head * D;
    int64_t size = blocks.size(atom);
    for (int64_t t = 0; t < size; t++) {
        const A *row = mixed_dot + blocks.row(atom, t) * 3 * d + offset;
        for (int64_t k = 0; k < D; k++) out[t * D + k] = row[k];
    }
}

// rows of one head out of `rows` [n_tokens, d]
template <int64_t D, typename A>
inline void load_head(const Blocks<A> &blocks, const A *rows, int64_t atom, int64_t head, A *out) {
    int64_t d = blocks.n_heads * D, size = blocks.size(atom);
    for (int64_t t = 0; t < size; t++) {
        const A *row = rows + blocks.row(atom, t) * d + head * D;
        for (int64_t k = 0; k < D; k++) out[t * D + k] = row[k];
    }
}

// out [D] += combine of the same arguments
template <int64_t D, typename A>
inline void combine_more(const A *factors, int64_t stride, const A *rows, int64_t n_rows, A *out) {
    A more[D];
    combine<D>(factors, stride, rows, n_rows, more);
    for (int64_t k = 0; k < D; k++) out[k] += more[k];
}

// weights_dot and out_dot; logs_dot [n_edges] is how the log factors change
template <int64_t D, typename A>
void attend_dot(const Blocks<A> &blocks, const A *mixed, const A *bias, const A *mixed_dot,
                const A *logs_dot, const A *weights, A *weights_dot, A *out_dot) {
    int64_t d = blocks.n_heads * D;
    at::parallel_for(0, blocks.n_atoms, 1, [&](int64_t begin, int64_t end) {
        std::vector<A> scratch;
        for (int64_t atom = begin; atom < end; atom++) {
            int64_t size = blocks.size(atom), padded = pad(size);
            scratch.resize(5 * size * D + 2 * D * padded + 2 * padded);
            A *query = scratch.data(), *rows = query + size * D, *value = rows + size * D;
            A *query_dot = value + size * D, *value_dot = query_dot + size * D;
            A *turned = value_dot + size * D, *turned_dot = turned + D * padded;
            A *__restrict__ mask = turned_dot + D * padded, *__restrict__ other = mask + padded;
            for (int64_t t = 0; t < padded; t++) mask[t] = 0;
            for (int64_t t = 1; t < size; t++) mask[t] = logs_dot[blocks.first[atom] + t - 1];
            for (int64_t head = 0; head < blocks.n_heads; head++) {
                load_part<D>(blocks, mixed, bias, atom, head, 1, rows);
                transpose<D>(rows, turned, size, padded);
                load_part_dot<D>(blocks, mixed_dot, atom, head, 1, rows);
                transpose<D>(rows, turned_dot, size, padded);
                load_part<D>(blocks, mixed, bias, atom, head, 0, query);
                load_part<D>(blocks, mixed, bias, atom, head, 2, value);
                load_part_dot<D>(blocks, mixed_dot, atom, head, 0, query_dot);
                load_part_dot<D>(blocks, mixed_dot, atom, head, 2, value_dot);
                int64_t start = blocks.weights[atom] + head * size * padded;
                for (int64_t a = 0; a < size; a++) {
                    const A *__restrict__ p = weights + start + a * padded;
                    A *__restrict__ p_dot = weights_dot + start + a * padded;
                    multiply_turned<D>(query + a * D, turned_dot, padded, p_dot);
                    multiply_turned<D>(query_dot + a * D, turned, padded, other);
                    A along = 0;
                    for (int64_t b = 0; b < padded; b++) {
                        p_dot[b] = (p_dot[b] + other[b]) * blocks.scale + mask[b];
                        along += p[b] * p_dot[b];
                    }
                    for (int64_t b = 0; b < padded; b++) p_dot[b] = p[b] * (p_dot[b] - along);
                    A *o = out_dot + blocks.row(atom, a) * d + head * D;
                    A total[D];
                    combine<D>(p_dot, 1, value, size, total);
                    combine_more<D>(p, 1, value_dot, size, total);
                    for (int64_t k = 0; k < D; k++) o[k] = total[k];
                }
            }
        }
    });
}

// of_mixed_dot from of_out and of_out_dot
template <int64_t D, typename A>
void attend_back_dot(const Blocks<A> &blocks, const A *of_out, const A *of_out_dot,
                     const A *mixed, const A *bias, const A *mixed_dot, const A *weights,
                     const A *weights_dot, A *of_mixed_dot) {
    int64_t d = blocks.n_heads * D;
    at::parallel_for(0, blocks.n_atoms, 1, [&](int64_t begin, int64_t end) {
        std::vector<A> scratch;
        for (int64_t atom = begin; atom < end; atom++) {
            int64_t size = blocks.size(atom), padded = pad(size);
            scratch.resize(7 * size * D + 2 * D * padded + (2 * size + 1) * padded);
            A *query = scratch.data(), *key = query + size * D, *rows = key + size * D;
            A *query_dot = rows + size * D, *key_dot = query_dot + size * D;
            A *from = key_dot + size * D, *from_dot = from + size * D;
            A *turned = from_dot + size * D, *turned_dot = turned + D * padded;
            A *of_logits = turned_dot + D * padded, *of_logits_dot = of_logits + size * padded;
            A *__restrict__ other = of_logits_dot + size * padded;
            for (int64_t head = 0; head < blocks.n_heads; head++) {
                load_part<D>(blocks, mixed, bias, atom, head, 2, rows);
                transpose<D>(rows, turned, size, padded);
                load_part_dot<D>(blocks, mixed_dot, atom, head, 2, rows);
                transpose<D>(rows, turned_dot, size, padded);
                load_part<D>(blocks, mixed, bias, atom, head, 0, query);
                load_part<D>(blocks, mixed, bias, atom, head, 1, key);
                load_part_dot<D>(blocks, mixed_dot, atom, head, 0, query_dot);
                load_part_dot<D>(blocks, mixed_dot, atom, head, 1, key_dot);
                load_head<D>(blocks, of_out, atom, head, from);
                load_head<D>(blocks, of_out_dot, atom, head, from_dot);
                int64_t start = blocks.weights[atom] + head * size * padded;
                const A *p = weights + start, *p_dot = weights_dot + start;
                for (int64_t a = 0; a < size; a++) {
                    const A *__restrict__ weight = p + a * padded;
                    const A *__restrict__ weight_dot = p_dot + a * padded;
                    A *__restrict__ of = of_logits + a * padded;
                    A *__restrict__ of_dot = of_logits_dot + a * padded;
                    multiply_turned<D>(from + a * D, turned, padded, of);
                    multiply_turned<D>(from + a * D, turned_dot, padded, of_dot);
                    multiply_turned<D>(from_dot + a * D, turned, padded, other);
                    A along = 0, along_dot = 0;
                    for (int64_t b = 0; b < padded; b++) {
                        of_dot[b] += other[b];
                        along += weight[b] * of[b];
                        along_dot += weight_dot[b] * of[b] + weight[b] * of_dot[b];
                    }
                    for (int64_t b = 0; b < padded; b++) {
                        A excess = of[b] - along;
                        of_dot[b] = (weight_dot[b] * excess +
                                     weight[b] * (of_dot[b] - along_dot)) *
                                    blocks.scale;
                        of[b] = weight[b] * excess * blocks.scale;
                    }
                }
                for (int64_t t = 0; t < size; t++) {
                    A *row = of_mixed_dot + blocks.row(atom, t) * 3 * d + head * D;
                    A total[3][D];
                    combine<D>(of_logits_dot + t * padded, 1, key, size, total[0]);
                    combine_more<D>(of_logits + t * padded, 1, key_dot, size, total[0]);
                    combine<D>(of_logits_dot + t, padded, query, size, total[1]);
                    combine_more<D>(of_logits + t, padded, query_dot, size, total[1]);
                    combine<D>(p_dot + t, padded, from, size, total[2]);
                    combine_more<D>(p + t, padded, from_dot, size, total[2]);
                    for (int64_t part = 0; part < 3; part++)
                        for (int64_t k = 0; k < D; k++) row[part * d + k] = total[part][k];
                }
            }
        }
    });
}

}  // namespace pet_calc::fast
