// What a network is evaluated for, and what comes out.

#pragma once

#include "weights.h"

namespace pet_calc::engine {

constexpr double MIN_CUTOFF_FACTOR = 1e-15;  // of pet_calc/model/constants.py

// The structures, as edges.
struct Input {
    Tensor species;     // [n_atoms] int64, species index
    Tensor kinds;       // [n_edges] int64, species index of the neighbour
    Tensor reverse;     // [n_edges] int64
    Tensor first_edge;  // [n_atoms + 1] int64, first edge of each atom
    Tensor geometry;    // [n_edges, 4], vector and length
    Tensor factors;     // [n_edges], cutoff factors
    Tensor scale;       // [n_atoms], of each atom's energy
    c10::optional<Tensor> addition;  // [n_atoms, d_node], to the node tokens
};

struct Output {
    Tensor energies;       // [n_atoms]
    Tensor grad_geometry;  // [n_edges, 4], of the summed energies
    Tensor grad_factors;   // [n_edges]
};

}  // namespace pet_calc::engine
