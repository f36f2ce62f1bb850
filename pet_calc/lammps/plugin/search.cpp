// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright the pet-calc developers
//
// The rules and numbers are those of pet_calc/data/neighbor_search.py.

#include "search.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <sstream>
#include <stdexcept>
#include <string>

#include <vesin.h>

namespace pet_calc {

namespace {

// Angstrom; beyond this float64 does not resolve the 1e-6 A that forces need
constexpr double LARGEST_EXTENT = 1e9;
// images of one atom within reach
constexpr double MOST_IMAGES = 50000.0;
// what vesin does well
constexpr double MOST_BOXES = 5e4, LONGEST_ROW = 250.0, MOST_IMAGES_IN_VESIN = 5000.0;

using Matrix = std::array<double, 9>;
using Bin = std::array<int64_t, 3>;

struct Image {
  Bin bin;
  int32_t owner;
  std::array<int32_t, 3> shift;

  bool operator<(const Image &other) const { return bin < other.bin; }
};

// Frees vesin's arrays however the function is left.
struct OwnedList {
  VesinNeighborList list;
  ~OwnedList() { vesin_free(&list); }
};

// Of the cell with a unit vector where it is not periodic. Both are lower triangular.
Matrix invert(const Structure &structure) {
  Matrix full = structure.cell, inverse{};
  for (int axis = 0; axis < 3; axis++)
    if (!structure.periodic[axis]) full[3 * axis + axis] = 1.0;
  for (int row = 0; row < 3; row++)
    for (int column = 0; column <= row; column++) {
      double rest = row == column ? 1.0 : 0.0;
      for (int k = column; k < row; k++) rest -= full[3 * row + k] * inverse[3 * k + column];
      inverse[3 * row + column] = rest / full[3 * row + row];
    }
  return inverse;
}

// Distances between the lattice planes; 0 where not periodic.
std::array<double, 3> compute_heights(const Structure &structure) {
  const Matrix inverse = invert(structure);
  std::array<double, 3> heights{};
  for (int axis = 0; axis < 3; axis++) {
    if (!structure.periodic[axis]) continue;
    double squared = 0.0;
    for (int row = 0; row < 3; row++) squared += inverse[3 * row + axis] * inverse[3 * row + axis];
    heights[axis] = 1.0 / std::sqrt(squared);
  }
  return heights;
}

bool suits_vesin(const Structure &structure, const std::array<double, 3> &heights, double reach) {
  double diagonal = 0.0;
  for (int axis = 0; axis < 3; axis++) {
    double low = structure.positions[axis], high = low;
    for (size_t i = axis; i < structure.positions.size(); i += 3) {
      low = std::min(low, structure.positions[i]);
      high = std::max(high, structure.positions[i]);
    }
    diagonal += (high - low) * (high - low);
  }
  double images = 1.0, product = 1.0, fewest = 1e300;
  for (int axis = 0; axis < 3; axis++) {
    const bool is_periodic = structure.periodic[axis];
    if (is_periodic) images *= 2.0 * reach / heights[axis] + 1.0;
    const double extent = is_periodic ? heights[axis] : std::sqrt(diagonal);
    const double n_boxes = std::max(1.0, std::floor(extent / reach));
    if (n_boxes > LONGEST_ROW) return false;
    product *= n_boxes;
    fewest = std::min(fewest, n_boxes);
  }
  if (images > MOST_IMAGES_IN_VESIN) return false;
  return product <= MOST_BOXES || fewest / std::cbrt(product / MOST_BOXES) >= 2.0;
}

std::vector<int32_t> find_by_vesin(const Structure &structure, double reach, bool is_full) {
  double box[3][3];
  bool periodic[3];
  for (int row = 0; row < 3; row++) {
    periodic[row] = structure.periodic[row];
    for (int column = 0; column < 3; column++)
      box[row][column] = structure.cell[3 * row + column];
  }
  VesinOptions options{};
  options.cutoff = reach;
  options.full = is_full;
  options.sorted = true;    // by the first atom, which the models' index work likes
  options.algorithm = VesinAutoAlgorithm;
  options.skin = 0.0;       // vesin's own does not follow the cell
  options.n_threads = 1;    // a few per cent of the model's time, and not every step
  options.return_shifts = true;
  options.return_distances = false;
  options.return_vectors = false;

  OwnedList owned{};
  const char *message = nullptr;
  const auto *points = reinterpret_cast<const double(*)[3]>(structure.positions.data());
  const int status = vesin_neighbors(points, structure.numbers.size(), box, periodic,
                                     VesinDevice{VesinCPU, 0}, options, &owned.list, &message);
  if (status != 0)
    throw std::runtime_error(std::string("the neighbor list failed: ") +
                             (message ? message : "no reason given"));
  std::vector<int32_t> pairs(5 * owned.list.length);
  for (size_t k = 0; k < owned.list.length; k++) {
    for (int end = 0; end < 2; end++)
      pairs[5 * k + end] = static_cast<int32_t>(owned.list.pairs[k][end]);
    for (int axis = 0; axis < 3; axis++) pairs[5 * k + 2 + axis] = owned.list.shifts[k][axis];
  }
  return pairs;
}

// Atoms and those of their images that can be in reach of the cell, sorted into bins as wide as
// the reach; only bins with something in them take memory.
class SparseSearch {
 public:
  SparseSearch(const Structure &structure, const std::array<double, 3> &heights, double reach)
      : structure_(structure), reach_(reach) {
    double largest = reach;
    for (double x : structure.positions) largest = std::max(largest, std::abs(x));
    for (double x : structure.cell) largest = std::max(largest, std::abs(x));
    // what rounding can hide; the exact vectors decide
    width_ = reach * (1.0 + 1e-9) + 16.0 * 2.3e-16 * largest;
    wrap();
    collect(heights);
    std::sort(images_.begin(), images_.end());
  }

