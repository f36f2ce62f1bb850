// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright the pet-calc developers

#include "rank_part.h"

#include <algorithm>
#include <cmath>
#include <stdexcept>

#include "atom.h"
#include "comm.h"
#include "error.h"
#include "neighbor.h"
#include "pair.h"
#include "update.h"

using namespace LAMMPS_NS;

namespace pet_calc {

RankPart::RankPart(LAMMPS *lmp, double length_to_angstrom)
    : Pointers(lmp), length_to_angstrom_(length_to_angstrom), exchange_(world) {}

// All of this is the same on all ranks.
bool RankPart::is_current() const {
  if (!is_planned_ || (is_set_up_ && neighbor->ago == 0)) return false;
  return neighbor->ncalls == n_calls_ && neighbor->lastcall == last_call_;
}

void RankPart::find_origins(Pair *pair) {
  is_planned_ = is_set_up_ = false;
  n_calls_ = neighbor->ncalls;
  last_call_ = neighbor->lastcall;
  origins_.assign(atom->nlocal + atom->nghost, Origin{});
  for (int i = 0; i < atom->nlocal; i++) origins_[i] = {comm->me, i, {}};
  comm->forward_comm(pair);
}

int RankPart::pack(int n, const int *list, double *buffer, const int *image) const {
  int k = 0;
  for (int row = 0; row < n; row++) {
    const Origin &origin = origins_[list[row]];
    buffer[k++] = origin.rank;
    buffer[k++] = origin.index;
    for (int axis = 0; axis < 3; axis++)
      buffer[k++] = origin.image[axis] + (image ? image[axis] : 0);
  }
  return k;
}

void RankPart::unpack(int n, int first, const double *buffer) {
  for (int i = first; i < first + n; i++, buffer += 5) {
    Origin &origin = origins_[i];
    origin.rank = static_cast<int32_t>(buffer[0]);
    origin.index = static_cast<int32_t>(buffer[1]);
    for (int axis = 0; axis < 3; axis++)
      origin.image[axis] = static_cast<int32_t>(buffer[2 + axis]);
  }
}

void RankPart::find_pairs(double cutoff) {
  require_finite();
  const size_t n_all = origins_.size();
  std::vector<double> positions(3 * n_all);
  for (size_t i = 0; i < n_all; i++)
    for (int axis = 0; axis < 3; axis++)
      positions[3 * i + axis] = atom->x[i][axis] * length_to_angstrom_;
  plan_.find(positions, origins_, atom->nlocal, comm->me,
             cutoff + neighbor->skin * length_to_angstrom_);
  positions_.assign(3 * static_cast<size_t>(atom->nlocal), 0.0);
  for (int i = 0; i < atom->nlocal; i++)
    std::copy_n(atom->x[i], 3, positions_.begin() + 3 * i);
}

std::string RankPart::agree() {
  std::string message;
  try {
    message = plan_.agree(world);
  } catch (const std::bad_alloc &) {
    // the others wait for this rank: only the end of all ends that
    error->one(FLERR, "pair_style metatomic: out of memory for the pairs of rank {}", comm->me);
  }
  exchange_.set_neighbors(plan_.neighbors);
  is_planned_ = message.empty();
  return message;
}

void RankPart::require_finite() const {
  const int n_all = atom->nlocal + atom->nghost;
  for (int i = 0; i < n_all; i++)
    if (!std::isfinite(atom->x[i][0] + atom->x[i][1] + atom->x[i][2]) ||
        std::abs(atom->x[i][0]) + std::abs(atom->x[i][1]) + std::abs(atom->x[i][2]) > 1e9)
      throw std::runtime_error("the position of atom " + std::to_string(atom->tag[i]) +
                               " at step " + std::to_string(update->ntimestep) +
                               " is not finite; look at the forces before, and the timestep");
}

void RankPart::watch_moves() {
  if (has_warned_) return;
  double furthest = 0.0;
  for (int i = 0; i < atom->nlocal; i++) {
    double squared = 0.0;
    for (int axis = 0; axis < 3; axis++) {
      const double step = atom->x[i][axis] - positions_[3 * static_cast<size_t>(i) + axis];
      squared += step * step;
    }
    furthest = std::max(furthest, squared);
  }
  const double allowed = 0.5 * neighbor->skin * (1.0 + 1e-9);
  if (furthest <= allowed * allowed) return;
  has_warned_ = true;
  error->warning(FLERR, "pair_style metatomic: at step {} an atom is {:.3g} away from where it was "
                        "when the lists were made, more than half the skin: forces may lack "
                        "neighbors; use `neigh_modify every 1 delay 0 check yes`",
                 update->ntimestep, std::sqrt(furthest));
}

}    // namespace pet_calc
