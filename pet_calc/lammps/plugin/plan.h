// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright the pet-calc developers

#ifndef PET_CALC_PLAN_H
#define PET_CALC_PLAN_H

#include <mpi.h>

#include <array>
#include <cstdint>
#include <string>
#include <vector>

#include "model.h"

namespace pet_calc {

// An atom or ghost of LAMMPS's: the rank that has the atom, the atom's index there, and how many
// cell vectors away from it this one is. Positions, which are rounded, do not come into it.
struct Origin {
  int32_t rank, index;
  std::array<int32_t, 3> image;
};

// Finds a rank's pairs and agrees with its neighbours on those that cross a border, in two
// steps: the first may fail on one rank alone, the second is for all together.
class BorderPlan {
 public:
  // Finds all pairs within `reach` whose first atom is one of the `n_own` at the beginning of
  // positions and origins. Throws std::runtime_error.
  void find(const std::vector<double> &positions, const std::vector<Origin> &origins, int n_own,
            int own_rank, double reach);
  // Collective. Fills `pairs`, `ghosts` and `neighbors`. Returns what is wrong, naming both
  // ranks; empty if all is well.
  std::string agree(MPI_Comm world);

  RankPairs pairs;
  std::vector<int> ghosts;       // places in positions of those that pairs end in
  std::vector<int> neighbors;    // ranks that `pairs.crossings` has

 private:
  // A pair, as its two ranks name it: index of the atom on the lower rank, on the other, and
  // the image as the lower one sees it; on one rank simply as it is.
  using Key = std::array<int32_t, 5>;
  struct Found {
    int32_t center, point, rank;    // point: place in positions
    Key key;
    double distance;
  };

  Found describe(int32_t center, int32_t point, double distance) const;
  std::vector<std::vector<Key>> swap_keys(MPI_Comm world) const;
  std::string choose_crossings(const std::vector<std::vector<Key>> &others);
  std::string find_own_reverses();
  void fill();

  std::vector<Origin> origins_;
  int n_own_ = 0, own_rank_ = 0;
  double reach_ = 0.0;
  std::vector<Found> found_;                      // by centre
  std::vector<std::vector<int32_t>> crossing_;    // of each rank: places in found_, by key
  std::vector<int32_t> reverse_;    // of each of found_: its reverse, or NONE, or CROSSES
};

}    // namespace pet_calc

#endif