  std::vector<int32_t> run(bool is_full) const {
    std::vector<int32_t> pairs;
    for (size_t i = 0; i < structure_.numbers.size(); i++) {
      const Bin home = find_bin(&wrapped_[3 * i]);
      for (int64_t a = home[0] - 1; a <= home[0] + 1; a++)
        for (int64_t b = home[1] - 1; b <= home[1] + 1; b++) {
          const Bin last{a, b, home[2] + 1};
          auto image = std::lower_bound(images_.begin(), images_.end(),
                                        Image{{a, b, home[2] - 1}, 0, {}});
          for (; image != images_.end() && !(last < image->bin); ++image)
            add(static_cast<int32_t>(i), *image, is_full, pairs);
        }
    }
    return pairs;
  }

 private:
  void wrap() {
    const Matrix inverse = invert(structure_);
    wrapped_ = structure_.positions;
    fractional_.resize(wrapped_.size());
    turns_.assign(wrapped_.size(), 0);
    for (size_t i = 0; i < wrapped_.size(); i += 3)
      for (int axis = 2; axis >= 0; axis--) {
        double value = 0.0;
        for (int k = 0; k < 3; k++) value += wrapped_[i + k] * inverse[3 * k + axis];
        if (structure_.periodic[axis]) {
          const double turns = std::floor(value);
          turns_[i + axis] = static_cast<int32_t>(turns);
          value -= turns;
          for (int k = 0; k < 3; k++) wrapped_[i + k] -= turns * structure_.cell[3 * axis + k];
        }
        fractional_[i + axis] = value;
      }
  }

