// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright the pet-calc developers

#ifndef PET_CALC_SEARCH_H
#define PET_CALC_SEARCH_H

#include <cstdint>
#include <vector>

#include "model.h"

namespace pet_calc {

// Throws std::runtime_error, with what is wrong, for geometry that no list can be made of.
void check_geometry(const Structure &structure);

// All pairs within `reach`, by the first atom: i, j, cell shift a, b, c of each. vesin finds
// them, or for long thin shapes, on which it ends the process or hangs, a search that does not
// care about empty space. Throws std::runtime_error.
std::vector<int32_t> find_pairs(const Structure &structure, double reach, bool is_full);

}    // namespace pet_calc

#endif
