// Products of many rows with the small matrix of a layer.
//
// Libraries lay out both factors anew for each product. That pays for large matrices; with
// 64 columns it takes as long as the product. Here a layer's matrix is laid out once, in
// panels of as many columns as two registers hold, and rows are read where they are. A tile
// is a few rows times a panel: it stays in registers from the first term to the last.

#pragma once

#include "tiles.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>

#include <algorithm>

namespace pet_calc::engine {

using at::Tensor;

constexpr int64_t TILE_VECTORS = 2;
// with TILE_VECTORS of sums in each row, two for the panel and one for the row, these fill
// the registers: 32 with AVX-512, else 16
constexpr int64_t TILE_ROWS = REGISTER_BYTES == 64 ? 12 : 6;
template <typename A>
constexpr int64_t PANEL = TILE_VECTORS * REGISTER_BYTES / sizeof(A);

// what is read again and again has to stay in the first cache, of 32 kB and more
constexpr int64_t MOST_TERMS = 256;
constexpr int64_t BLOCK_BYTES = 24576;
// multiplications that are worth a thread
constexpr int64_t THREAD_WORK = 100000;

// [n_panels, rows, PANEL] of a matrix [rows, columns], zero beyond its columns
template <typename A>
Tensor lay_out_panels(const Tensor &matrix) {
    int64_t n_rows = matrix.size(0), n_columns = matrix.size(1);
    int64_t down = matrix.stride(0), across = matrix.stride(1);
    constexpr int64_t width = PANEL<A>;
    int64_t n_panels = (n_columns + width - 1) / width;
    Tensor panels = at::zeros({n_panels, n_rows, width}, matrix.options());
    const A *from = matrix.data_ptr<A>();
    A *to = panels.data_ptr<A>();
    int64_t grain = 1 + THREAD_WORK / (n_rows * width);
    at::parallel_for(0, n_panels, grain, [&](int64_t begin, int64_t end) {
        for (int64_t q = begin; q < end; q++) {
            A *panel = to + q * n_rows * width;
            int64_t used = std::min(width, n_columns - q * width);
            for (int64_t start = 0; start < n_rows; start += width)  // squares stay in the cache
                for (int64_t i = start; i < std::min(n_rows, start + width); i++)
                    for (int64_t j = 0; j < used; j++)
                        panel[i * width + j] = from[i * down + (q * width + j) * across];
        }
    });
    return panels;
}

// Panels of matrices that products in registers are there for; else undefined.
inline Tensor lay_out_panels(const Tensor &matrix) {
    if (matrix.scalar_type() == at::kFloat) return lay_out_panels<float>(matrix);
    if (matrix.scalar_type() == at::kDouble) return lay_out_panels<double>(matrix);
    return Tensor();
}

// out [n_rows, n_columns] = rows [n_rows, n_terms] times as many columns of a panel, or
// that added to it
template <typename A>
void sum_tile(const A *rows, int64_t row_step, const A *panel, int64_t n_terms, int64_t n_rows,
              int64_t n_columns, bool adds, A *out, int64_t stride) {
    constexpr int64_t W = REGISTER_BYTES / sizeof(A), N = TILE_VECTORS, R = TILE_ROWS;
    Terms<A> terms{rows, row_step, 1, panel, PANEL<A>, n_terms};
    if (n_columns >= PANEL<A>) {
        if (adds)
            sum_rows<W, R, N, true>(terms, n_rows, out, stride);
        else
            sum_rows<W, R, N, false>(terms, n_rows, out, stride);
        return;
    }
    A whole[TILE_ROWS * PANEL<A>];
    if (n_columns > W)
        sum_rows<W, R, N, false>(terms, n_rows, whole, PANEL<A>);
    else
        sum_rows<W, R, 1, false>(terms, n_rows, whole, PANEL<A>);
    for (int64_t r = 0; r < n_rows; r++)
        for (int64_t j = 0; j < n_columns; j++)
            out[r * stride + j] = (adds ? out[r * stride + j] : A(0)) + whole[r * PANEL<A> + j];
}

// Asks the memory for the rows of a tile before they are needed. Their places are too many
// at once for the processor to foresee; beyond the last row it is harmless.
template <typename A>
inline void fetch_rows(const A *rows, int64_t row_step, int64_t n_terms) {
    for (int64_t r = 0; r < TILE_ROWS; r++)
        for (int64_t k = 0; k < n_terms; k += 64 / int64_t(sizeof(A)))
            __builtin_prefetch(rows + r * row_step + k);
}

// out [n_rows, columns] = rows times a matrix [n_terms, columns] in panels, or that added,
// of some of its columns, from the first of a panel on
template <typename A>
void multiply_part(const A *rows, int64_t row_step, int64_t n_rows, const A *panels,
                   int64_t n_terms, int64_t first_column, int64_t last_column, bool adds, A *out,
                   int64_t stride) {
    int64_t most = std::min(n_terms, MOST_TERMS);
    int64_t rows_at_once =
        std::max<int64_t>(1, BLOCK_BYTES / (most * TILE_ROWS * int64_t(sizeof(A)))) * TILE_ROWS;
    for (int64_t begin = 0; begin < n_rows; begin += rows_at_once)
        for (int64_t k = 0; k < n_terms; k += MOST_TERMS)
            for (int64_t c = first_column; c < last_column; c += PANEL<A>) {
                const A *panel = panels + c * n_terms + k * PANEL<A>;
                int64_t count = std::min(MOST_TERMS, n_terms - k);
                int64_t end = std::min(n_rows, begin + rows_at_once);
                for (int64_t r = begin; r < end; r += TILE_ROWS) {
                    const A *from = rows + r * row_step + k;
                    if (c == first_column) fetch_rows(from + TILE_ROWS * row_step, row_step, count);
                    sum_tile(from, row_step, panel, count, std::min(TILE_ROWS, end - r),
                             last_column - c, adds || k > 0, out + r * stride + c, stride);
                }
            }
}

// out [n, columns] = x [n, rows] times the matrix [rows, columns] in panels, or that added
template <typename A>
void multiply_panels(const Tensor &x, const Tensor &panels, const Tensor &out, bool adds) {
    int64_t n = x.size(0), n_terms = x.size(1), n_columns = out.size(1);
    if (n == 0) return;
    int64_t x_stride = x.stride(0), out_stride = out.stride(0);
    const A *from = x.data_ptr<A>(), *matrix = panels.data_ptr<A>();
    A *to = out.data_ptr<A>();
    auto fill = [&](int64_t first, int64_t last, int64_t first_column, int64_t last_column) {
        multiply_part(from + first * x_stride, x_stride, last - first, matrix, n_terms,
                      first_column, last_column, adds, to + first * out_stride, out_stride);
    };
    int64_t n_tiles = (n + TILE_ROWS - 1) / TILE_ROWS, n_panels = panels.size(0);
    if (n_tiles >= n_panels) {
        int64_t grain = 1 + THREAD_WORK / (TILE_ROWS * n_terms * n_columns);
        at::parallel_for(0, n_tiles, grain, [&](int64_t begin, int64_t end) {
            fill(begin * TILE_ROWS, std::min(n, end * TILE_ROWS), 0, n_columns);
        });
    } else {
        // few rows: the matrix is most of what is read, so each thread takes a part of it
        int64_t grain = 1 + THREAD_WORK / (PANEL<A> * n_terms * n);
        at::parallel_for(0, n_panels, grain, [&](int64_t begin, int64_t end) {
            fill(0, n, begin * PANEL<A>, std::min(n_columns, end * PANEL<A>));
        });
    }
}

// out [r, columns] += left [n, r] transposed times right [n, columns]: a gradient in weights
template <typename A>
void add_product_of_columns(const Tensor &left, const Tensor &right, Tensor &out) {
    constexpr int64_t W = REGISTER_BYTES / sizeof(A), RUN = 64;
    int64_t n = left.size(0), r = left.size(1), n_columns = right.size(1);
    if (n == 0) return;
    if (n_columns % W != 0) {
        out.addmm_(left.t(), right);
        return;
    }
    const A *from = left.data_ptr<A>(), *with = right.data_ptr<A>();
    A *to = out.data_ptr<A>();
    int64_t grain = 1 + THREAD_WORK / (W * n * r);
    at::parallel_for(0, n_columns / W, grain, [&](int64_t begin, int64_t end) {
        for (int64_t k = 0; k < n; k += RUN) {
            Terms<A> terms{from + k * r,        1, r, with + k * n_columns + begin * W, n_columns,
                           std::min(RUN, n - k)};
            multiply_block<W, true>(terms, r, (end - begin) * W, to + begin * W, n_columns);
        }
    });
}

}  // namespace pet_calc::engine
