// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright the pet-calc developers

#include "neighbors.h"

#include <stdexcept>
#include <string>

#include <vesin.h>

namespace pet_calc {

namespace {

// Frees vesin's arrays however the function is left.
struct OwnedList {
  VesinNeighborList list;
  ~OwnedList() { vesin_free(&list); }
};

}    // namespace

Pairs compute_pairs(const Structure &structure, double cutoff, bool is_full) {
  double box[3][3];
  bool periodic[3];
  for (int row = 0; row < 3; row++) {
    periodic[row] = structure.periodic[row];
    for (int column = 0; column < 3; column++)
      box[row][column] = structure.cell[3 * row + column];
  }
  VesinOptions options{};
  options.cutoff = cutoff;
  options.full = is_full;
  options.sorted = true;    // the same sums in the same order every time
  options.algorithm = VesinAutoAlgorithm;
  options.skin = 0.0;
  options.n_threads = 1;    // a few per cent of the model's time
  options.return_shifts = true;
  options.return_distances = false;
  options.return_vectors = true;

  OwnedList owned;
  const char *message = nullptr;
  const auto *points = reinterpret_cast<const double(*)[3]>(structure.positions.data());
  const int status = vesin_neighbors(points, structure.numbers.size(), box, periodic,
                                     VesinDevice{VesinCPU, 0}, options, &owned.list, &message);
  if (status != 0)
    throw std::runtime_error(std::string("the neighbor list failed: ") +
                             (message ? message : "no reason given"));

  Pairs pairs;
  const size_t n_pairs = owned.list.length;
  pairs.samples.resize(5 * n_pairs);
  pairs.vectors.resize(3 * n_pairs);
  for (size_t k = 0; k < n_pairs; k++) {
    pairs.samples[5 * k] = static_cast<int32_t>(owned.list.pairs[k][0]);
    pairs.samples[5 * k + 1] = static_cast<int32_t>(owned.list.pairs[k][1]);
    for (int axis = 0; axis < 3; axis++) {
      pairs.samples[5 * k + 2 + axis] = owned.list.shifts[k][axis];
      pairs.vectors[3 * k + axis] = owned.list.vectors[k][axis];
    }
  }
  return pairs;
}

}    // namespace pet_calc
