// Products of many rows with a matrix of few columns, a factor of LoRA.
//
// Eight columns of float fill half of a register, and each number of a row is read for them
// alone. So two neighbouring numbers are read at once, as the halves of one of 64 bits, and
// a register holds the sums over the even terms and over the odd ones side by side.

#pragma once

#include "pool.h"
#include "products.h"

#include <cstring>

namespace pet_calc::engine {

constexpr int64_t PAIR_LANES = REGISTER_BYTES / sizeof(int64_t);
using Floats = Lanes<float, 2 * PAIR_LANES>::type;
using Halves = Lanes<int64_t, PAIR_LANES>::type;
typedef int32_t Packed __attribute__((vector_size(PAIR_LANES * sizeof(int32_t))));

// two registers of sums a row, and rows as in other tiles
constexpr int64_t PAIR_PANEL = 2 * PAIR_LANES;

// [n_panels, rows / 2, PAIR_PANEL, 2] of a matrix [rows, columns] of float with an even
// number of rows, zero beyond its columns
inline Tensor lay_out_pairs(const Tensor &matrix) {
    int64_t n_rows = matrix.size(0), n_columns = matrix.size(1);
    int64_t down = matrix.stride(0), across = matrix.stride(1);
    int64_t n_panels = (n_columns + PAIR_PANEL - 1) / PAIR_PANEL;
    Tensor pairs = at::zeros({n_panels, n_rows / 2, PAIR_PANEL, 2}, matrix.options());
    const float *from = matrix.data_ptr<float>();
    float *to = pairs.data_ptr<float>();
    for (int64_t c = 0; c < n_columns; c++)
        for (int64_t k = 0; k < n_rows; k++)
            to[((c / PAIR_PANEL * (n_rows / 2) + k / 2) * PAIR_PANEL + c % PAIR_PANEL) * 2 +
               k % 2] = from[k * down + c * across];
    return pairs;
}

// out [R, n_columns] = R rows times N registers of a panel, of which n_columns are stored
template <int64_t R, int64_t N>
inline void shrink_tile(const float *rows, int64_t row_step, const float *panel, int64_t n_pairs,
                        int64_t n_columns, float *out, int64_t stride) {
    Floats sum[R][N] = {};
    add_terms(
        sum, n_pairs, [&](int64_t k) { return panel + k * 2 * PAIR_PANEL; },
        [&](int64_t r, int64_t k) {
            int64_t both;
            std::memcpy(&both, rows + r * row_step + 2 * k, sizeof(both));
            return (Floats)(Halves{} + both);
        });
#pragma GCC unroll 12
    for (int64_t r = 0; r < R; r++)
#pragma GCC unroll 2
        for (int64_t v = 0; v < N; v++) {
            // the other half of each pair, moved to the place of the first
            Floats total = sum[r][v] + (Floats)((Halves)sum[r][v] >> 32);
            Packed packed = __builtin_convertvector((Halves)total, Packed);
            int64_t count = std::min(PAIR_LANES, n_columns - v * PAIR_LANES);
            if (count == PAIR_LANES)
                std::memcpy(out + r * stride + v * PAIR_LANES, &packed, sizeof(packed));
            else
                std::memcpy(out + r * stride + v * PAIR_LANES, &packed, count * sizeof(float));
        }
}

// the same for a number of rows up to R
template <int64_t R, int64_t N>
inline void shrink_rows(const float *rows, int64_t row_step, const float *panel, int64_t n_pairs,
                        int64_t n_rows, int64_t n_columns, float *out, int64_t stride) {
    if constexpr (R > 0) {
        if (n_rows == R)
            shrink_tile<R, N>(rows, row_step, panel, n_pairs, n_columns, out, stride);
        else
            shrink_rows<R - 1, N>(rows, row_step, panel, n_pairs, n_rows, n_columns, out, stride);
    }
}

// out [n_rows, rank] = rows times a matrix [2 * n_pairs, rank] in pairs
inline void shrink_by_pairs(const float *rows, int64_t row_step, int64_t n_rows,
                            const float *matrix, int64_t n_pairs, int64_t rank, float *out) {
    for (int64_t r = 0; r < n_rows; r += TILE_ROWS) {
        fetch_rows(rows + (r + TILE_ROWS) * row_step, row_step, 2 * n_pairs);
        for (int64_t column = 0; column < rank; column += PAIR_PANEL) {
            int64_t n_columns = std::min(PAIR_PANEL, rank - column);
            auto shrink =
                n_columns > PAIR_LANES ? shrink_rows<TILE_ROWS, 2> : shrink_rows<TILE_ROWS, 1>;
            shrink(rows + r * row_step, row_step, matrix + column * n_pairs * 2, n_pairs,
                   std::min(TILE_ROWS, n_rows - r), n_columns, out + r * rank + column, rank);
        }
    }
}

// A factor of LoRA, [n_terms, r], laid out for products with many rows.
template <typename A>
class Shrinker {
  public:
    explicit Shrinker(const Tensor &factor)
        : n_terms_(factor.size(0)), rank_(factor.size(1)) {
        has_pairs_ = std::is_same_v<A, float> && n_terms_ % 2 == 0;
        laid_out_ = has_pairs_ ? lay_out_pairs(factor) : lay_out_panels<A>(factor);
    }