  void collect(const std::array<double, 3> &heights) {
    std::array<double, 3> margin{};
    double n_images = 1.0;
    for (int axis = 0; axis < 3; axis++) {
      if (!structure_.periodic[axis]) continue;
      margin[axis] = width_ / heights[axis] + 1e-6;
      n_images *= 2.0 * margin[axis] + 1.0;
    }
    if (n_images > MOST_IMAGES)
      throw std::runtime_error("the cell is so small that an atom sees more than 50000 images of "
                               "itself; check the box and the units");
    for (size_t i = 0; i < structure_.numbers.size(); i++) {
      std::array<int32_t, 3> low{}, high{};
      for (int axis = 0; axis < 3; axis++) {
        if (!structure_.periodic[axis]) continue;
        const double f = fractional_[3 * i + axis];
        low[axis] = static_cast<int32_t>(std::ceil(-margin[axis] - f));
        high[axis] = static_cast<int32_t>(std::floor(1.0 + margin[axis] - f));
      }
      for (int32_t a = low[0]; a <= high[0]; a++)
        for (int32_t b = low[1]; b <= high[1]; b++)
          for (int32_t c = low[2]; c <= high[2]; c++) {
            double point[3];
            for (int k = 0; k < 3; k++)
              point[k] = wrapped_[3 * i + k] + a * structure_.cell[k] +
                  b * structure_.cell[3 + k] + c * structure_.cell[6 + k];
            images_.push_back({find_bin(point), static_cast<int32_t>(i), {a, b, c}});
          }
    }
  }

  Bin find_bin(const double *point) const {
    Bin bin;
    for (int axis = 0; axis < 3; axis++)
      bin[axis] = static_cast<int64_t>(std::floor(point[axis] / width_));
    return bin;
  }

  void add(int32_t i, const Image &image, bool is_full, std::vector<int32_t> &pairs) const {
    const int32_t j = image.owner;
    std::array<int32_t, 3> shift;
    for (int axis = 0; axis < 3; axis++)
      shift[axis] = image.shift[axis] - turns_[3 * j + axis] + turns_[3 * i + axis];
    const bool is_self = i == j && shift == std::array<int32_t, 3>{};
    if (is_self) return;
    if (!is_full && (j < i || (i == j && shift < std::array<int32_t, 3>{}))) return;
    double squared = 0.0;
    for (int k = 0; k < 3; k++) {
      // in this order the reverse is minus this to the last digit
      double length = structure_.positions[3 * j + k] - structure_.positions[3 * i + k];
      for (int row = 0; row < 3; row++) length += shift[row] * structure_.cell[3 * row + k];
      squared += length * length;
    }
    if (squared > reach_ * reach_) return;
    pairs.insert(pairs.end(), {i, j, shift[0], shift[1], shift[2]});
  }

  const Structure &structure_;
  double reach_, width_ = 0.0;
  std::vector<double> wrapped_, fractional_;
  std::vector<int32_t> turns_;
  std::vector<Image> images_;
};

}    // namespace

void check_geometry(const Structure &structure) {
  for (int axis = 0; axis < 3; axis++) {
    if (!structure.periodic[axis]) continue;
    for (int k = 0; k < 3; k++) {
      const double value = structure.cell[3 * axis + k];
      if (!std::isfinite(value) || std::abs(value) > LARGEST_EXTENT)
        throw std::runtime_error("the box is not finite, or longer than 1e9 A; use a boundary "
                                 "that is not periodic in that direction");
    }
    if (!(structure.cell[4 * axis] > 1e-3))
      throw std::runtime_error("the box has no length in a periodic direction");
  }
  for (double position : structure.positions)
    if (!std::isfinite(position) || std::abs(position) > LARGEST_EXTENT) {
      std::ostringstream text;
      text << "a position (" << position << " A) is not finite or beyond 1e9 A, where float64 "
           << "does not resolve bonds";
      throw std::runtime_error(text.str());
    }
}

std::vector<int32_t> find_pairs(const Structure &structure, double reach, bool is_full) {
  check_geometry(structure);
  if (structure.numbers.empty()) return {};
  const auto heights = compute_heights(structure);
  if (suits_vesin(structure, heights, reach)) return find_by_vesin(structure, reach, is_full);
  return SparseSearch(structure, heights, reach).run(is_full);
}

}    // namespace pet_calc
