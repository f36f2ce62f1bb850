// Numbers that the model in Python has too. tests/engine/test_constants.py compares them.

#pragma once

#include <cstdint>

namespace pet_calc::engine {

// of pet_calc/model/constants.py, which says what they are for
constexpr double BUMP_MARGIN = 1e-6;
constexpr double SMALL_SQUARE = 1e-15;
constexpr double MIN_CUTOFF_FACTOR = 1e-15;
constexpr double MIN_ADAPTIVE_FRACTION = 1.0 / 16.0;
constexpr double MIN_SLOPE = 1e-6;
constexpr int N_FREE_SOLVER_STEPS = 10;
constexpr int N_SOLVER_STEPS = 100;
constexpr double SOLVED_FLOAT64 = 1e-9;
constexpr double SOLVED_FLOAT32 = 1e-5;

// of pet_calc/model/fold.py
constexpr int64_t FORMAT_VERSION = 1;

}  // namespace pet_calc::engine
