// What a network is evaluated for, and what comes out.

#pragma once

#include "border.h"
#include "constants.h"
#include "weights.h"

#include <algorithm>
#include <string>
#include <vector>

namespace pet_calc::engine {

// The structures, as edges.
struct Input {
    Tensor species;                  // [n_atoms] int64, species index
    Tensor kinds;                    // [n_edges] int64, species index of the neighbour
    Tensor reverse;                  // [n_edges] int64; see `border`
    Tensor first_edge;               // [n_atoms + 1] int64, first edge of each atom
    Tensor geometry;                 // [n_edges, 4], vector and length
    Tensor factors;                  // [n_edges], cutoff factors
    Tensor scale;                    // [n_atoms], of each atom's energy
    c10::optional<Tensor> addition;  // [n_atoms, d_node], to the node tokens
    // Where other ranks have reverses, those are rows from n_edges on; null if there are none.
    Border *border = nullptr;
};

struct Output {
    Tensor energies;       // [n_atoms]
    Tensor grad_geometry;  // [n_edges, 4], of the summed energies
    Tensor grad_factors;   // [n_edges]
    Tensor features;       // [n_atoms, n_features], unscaled; not defined if nobody asked
};

// ---- Checks of what a caller gives, once per call: loops trust it.

inline void check_indices(const std::string &name, const Tensor &x, int64_t end) {
    const int64_t *index = x.data_ptr<int64_t>();
    int64_t n_wrong = 0;
    for (int64_t k = 0; k < x.size(0); k++) n_wrong += index[k] < 0 || index[k] >= end;
    TORCH_CHECK(n_wrong == 0, "engine: ", name, ": ", n_wrong, " of ", x.size(0),
                " indices are not from 0 to ", end - 1);
}

inline void check_atoms(const Network &network, const Tensor &species, const Tensor &scale,
                        const c10::optional<Tensor> &addition) {
    const int64_t n_atoms = species.numel();
    check_tensor("species", species, {n_atoms}, at::kLong);
    check_indices("species", species, network.n_species());
    check_tensor("scale", scale, {n_atoms}, network.real);
    if (!addition.has_value()) return;
    // strides are its own business: every atom of a system has the same row
    const std::vector<int64_t> sizes{n_atoms, network.d_node};
    TORCH_CHECK(addition->sizes() == sizes, "engine: addition: expected the size ", sizes, ", got ",
                addition->sizes());
}

// of pairs, sorted by centre; see Edges
inline void check_pairs(const Network &network, int64_t n_centers, int64_t n_atoms,
                        int64_t n_crossings, const Tensor &centers, const Tensor &neighbors,
                        const Tensor &reverse, const Tensor &vectors) {
    const int64_t n_pairs = centers.numel();
    check_tensor("centers", centers, {n_pairs}, at::kLong);
    check_tensor("neighbors", neighbors, {n_pairs}, at::kLong);
    check_tensor("reverse", reverse, {n_pairs}, at::kLong);
    check_tensor("vectors", vectors, {n_pairs, 3}, network.real);
    check_indices("centers", centers, n_centers);
    check_indices("neighbors", neighbors, n_atoms);
    check_indices("reverse", reverse, n_pairs + n_crossings);
    const int64_t *center = centers.data_ptr<int64_t>();
    TORCH_CHECK(std::is_sorted(center, center + n_pairs), "engine: centers: expected in order");
}

// of pairs whose reverses other ranks have
inline void check_crossings(const Crossings &crossings, const Tensor &reverse) {
    const int64_t n_pairs = reverse.numel(), n_crossings = crossings.rows.size();
    const std::vector<int64_t> &starts = crossings.starts;
    TORCH_CHECK(!starts.empty() && starts.front() == 0 && starts.back() == n_crossings &&
                    std::is_sorted(starts.begin(), starts.end()),
                "engine: crossings: expected the first of each neighbour, and the number of all");
    for (int64_t h = 0; h < n_crossings; h++) {
        const int64_t p = crossings.rows[h];
        TORCH_CHECK(p >= 0 && p < n_pairs && reverse.data_ptr<int64_t>()[p] == n_pairs + h,
                    "engine: crossings: pair ", p, " and its reverse do not fit");
    }
}

}  // namespace pet_calc::engine
