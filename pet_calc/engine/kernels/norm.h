// Norms of rows, and their derivatives along a direction.
//
// `grad_x` is the gradient of the summed energies in x, `x_dot` how x changes along the
// direction (training.h says which), `grad_x_dot` how the gradient changes. So `forward_dot`
// is the derivative of `forward` along the direction, `backward_dot` that of `backward`.

#pragma once

#include "border.h"
#include "rows.h"

namespace pet_calc::engine {

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

    template <typename S, typename G>
    inline void backward_row(const G *grad_out, const S *out, A inverse, A *gradient,
                             int64_t d) const {
        A along = 0, mean = 0;
#pragma GCC ivdep
        for (int64_t k = 0; k < d; k++) along += widen(grad_out[k]) * widen(out[k]);
        along /= d;
        if (subtracts_mean) {
#pragma GCC ivdep
            for (int64_t k = 0; k < d; k++) mean += widen(grad_out[k]);
            mean /= d;
        }
#pragma GCC ivdep
        for (int64_t k = 0; k < d; k++)
            gradient[k] += inverse * (widen(grad_out[k]) - mean - widen(out[k]) * along);
    }

    // gradient += derivative of the norm, applied to the gradient of `out`
    template <typename S>
    void backward(const S *grad_out, const S *out, const A *inverse, A *gradient, int64_t n_rows,
                  int64_t d) const {
        for_rows(n_rows, d, [&](int64_t begin, int64_t end) {
            for (int64_t r = begin; r < end; r++)
                backward_row(grad_out + r * d, out + r * d, inverse[r], gradient + r * d, d);
        });
    }

    // out_dot = (x_dot - mean - out * along) * inverse, where along = mean of out * x_dot
    inline void row_dot(const A *x_dot, const A *out, A inverse, A *out_dot, A *along,
                        int64_t d) const {
        A mean = 0, sum = 0;
        if (subtracts_mean) {
#pragma GCC ivdep
            for (int64_t k = 0; k < d; k++) mean += x_dot[k];
            mean /= d;
        }
#pragma GCC ivdep
        for (int64_t k = 0; k < d; k++) sum += out[k] * (x_dot[k] - mean);
        sum /= d;
#pragma GCC ivdep
        for (int64_t k = 0; k < d; k++) out_dot[k] = inverse * (x_dot[k] - mean - out[k] * sum);
        *along = sum;
    }

    void forward_dot(const A *x_dot, const A *out, const A *inverse, A *out_dot, A *along,
                     int64_t n_rows, int64_t d) const {
        for_rows(n_rows, d, [&](int64_t begin, int64_t end) {
            for (int64_t r = begin; r < end; r++)
                row_dot(x_dot + r * d, out + r * d, inverse[r], out_dot + r * d, along + r, d);
        });
    }

    // gradient += how the addition of `backward_row` changes
    inline void backward_row_dot(const A *grad_out, const A *grad_out_dot, const A *out,
                                 const A *out_dot, A inverse, A along, A *gradient,
                                 int64_t d) const {
        A m = 0, m_dot = 0, mean = 0, mean_dot = 0;
#pragma GCC ivdep
        for (int64_t k = 0; k < d; k++) {
            m += out[k] * grad_out[k];
            m_dot += out_dot[k] * grad_out[k] + out[k] * grad_out_dot[k];
        }
        m /= d;
        m_dot /= d;
        if (subtracts_mean) {
#pragma GCC ivdep
            for (int64_t k = 0; k < d; k++) {
                mean += grad_out[k];
                mean_dot += grad_out_dot[k];
            }
            mean /= d;
            mean_dot /= d;
        }
        A inverse_dot = -inverse * inverse * along;
#pragma GCC ivdep
        for (int64_t k = 0; k < d; k++)
            gradient[k] +=
                inverse * (grad_out_dot[k] - mean_dot - out_dot[k] * m - out[k] * m_dot) +
                inverse_dot * (grad_out[k] - mean - out[k] * m);
    }

    void backward_dot(const A *grad_out, const A *grad_out_dot, const A *out, const A *out_dot,
                      const A *inverse, const A *along, A *gradient, int64_t n_rows,
                      int64_t d) const {
        for_rows(n_rows, 2 * d, [&](int64_t begin, int64_t end) {
            for (int64_t r = begin; r < end; r++)
                backward_row_dot(grad_out + r * d, grad_out_dot + r * d, out + r * d,
                                 out_dot + r * d, inverse[r], along[r], gradient + r * d, d);
        });
    }
};

