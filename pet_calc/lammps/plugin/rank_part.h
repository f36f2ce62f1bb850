// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright the pet-calc developers

#ifndef PET_CALC_RANK_PART_H
#define PET_CALC_RANK_PART_H

#include <string>
#include <vector>

#include "exchange.h"
#include "plan.h"
#include "pointers.h"

namespace LAMMPS_NS {
class Pair;
}

namespace pet_calc {

// What a rank evaluates where ranks exchange edges: its own atoms, and pairs that are planned
// whenever LAMMPS makes its lists anew. Between two plans only distances change.
class RankPart : protected LAMMPS_NS::Pointers {
 public:
  // collective
  RankPart(LAMMPS_NS::LAMMPS *lmp, double length_to_angstrom);

  // LAMMPS has set up a run: its lists are new, though counted from 0
  void expect_new_lists() { is_set_up_ = true; }
  bool is_current() const;
  // The three steps to a new plan, by all ranks together. The second throws
  // std::runtime_error; the third says what is wrong, or nothing.
  void find_origins(LAMMPS_NS::Pair *pair);
  void find_pairs(double cutoff);    // Angstrom
  std::string agree();

  // of find_origins: 5 numbers per atom
  int pack(int n, const int *list, double *buffer, const int *image) const;
  void unpack(int n, int first, const double *buffer);

  // Warns, once, of atoms that LAMMPS moved further than its lists allow.
  void watch_moves();

  const RankPairs &pairs() const { return plan_.pairs; }
  const std::vector<int> &ghosts() const { return plan_.ghosts; }    // LAMMPS's indices
  MpiExchange &exchange() { return exchange_; }

 private:
  void require_finite() const;

  double length_to_angstrom_;
  MpiExchange exchange_;
  BorderPlan plan_;
  std::vector<Origin> origins_;       // of own atoms and ghosts
  std::vector<double> positions_;     // [3 * n_own], when planned, LAMMPS's unit
  bool is_planned_ = false, is_set_up_ = false, has_warned_ = false;
  LAMMPS_NS::bigint n_calls_ = 0, last_call_ = 0;    // of the lists that the plan is for
};

}    // namespace pet_calc

#endif
