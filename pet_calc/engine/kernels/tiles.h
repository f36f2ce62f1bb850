// Parts of a product of matrices that stay in registers from the first term to the last.

#pragma once

#include "registers.h"

#include <algorithm>

namespace pet_calc::engine {

template <typename A, int64_t W>
using Vector = typename Lanes<A, W>::type;

// What a tile sums over: term k of row r is left[r * row_step + k * term_step] times the
// numbers from right[k * right_step] on.
template <typename A>
struct Terms {
    const A *left;
    int64_t row_step, term_step;
    const A *right;
    int64_t right_step;
    int64_t count;
};

// sum [R, N] += the terms; `right` is where term k of the N registers lies, `factor` is
// term k of row r, as a number or as a register of them
template <int64_t R, int64_t N, typename V, typename Right, typename Factor>
inline void add_terms(V (&sum)[R][N], int64_t count, Right right, Factor factor) {
    for (int64_t k = 0; k < count; k++) {
        const auto *from = right(k);
        constexpr int64_t W = sizeof(V) / sizeof(*from);
        V vectors[N];
#pragma GCC unroll 2
        for (int64_t v = 0; v < N; v++) vectors[v] = *reinterpret_cast<const V *>(from + v * W);
#pragma GCC unroll 12
        for (int64_t r = 0; r < R; r++) {
            auto number = factor(r, k);
#pragma GCC unroll 2
            for (int64_t v = 0; v < N; v++) sum[r][v] += number * vectors[v];
        }
    }
}

// out [R, N * W] = the sum of the terms, or that added to it
template <int64_t W, int64_t R, int64_t N, bool adds, typename A>
inline void sum_terms(const Terms<A> &terms, A *out, int64_t stride) {
    using V = Vector<A, W>;
    V sum[R][N] = {};
    add_terms(
        sum, terms.count, [&](int64_t k) { return terms.right + k * terms.right_step; },
        [&](int64_t r, int64_t k) { return terms.left[r * terms.row_step + k * terms.term_step]; });
#pragma GCC unroll 12
    for (int64_t r = 0; r < R; r++)
#pragma GCC unroll 2
        for (int64_t v = 0; v < N; v++) {
            V *place = reinterpret_cast<V *>(out + r * stride + v * W);
            if constexpr (adds)
                *place += sum[r][v];
            else
                *place = sum[r][v];
        }
}

// the same for a number of rows up to R
template <int64_t W, int64_t R, int64_t N, bool adds, typename A>
inline void sum_rows(const Terms<A> &terms, int64_t n_rows, A *out, int64_t stride) {
    if constexpr (R > 0) {
        if (n_rows == R)
            sum_terms<W, R, N, adds>(terms, out, stride);
        else
            sum_rows<W, R - 1, N, adds>(terms, n_rows, out, stride);
    }
}

// rows of a tile in small products
constexpr int64_t BLOCK_ROWS = REGISTER_BYTES == 64 ? 8 : 6;

// out [n_rows, n_columns] = the terms, or that added; n_columns is a multiple of W. Not
// inlined: one of each is there for all widths of heads.
template <int64_t W, bool adds, typename A>
__attribute__((noinline)) void multiply_block(const Terms<A> &terms, int64_t n_rows,
                                              int64_t n_columns, A *out, int64_t stride) {
    // rows in equal parts: few sums at once leave the processor waiting for each
    int64_t n_tiles = (n_rows + BLOCK_ROWS - 1) / BLOCK_ROWS;
    int64_t tile = n_tiles == 0 ? 1 : (n_rows + n_tiles - 1) / n_tiles;
    for (int64_t c = 0; c < n_columns;) {
        bool is_pair = c + 2 * W <= n_columns;
        for (int64_t r = 0; r < n_rows; r += tile) {
            Terms<A> part = terms;
            part.left += r * terms.row_step;
            part.right += c;
            int64_t n = std::min(tile, n_rows - r);
            A *to = out + r * stride + c;
            if (is_pair)
                sum_rows<W, BLOCK_ROWS, 2, adds>(part, n, to, stride);
            else
                sum_rows<W, BLOCK_ROWS, 1, adds>(part, n, to, stride);
        }
        c += is_pair ? 2 * W : W;
    }
}

}  // namespace pet_calc::engine
