// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright the pet-calc developers

#ifndef PET_CALC_NEIGHBORS_H
#define PET_CALC_NEIGHBORS_H

#include <array>
#include <cstdint>
#include <vector>

#include "model.h"

namespace pet_calc {

// The pairs closer than a cutoff in the periodic cell, step after step. Candidates within
// the cutoff and a skin are kept while they are sure to hold all pairs, whatever LAMMPS
// does with its own lists; each step only measures them.
class PairList {
 public:
  PairList(double cutoff, bool is_full) : cutoff_(cutoff), is_full_(is_full) {}

  // Finds the candidates anew where needed; returns whether it did. Throws
  // std::runtime_error.
  bool refresh(const Structure &structure);
  // i, j, cell shift a, b, c of each
  const std::vector<int32_t> &candidates() const { return candidates_; }

  // Refreshes, and measures which candidates are pairs now.
  void update(const Structure &structure);

  std::vector<int32_t> samples;    // [5 * n_pairs]: as candidates
  std::vector<double> vectors;     // [3 * n_pairs]: r_j + shift @ cell - r_i, Angstrom

 private:
  bool is_complete(const Structure &structure) const;
  void find_candidates(const Structure &structure);

  double cutoff_;
  bool is_full_;
  std::vector<int32_t> candidates_;
  // of the structure that the candidates were found in
  std::vector<double> positions_;
  std::array<double, 9> cell_{};
  std::array<bool, 3> periodic_{};
};

}    // namespace pet_calc

#endif
