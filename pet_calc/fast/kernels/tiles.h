// Parts of a product of matrices that stay in registers from the first term to the last.

#pragma once

#include "registers.h"

namespace pet_calc::fast {

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

// out [R, N * W] = the sum of the terms, or that added to it
template <int64_t W, int64_t R, int64_t N, bool adds, typename A>
inline void sum_terms(const Terms<A> &terms, A *out, int64_t stride) {
    using V = Vector<A, W>;
    V sum[R][N] = {};
    for (int64_t k = 0; k < terms.count; k++) {
        const A *right = terms.right + k * terms.right_step;
        V vectors[N];
#pragma GCC unroll 2
        for (int64_t v = 0; v < N; v++)
            vectors[v] = *reinterpret_cast<const V *>(right + v * W);
#pragma GCC unroll 12
        for (int64_t r = 0; r < R; r++) {
            A factor = terms.left[r * terms.row_step + k * terms.term_step];
#pragma GCC unroll 2
            for (int64_t v = 0; v < N; v++) sum[r][v] += factor * vectors[v];
        }
    }
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

}  // namespace pet_calc::fast
