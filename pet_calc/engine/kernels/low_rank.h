// Products of many rows with a matrix of few columns, a factor of LoRA.
//
// Eight columns of float fill half of a register, and each number of a row is read for them
// alone. So two neighbouring numbers are read at once, as the halves of one of 64 bits, and
// a register holds the sums over the even terms and over the odd ones side by side.

#pragma once

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

// out [n, r] = x [n, n_terms] times the matrix [n_terms, r] in pairs
inline void shrink_by_pairs(const Tensor &x, const Tensor &pairs, const Tensor &out) {
    int64_t n = x.size(0), n_pairs = pairs.size(1), rank = out.size(1);
    int64_t n_panels = pairs.size(0), step = x.stride(0);
    const float *from = x.data_ptr<float>(), *matrix = pairs.data_ptr<float>();
    float *to = out.data_ptr<float>();
    int64_t n_tiles = (n + TILE_ROWS - 1) / TILE_ROWS;
    int64_t grain = 1 + THREAD_WORK / (TILE_ROWS * 2 * n_pairs * rank);
    at::parallel_for(0, n_tiles, grain, [&](int64_t begin, int64_t end) {
        for (int64_t tile = begin; tile < end; tile++)
            for (int64_t p = 0; p < n_panels; p++) {
                int64_t first = tile * TILE_ROWS, n_rows = std::min(TILE_ROWS, n - first);
                int64_t column = p * PAIR_PANEL, n_columns = std::min(PAIR_PANEL, rank - column);
                auto shrink =
                    n_columns > PAIR_LANES ? shrink_rows<TILE_ROWS, 2> : shrink_rows<TILE_ROWS, 1>;
                shrink(from + first * step, step, matrix + p * n_pairs * 2 * PAIR_PANEL, n_pairs,
                       n_rows, n_columns, to + first * rank + column, rank);
            }
    });
}

// A factor of LoRA, [n_terms, r], laid out for products with many rows.
template <typename A>
class Shrinker {
  public:
    explicit Shrinker(const Tensor &factor) {
        has_pairs_ = std::is_same_v<A, float> && factor.size(0) % 2 == 0;
        laid_out_ = has_pairs_ ? lay_out_pairs(factor) : lay_out_panels<A>(factor);
    }

    // out [n, r] = x [n, n_terms] times the factor
    void shrink(const Tensor &x, const Tensor &out) const {
        if (has_pairs_)
            shrink_by_pairs(x, laid_out_, out);
        else
            multiply_panels<A>(x, laid_out_, out, false);
    }

  private:
    bool has_pairs_;
    Tensor laid_out_;
};

}  // namespace pet_calc::engine