    // out [n_rows, r] = rows [n_rows, n_terms] times the factor, in this thread
    void shrink(const A *rows, int64_t row_step, int64_t n_rows, A *out) const {
        const A *matrix = laid_out_.data_ptr<A>();
        if constexpr (std::is_same_v<A, float>)
            if (has_pairs_)
                return shrink_by_pairs(rows, row_step, n_rows, matrix, n_terms_ / 2, rank_, out);
        multiply_part(rows, row_step, n_rows, matrix, n_terms_, 0, rank_, false, out, rank_);
    }

  private:
    int64_t n_terms_, rank_;
    bool has_pairs_;
    Tensor laid_out_;
};

// rows whose sums are a thread's, and those of them that stay in its second cache
constexpr int64_t PART_ROWS = 256, RUN_ROWS = 64;

// out [r, columns] += low [n, r] transposed times rows [n, columns], in this thread
template <typename A>
void add_outer(const A *low, int64_t rank, const A *rows, int64_t n_rows, int64_t n_columns,
               A *out) {
    constexpr int64_t W = REGISTER_BYTES / sizeof(A);
    int64_t whole = n_columns / W * W;
    Terms<A> terms{low, 1, rank, rows, n_columns, n_rows};
    multiply_block<W, true>(terms, rank, whole, out, n_columns);
    terms.right += whole;
    multiply_block<1, true>(terms, rank, n_columns - whole, out + whole, n_columns);
}

// The gradient in the factors of LoRA, y = x A^T B with A [r, in] and B [r, out], where it
// is asked for: added to grad_a [r, in] and grad_b [r, out]. The inputs, the gradients of
// the outputs and how both change are more than the caches hold: a run of their rows is
// read once for all of it.
template <typename A>
void add_factor_gradients(const Tensor &a, const Tensor &b, const Twin &x, const Twin &grad_y,
                          Tensor *grad_a, Tensor *grad_b) {
    int64_t n = x.value.size(0), rank = a.size(0), n_in = a.size(1), n_out = b.size(1);
    Shrinker<A> inward(a.t()), outward(b.t());
    int64_t n_parts = (n + PART_ROWS - 1) / PART_ROWS;
    // sums of the parts, in an order that no number of threads changes
    Tensor sums_a = at::zeros({n_parts, rank, n_in}, a.options());
    Tensor sums_b = at::zeros({n_parts, rank, n_out}, a.options());
    A *to_a = sums_a.template data_ptr<A>(), *to_b = sums_b.template data_ptr<A>();
    auto read = [](const Tensor &rows) { return rows.template data_ptr<A>(); };
    const A *value = read(x.value), *dot = read(x.dot);
    const A *grad = read(grad_y.value), *grad_dot = read(grad_y.dot);
    at::parallel_for(0, n_parts, 1, [&](int64_t begin, int64_t end) {
        std::vector<A> low(4 * RUN_ROWS * rank);
        A *low_value = low.data(), *low_dot = low_value + RUN_ROWS * rank;
        A *low_grad = low_dot + RUN_ROWS * rank, *low_grad_dot = low_grad + RUN_ROWS * rank;
        for (int64_t part = begin; part < end; part++) {
            A *out_a = to_a + part * rank * n_in, *out_b = to_b + part * rank * n_out;
            int64_t last = std::min(n, (part + 1) * PART_ROWS);
            for (int64_t k = part * PART_ROWS; k < last; k += RUN_ROWS) {
                int64_t count = std::min(RUN_ROWS, last - k);
                inward.shrink(value + k * n_in, n_in, count, low_value);
                inward.shrink(dot + k * n_in, n_in, count, low_dot);
                outward.shrink(grad + k * n_out, n_out, count, low_grad);
                outward.shrink(grad_dot + k * n_out, n_out, count, low_grad_dot);
                add_outer(low_grad_dot, rank, value + k * n_in, count, n_in, out_a);
                add_outer(low_grad, rank, dot + k * n_in, count, n_in, out_a);
                add_outer(low_value, rank, grad_dot + k * n_out, count, n_out, out_b);
                add_outer(low_dot, rank, grad + k * n_out, count, n_out, out_b);
            }
        }
    });
    if (grad_a) grad_a->add_(sums_a.sum(0));
    if (grad_b) grad_b->add_(sums_b.sum(0));
}

}  // namespace pet_calc::engine
