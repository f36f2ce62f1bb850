// Which pairs are edges, with their cutoff factors, and the derivatives of both. The
// formulas are those of pet_calc/model/cutoff.py, where they are explained.

#pragma once

#include "constants.h"
#include "exchange.h"
#include "rows.h"

namespace pet_calc::engine {

constexpr double PI = 3.14159265358979323846;

struct Cutoff {
    double radius, width, n_wanted, adaptive_width;
    bool is_bump, is_adaptive;
};

// value and slope, per unit of s, of the bump that falls from 1 to 0 while s grows to 1
template <typename A>
inline void bump(A s, A *value, A *slope) {
    bool is_inside = s > A(BUMP_MARGIN) && s < A(1.0 - BUMP_MARGIN);
    s = s < A(BUMP_MARGIN) ? A(BUMP_MARGIN) : s;
    s = s > A(1.0 - BUMP_MARGIN) ? A(1.0 - BUMP_MARGIN) : s;
    A sine = std::sin(A(PI) * s), step = std::tanh(std::cos(A(PI) * s) / sine);
    *value = A(0.5) * (A(1) + step);
    *slope = is_inside ? -A(0.5 * PI) * (A(1) - step * step) / (sine * sine) : A(0);
}

template <typename A>
struct Selection {
    std::vector<int64_t> kept, reverse, first_edge;
    Crossings crossings;       // of edges, where other ranks have reverses
    std::vector<A> distances;  // [n_pairs], then those of reverses on other ranks
    std::vector<A> slopes;     // [n_edges], of the factor in the distance
    std::vector<A> trial_radii, count_slopes, radii;
    std::vector<char> is_clamped;
};

// soft number of neighbours within `radius`, with the term that makes it unique
template <typename A>
inline void count(const Cutoff &cutoff, const std::vector<A> &distances, A radius, A *number,
                  A *slope) {
    A width = cutoff.adaptive_width, n_full = 0, partial = 0, rise = 0;
    for (A distance : distances) {
        A s = (distance - (radius - width)) / width;
        if (s >= A(1)) continue;
        if (s <= A(0)) {
            n_full += 1;
            continue;
        }
        A value, fall;
        bump(s, &value, &fall);
        partial += value;
        rise -= fall;
    }
    A x = radius / A(cutoff.radius), n = cutoff.n_wanted;
    *number = n_full + partial + n * x * x * x;
    *slope = rise / width + A(3) * n / A(cutoff.radius) * x * x;
}

template <typename A>
void solve_radii(const Cutoff &cutoff, const int64_t *starts, int64_t n_atoms,
                 Selection<A> &selection) {
    selection.trial_radii.resize(n_atoms);
    selection.count_slopes.resize(n_atoms);
    selection.radii.resize(n_atoms);
    selection.is_clamped.resize(n_atoms);
    // far below the rounding of the refined radius, whose error is the square of this
    const A solved = cutoff.radius * (sizeof(A) == 8 ? SOLVED_FLOAT64 : SOLVED_FLOAT32);
    at::parallel_for(0, n_atoms, 8, [&](int64_t begin, int64_t end) {
        std::vector<A> near;
        for (int64_t i = begin; i < end; i++) {
            near.clear();
            for (int64_t p = starts[i]; p < starts[i + 1]; p++)
                if (selection.distances[p] < A(cutoff.radius))
                    near.push_back(selection.distances[p]);
            A low = 0, high = cutoff.radius, radius = A(0.5) * high, number, slope;
            A last_step = high;
            for (int k = 0; k < N_SOLVER_STEPS; k++) {
                count(cutoff, near, radius, &number, &slope);
                A excess = number - A(cutoff.n_wanted);
                (excess <= 0 ? low : high) = radius;
                A newton = radius - excess / std::max(slope, A(MIN_SLOPE));
                A step = std::abs(newton - radius);
                bool is_good = newton >= low && newton <= high;
                bool is_solved = is_good && step <= solved;
                if (k >= N_FREE_SOLVER_STEPS) is_good = is_good && step <= A(0.5) * last_step;
                A next = is_good || is_solved ? newton : A(0.5) * (low + high);
                last_step = std::abs(next - radius);
                radius = next;
                if (is_solved || high - low <= solved) break;
            }
            count(cutoff, near, radius, &number, &slope);
            slope = std::max(slope, A(MIN_SLOPE));
            A refined = radius - (number - A(cutoff.n_wanted)) / slope;
            A lowest = A(cutoff.radius * MIN_ADAPTIVE_FRACTION), highest = A(cutoff.radius);
            selection.is_clamped[i] = refined < lowest || refined > highest;
            selection.radii[i] = std::min(std::max(refined, lowest), highest);
            selection.trial_radii[i] = radius;
            selection.count_slopes[i] = slope;
        }
    });
}

template <typename A>
void measure_distances(const A *vectors, int64_t n_pairs, Selection<A> &selection) {
    selection.distances.resize(n_pairs);
    for_rows(n_pairs, 3, [&](int64_t begin, int64_t end) {
        for (int64_t p = begin; p < end; p++) {
            const A *v = vectors + 3 * p;
            selection.distances[p] =
                std::sqrt(v[0] * v[0] + v[1] * v[1] + v[2] * v[2] + A(SMALL_SQUARE));
        }
    });
}

// Of the pairs at the border those that became edges; in `new_index` what is behind them.
inline void select_crossings(const Crossings &pairs, int64_t n_pairs, int64_t n_edges,
                             std::vector<int64_t> &new_index, Crossings &edges) {
    edges.rows.clear();
    edges.starts.assign(1, 0);
    for (size_t r = 0; r + 1 < pairs.starts.size(); r++) {
        for (int64_t h = pairs.starts[r]; h < pairs.starts[r + 1]; h++) {
            const int64_t edge = new_index[pairs.rows[h]];
            if (edge < 0) continue;
            new_index[n_pairs + h] = n_edges + edges.rows.size();
            edges.rows.push_back(edge);
        }
        edges.starts.push_back(edges.rows.size());
    }
}

// Fills `kept`, `reverse`, `first_edge` and, from those of pairs, `crossings`.
template <typename A>
void choose_edges(const Cutoff &cutoff, const int64_t *neighbors, const int64_t *reverse,
                  const int64_t *starts, int64_t n_atoms, const Crossings &crossings,
                  Selection<A> &selection) {
    int64_t n_pairs = starts[n_atoms], n_crossings = crossings.rows.size();
    std::vector<int64_t> new_index(n_pairs + n_crossings, -1);
    selection.kept.clear();
    selection.first_edge.assign(n_atoms + 1, 0);
    for (int64_t i = 0; i < n_atoms; i++) {
        for (int64_t p = starts[i]; p < starts[i + 1]; p++) {
            // the sum is the same seen from i and from j, so edges stay paired
            A reach = cutoff.is_adaptive
                          ? A(0.5) * (selection.radii[i] + selection.radii[neighbors[p]])
                          : A(cutoff.radius);
            if (selection.distances[p] > reach) continue;
            A other = selection.distances[reverse[p]];
            if (other > reach) {
                // by rounding, which may differ between the two; other ranks' are checked before
                TORCH_CHECK(
                    reverse[p] >= n_pairs || other <= reach + A(sizeof(A) == 8 ? 1e-9 : 1e-4),
                    "pair i->j is within reach, but j->i is not");
                continue;
            }
            new_index[p] = selection.kept.size();
            selection.kept.push_back(p);
        }
        selection.first_edge[i + 1] = selection.kept.size();
    }
    select_crossings(crossings, n_pairs, selection.kept.size(), new_index, selection.crossings);
    selection.reverse.resize(selection.kept.size());
    for (size_t e = 0; e < selection.kept.size(); e++) {
        selection.reverse[e] = new_index[reverse[selection.kept[e]]];
        TORCH_CHECK(selection.reverse[e] >= 0,
                    "the list of pairs is not one of pairs and their reverses");
    }
}

// Fills everything but `slopes`. `starts` [n_atoms + 1] is the first pair of each atom.
template <typename A>
void select(const Cutoff &cutoff, const A *vectors, const int64_t *neighbors,
            const int64_t *reverse, const int64_t *starts, int64_t n_atoms,
            Selection<A> &selection) {
    measure_distances(vectors, starts[n_atoms], selection);
    if (cutoff.is_adaptive) solve_radii(cutoff, starts, n_atoms, selection);
    choose_edges(cutoff, neighbors, reverse, starts, n_atoms, {}, selection);
}

// geometry [n_edges, 4] holds vector and length
template <typename A>
void measure(const Cutoff &cutoff, const A *vectors, const int64_t *neighbors, int64_t n_atoms,
             Selection<A> &selection, A *geometry, A *factors) {
    selection.slopes.resize(selection.kept.size());
    for_rows(n_atoms, 512, [&](int64_t begin, int64_t end) {
        for (int64_t i = begin; i < end; i++) {
            for (int64_t e = selection.first_edge[i]; e < selection.first_edge[i + 1]; e++) {
                int64_t p = selection.kept[e];
                A distance = selection.distances[p];
                for (int64_t k = 0; k < 3; k++) geometry[4 * e + k] = vectors[3 * p + k];
                geometry[4 * e + 3] = distance;
                A reach = cutoff.is_adaptive
                              ? A(0.5) * (selection.radii[i] + selection.radii[neighbors[p]])
                              : A(cutoff.radius);
                A width = cutoff.width, s = (distance - (reach - width)) / width, slope;
                if (cutoff.is_bump) {
                    bump(s, factors + e, &slope);
                } else {
                    bool is_inside = s >= A(0) && s <= A(1);
                    s = s < A(0) ? A(0) : (s > A(1) ? A(1) : s);
                    factors[e] = A(0.5) * (A(1) + std::cos(A(PI) * s));
                    slope = is_inside ? -A(0.5 * PI) * std::sin(A(PI) * s) : A(0);
                }
                selection.slopes[e] = slope / width;
            }
        }
    });
}

// gradient [n_pairs, 3] of the vectors from those of geometry and factors
template <typename A>
void select_backward(const Cutoff &cutoff, const A *vectors, const int64_t *starts, int64_t n_atoms,
                     const Selection<A> &selection, const A *grad_geometry, const A *grad_factors,
                     A *gradient) {
    int64_t n_pairs = starts[n_atoms];
    std::vector<A> grad_distances(n_pairs, A(0));
    for_rows(n_atoms, 512, [&](int64_t begin, int64_t end) {
        for (int64_t i = begin; i < end; i++) {
            for (int64_t e = selection.first_edge[i]; e < selection.first_edge[i + 1]; e++)
                grad_distances[selection.kept[e]] =
                    grad_geometry[4 * e + 3] + grad_factors[e] * selection.slopes[e];
            if (!cutoff.is_adaptive || selection.is_clamped[i]) continue;
            // a larger radius i moves the cutoff of the edges i->j and j->i outwards
            A grad_radius = 0;
            for (int64_t e = selection.first_edge[i]; e < selection.first_edge[i + 1]; e++) {
                int64_t r = selection.reverse[e];
                grad_radius -= A(0.5) * (grad_factors[e] * selection.slopes[e] +
                                         grad_factors[r] * selection.slopes[r]);
            }
            A width = cutoff.adaptive_width, factor = -grad_radius / selection.count_slopes[i];
            for (int64_t p = starts[i]; p < starts[i + 1]; p++) {
                A s = (selection.distances[p] - (selection.trial_radii[i] - width)) / width;
                if (s <= A(0) || s >= A(1)) continue;
                A value, slope;
                bump(s, &value, &slope);
                grad_distances[p] += factor * slope / width;
            }
        }
    });
    for_rows(n_pairs, 3, [&](int64_t begin, int64_t end) {
        for (int64_t p = begin; p < end; p++) {
            A factor = grad_distances[p] / selection.distances[p];
            for (int64_t k = 0; k < 3; k++) gradient[3 * p + k] = factor * vectors[3 * p + k];
        }
    });
    for (size_t e = 0; e < selection.kept.size(); e++)
        for (int64_t k = 0; k < 3; k++)
            gradient[3 * selection.kept[e] + k] += grad_geometry[4 * e + k];
}

// How geometry and factors change when the vectors change by vectors_dot [n_pairs, 3]
template <typename A>
void select_forward_dot(const Cutoff &cutoff, const A *vectors, const A *vectors_dot,
                        const int64_t *neighbors, const int64_t *starts, int64_t n_atoms,
                        const Selection<A> &selection, A *geometry_dot, A *factors_dot) {
    int64_t n_pairs = starts[n_atoms];
    std::vector<A> distances_dot(n_pairs), radii_dot(n_atoms, A(0));
    for_rows(n_atoms, 512, [&](int64_t begin, int64_t end) {
        for (int64_t p = starts[begin]; p < starts[end]; p++) {
            const A *v = vectors + 3 * p, *w = vectors_dot + 3 * p;
            distances_dot[p] = (v[0] * w[0] + v[1] * w[1] + v[2] * w[2]) / selection.distances[p];
        }
        if (!cutoff.is_adaptive) return;
        A width = cutoff.adaptive_width;
        for (int64_t i = begin; i < end; i++) {
            if (selection.is_clamped[i]) continue;
            A count_dot = 0;
            for (int64_t p = starts[i]; p < starts[i + 1]; p++) {
                A s = (selection.distances[p] - (selection.trial_radii[i] - width)) / width;
                if (s <= A(0) || s >= A(1)) continue;
                A value, slope;
                bump(s, &value, &slope);
                count_dot += slope / width * distances_dot[p];
            }
            radii_dot[i] = -count_dot / selection.count_slopes[i];
        }
    });
    for_rows(n_atoms, 64, [&](int64_t begin, int64_t end) {
        for (int64_t i = begin; i < end; i++) {
            for (int64_t e = selection.first_edge[i]; e < selection.first_edge[i + 1]; e++) {
                int64_t p = selection.kept[e];
                for (int64_t k = 0; k < 3; k++) geometry_dot[4 * e + k] = vectors_dot[3 * p + k];
                geometry_dot[4 * e + 3] = distances_dot[p];
                A reach_dot = A(0.5) * (radii_dot[i] + radii_dot[neighbors[p]]);
                factors_dot[e] = selection.slopes[e] * (distances_dot[p] - reach_dot);
            }
        }
    });
}

}  // namespace pet_calc::engine