// Norm of each edge's row next to that of its reverse: out is [n_edges, 2 d].
template <typename A>
struct PairNorm {
    Norm<A> norm;
    const int64_t *reverse;    // [n_edges]
    A *both;                   // [n_edges, 2 d], scratch of the backward passes
    Border *border = nullptr;  // as in Input; then `both` and `edge` have its rows as well

    // reverses on other ranks are on their way
    template <typename S>
    void forward(const A *edge, S *out, A *inverse, int64_t n_edges, int64_t d) const {
        for_edges(n_edges, d, [&](int64_t e, A *row) {
            gather(edge, e, d, row);
            norm.row(row, out + 2 * e * d, inverse + e, 2 * d);
        });
    }

    // grad_edge += what both rows of each edge get
    template <typename S>
    void backward(const S *grad_out, const S *out, const A *inverse, A *grad_edge, int64_t n_edges,
                  int64_t d) const {
        for_rows(n_edges, 2 * d, [&](int64_t begin, int64_t end) {
            clear(begin, end, d);
            for (int64_t e = begin; e < end; e++)
                norm.backward_row(grad_out + 2 * e * d, out + 2 * e * d, inverse[e],
                                  both + 2 * e * d, 2 * d);
        });
        add_both_ways(grad_edge, n_edges, d);
    }

    void forward_dot(const A *edge_dot, const A *out, const A *inverse, A *out_dot, A *along,
                     int64_t n_edges, int64_t d) const {
        for_rows(n_edges, 2 * d, [&](int64_t begin, int64_t end) {
            std::vector<A> row(2 * d);
            for (int64_t e = begin; e < end; e++) {
                gather(edge_dot, e, d, row.data());
                norm.row_dot(row.data(), out + 2 * e * d, inverse[e], out_dot + 2 * e * d,
                             along + e, 2 * d);
            }
        });
    }

    void backward_dot(const A *grad_out, const A *grad_out_dot, const A *out, const A *out_dot,
                      const A *inverse, const A *along, A *grad_edge, int64_t n_edges,
                      int64_t d) const {
        for_rows(n_edges, 4 * d, [&](int64_t begin, int64_t end) {
            clear(begin, end, d);
            for (int64_t e = begin; e < end; e++) {
                int64_t start = 2 * e * d;
                norm.backward_row_dot(grad_out + start, grad_out_dot + start, out + start,
                                      out_dot + start, inverse[e], along[e], both + start, 2 * d);
            }
        });
        add_both_ways(grad_edge, n_edges, d);
    }

  private:
    void gather(const A *edge, int64_t e, int64_t d, A *row) const {
        const A *own = edge + e * d, *other = edge + reverse[e] * d;
#pragma GCC ivdep
        for (int64_t k = 0; k < d; k++) row[k] = own[k];
#pragma GCC ivdep
        for (int64_t k = 0; k < d; k++) row[d + k] = other[k];
    }

    void clear(int64_t begin, int64_t end, int64_t d) const {
#pragma GCC ivdep
        for (int64_t k = 2 * begin * d; k < 2 * end * d; k++) both[k] = 0;
    }

    // grad_edge += its own half of `both` and the other half of its reverse's
    void add_both_ways(A *grad_edge, int64_t n_edges, int64_t d) const {
        if (border) border->start(both, n_edges, 2 * d, d, d);
        for_edges(n_edges, d, [&](int64_t e, A *) {
            const A *own = both + 2 * e * d, *other = both + 2 * reverse[e] * d + d;
#pragma GCC ivdep
            for (int64_t k = 0; k < d; k++) grad_edge[e * d + k] += own[k] + other[k];
        });
    }

    // Calls `work` with each edge and scratch [2 d]; with those that need another rank's rows
    // last, when these are there.
    template <typename F>
    void for_edges(int64_t n_edges, int64_t d, F work) const {
        for_rows(n_edges, 2 * d, [&](int64_t begin, int64_t end) {
            std::vector<A> row(2 * d);
            for (int64_t e = begin; e < end; e++)
                if (reverse[e] < n_edges) work(e, row.data());
        });
        if (!border) return;
        border->finish();
        for_rows(border->size(), 2 * d, [&](int64_t begin, int64_t end) {
            std::vector<A> row(2 * d);
            for (int64_t h = begin; h < end; h++) work(border->rows()[h], row.data());
        });
    }
};

}  // namespace pet_calc::engine
