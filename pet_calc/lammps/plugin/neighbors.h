// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright the pet-calc developers

#ifndef PET_CALC_NEIGHBORS_H
#define PET_CALC_NEIGHBORS_H

#include <cstdint>
#include <vector>

#include "engine.h"

namespace pet_calc {

struct Pairs {
  std::vector<int32_t> samples;    // [5 * n_pairs]: i, j, cell shift a, b, c
  std::vector<double> vectors;     // [3 * n_pairs]: r_j + shift @ cell - r_i, Angstrom
};

// Pairs closer than `cutoff` in the periodic cell; throws std::runtime_error.
Pairs compute_pairs(const Structure &structure, double cutoff, bool is_full);

}    // namespace pet_calc

#endif
