// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright the pet-calc developers

#include "neighbors.h"

#include <algorithm>
#include <cmath>

#include "search.h"

namespace pet_calc {

namespace {

// Angstrom; wider ones are kept longer and measured more slowly
constexpr double SKIN = 0.5;

using Matrix = std::array<double, 9>;

// The cell with a unit vector where it is not periodic: LAMMPS's cells are lower triangular,
// and so is this.
Matrix complete(const Matrix &cell, const std::array<bool, 3> &periodic) {
  Matrix full = cell;
  for (int axis = 0; axis < 3; axis++)
    if (!periodic[axis]) full[3 * axis + axis] = 1.0;
  return full;
}

// F with from @ F = to, for lower triangular matrices.
Matrix find_deformation(const Matrix &from, const Matrix &to) {
  Matrix deformation{};
  for (int row = 0; row < 3; row++)
    for (int column = 0; column < 3; column++) {
      double rest = to[3 * row + column];
      for (int k = 0; k < row; k++) rest -= from[3 * row + k] * deformation[3 * k + column];
      deformation[3 * row + column] = rest / from[3 * row + row];
    }
  return deformation;
}

}    // namespace

bool PairList::refresh(const Structure &structure) {
  if (is_complete(structure)) return false;
  find_candidates(structure);
  return true;
}

void PairList::update(const Structure &structure) {
  refresh(structure);
  samples.clear();
  vectors.clear();
  const double *r = structure.positions.data();
  const Matrix &h = structure.cell;
  for (size_t k = 0; k < candidates_.size(); k += 5) {
    const int32_t *pair = &candidates_[k];
    const double *from = r + 3 * pair[0], *to = r + 3 * pair[1];
    const double a = pair[2], b = pair[3], c = pair[4];
    const double x = to[0] - from[0] + a * h[0] + b * h[3] + c * h[6];
    const double y = to[1] - from[1] + a * h[1] + b * h[4] + c * h[7];
    const double z = to[2] - from[2] + a * h[2] + b * h[5] + c * h[8];
    if (x * x + y * y + z * z > cutoff_ * cutoff_) continue;
    samples.insert(samples.end(), pair, pair + 5);
    vectors.insert(vectors.end(), {x, y, z});
  }
}

// Whether no pair that is not among the candidates can be within the cutoff. With F the
// deformation of the cell and u what an atom moved besides, a vector v between atoms or images
// has become v @ F + u_j - u_i, which is at least (1 - |F - 1|) |v| - 2 max |u| long.
bool PairList::is_complete(const Structure &structure) const {
  if (positions_.empty() || positions_.size() != structure.positions.size() ||
      periodic_ != structure.periodic)
    return false;
  const Matrix deformation = find_deformation(complete(cell_, periodic_),
                                              complete(structure.cell, structure.periodic));
  double strain = 0.0;
  for (int k = 0; k < 9; k++) {
    const double change = deformation[k] - (k % 4 == 0 ? 1.0 : 0.0);
    strain += change * change;
  }
  double moved = 0.0;
  for (size_t i = 0; i < positions_.size(); i += 3) {
    double squared = 0.0;
    for (int axis = 0; axis < 3; axis++) {
      double step = structure.positions[i + axis];
      for (int k = 0; k < 3; k++) step -= positions_[i + k] * deformation[3 * k + axis];
      squared += step * step;
    }
    moved = std::max(moved, squared);
  }
  const double closest = (1.0 - std::sqrt(strain)) * (cutoff_ + SKIN) - 2.0 * std::sqrt(moved);
  return closest >= cutoff_;
}

void PairList::find_candidates(const Structure &structure) {
  positions_.clear();    // whatever happens, the old candidates are gone
  candidates_ = find_pairs(structure, cutoff_ + SKIN, is_full_);
  positions_ = structure.positions;
  cell_ = structure.cell;
  periodic_ = structure.periodic;
}

}    // namespace pet_calc
