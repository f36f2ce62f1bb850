// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright the pet-calc developers

#include "plan.h"

#include <algorithm>
#include <cmath>
#include <sstream>
#include <stdexcept>

namespace pet_calc {

namespace {

constexpr int32_t NONE = -1, CROSSES = -2;    // instead of a reverse
// Angstrom: a pair that is as close as this to the reach may be missed by one of its atoms
constexpr double ROUNDING = 1e-6;

using Bin = std::array<int64_t, 3>;

struct Point {
  Bin bin;
  int32_t place;
  bool operator<(const Point &other) const { return bin < other.bin; }
};

Bin find_bin(const double *position, double width) {
  Bin bin;
  for (int axis = 0; axis < 3; axis++)
    bin[axis] = static_cast<int64_t>(std::floor(position[axis] / width));
  return bin;
}

// Calls `work` with i, j and their distance for pairs within reach; i is one of the first n_own.
// Only bins with something in them take memory, so empty space costs nothing.
template <typename Function>
void for_pairs(const std::vector<double> &positions, int n_own, double reach, Function work) {
  const double width = reach * (1.0 + 1e-9);
  std::vector<Point> points(positions.size() / 3);
  for (size_t k = 0; k < points.size(); k++)
    points[k] = {find_bin(&positions[3 * k], width), static_cast<int32_t>(k)};
  std::sort(points.begin(), points.end());
  for (int32_t i = 0; i < n_own; i++) {
    const double *from = &positions[3 * i];
    const Bin home = find_bin(from, width);
    for (int64_t a = home[0] - 1; a <= home[0] + 1; a++)
      for (int64_t b = home[1] - 1; b <= home[1] + 1; b++) {
        const Bin last{a, b, home[2] + 1};
        auto point = std::lower_bound(points.begin(), points.end(), Point{{a, b, home[2] - 1}, 0});
        for (; point != points.end() && !(last < point->bin); ++point) {
          const double *to = &positions[3 * point->place];
          double squared = 0.0;
          for (int axis = 0; axis < 3; axis++)
            squared += (to[axis] - from[axis]) * (to[axis] - from[axis]);
          if (squared <= reach * reach && point->place != i)
            work(i, point->place, std::sqrt(squared));
        }
      }
  }
}

std::string report(int rank, int other, int n_missing, double distance) {
  std::ostringstream text;
  text << "ranks " << rank << " and " << other << " do not agree on the pairs of atoms across "
       << "their border: " << n_missing << " of the first, " << distance
       << " A long or longer, are not there on the other";
  return text.str();
}

}    // namespace

void BorderPlan::find(const std::vector<double> &positions, const std::vector<Origin> &origins,
                      int n_own, int own_rank, double reach) {
  origins_ = origins;
  n_own_ = n_own;
  own_rank_ = own_rank;
  reach_ = reach;
  found_.clear();
  for_pairs(positions, n_own, reach, [&](int32_t i, int32_t j, double distance) {
    found_.push_back(describe(i, j, distance));
  });
}

BorderPlan::Found BorderPlan::describe(int32_t center, int32_t point, double distance) const {
  const Origin &end = origins_[point];
  const auto [a, b, c] = end.image;
  Found found{center, point, end.rank, {center, end.index, a, b, c}, distance};
  if (end.rank < own_rank_) found.key = {end.index, center, -a, -b, -c};
  return found;
}

std::string BorderPlan::agree(MPI_Comm world) {
  int n_ranks = 1;
  MPI_Comm_size(world, &n_ranks);
  crossing_.assign(n_ranks, {});
  for (size_t k = 0; k < found_.size(); k++)
    crossing_[found_[k].rank].push_back(static_cast<int32_t>(k));
  for (auto &places : crossing_)
    std::sort(places.begin(), places.end(),
              [&](int32_t a, int32_t b) { return found_[a].key < found_[b].key; });
  const auto others = swap_keys(world);
  reverse_.assign(found_.size(), NONE);
  std::string message = choose_crossings(others);
  if (message.empty()) message = find_own_reverses();
  if (message.empty()) fill();
  return message;
}

// The keys that each rank found of its border with this one, sorted.
std::vector<std::vector<BorderPlan::Key>> BorderPlan::swap_keys(MPI_Comm world) const {
  const int n_ranks = static_cast<int>(crossing_.size());
  std::vector<int> n_sent(n_ranks, 0), n_received(n_ranks, 0);
  for (int r = 0; r < n_ranks; r++)
    if (r != own_rank_) n_sent[r] = static_cast<int>(crossing_[r].size());
  MPI_Alltoall(n_sent.data(), 1, MPI_INT, n_received.data(), 1, MPI_INT, world);
  std::vector<std::vector<Key>> own(n_ranks), others(n_ranks);
  std::vector<MPI_Request> requests;
  const auto count = [](const std::vector<Key> &keys) { return static_cast<int>(5 * keys.size()); };
  for (int r = 0; r < n_ranks; r++) {
    if (n_received[r] == 0) continue;
    others[r].resize(n_received[r]);
    requests.emplace_back();
    MPI_Irecv(others[r].data(), count(others[r]), MPI_INT32_T, r, 0, world, &requests.back());
  }
  for (int r = 0; r < n_ranks; r++) {
    if (n_sent[r] == 0) continue;
    for (const int32_t place : crossing_[r]) own[r].push_back(found_[place].key);
    requests.emplace_back();
    MPI_Isend(own[r].data(), count(own[r]), MPI_INT32_T, r, 0, world, &requests.back());
  }
  MPI_Waitall(static_cast<int>(requests.size()), requests.data(), MPI_STATUSES_IGNORE);
  return others;
}

// Keeps of each border what both ranks found. Only rounding at the reach may differ.
std::string BorderPlan::choose_crossings(const std::vector<std::vector<Key>> &others) {
  std::string message;
  for (size_t r = 0; r < crossing_.size(); r++) {
    if (static_cast<int>(r) == own_rank_) continue;
    std::vector<int32_t> kept;
    int n_missing = 0;
    double shortest = reach_;
    for (const int32_t place : crossing_[r]) {
      const Found &found = found_[place];
      if (std::binary_search(others[r].begin(), others[r].end(), found.key)) {
        kept.push_back(place);
        reverse_[place] = CROSSES;
      } else if (found.distance < reach_ - ROUNDING) {
        n_missing++;
        shortest = std::min(shortest, found.distance);
      }
    }
    if (n_missing > 0 && message.empty())
      message = report(own_rank_, static_cast<int>(r), n_missing, shortest);
    crossing_[r] = std::move(kept);
  }
  return message;
}

// Of pairs among own atoms and their images.
std::string BorderPlan::find_own_reverses() {
  const auto &own = crossing_[own_rank_];    // sorted by key, which is i, j, image
  const auto is_before = [&](int32_t place, const Key &key) { return found_[place].key < key; };
  for (const int32_t place : own) {
    const auto [i, j, a, b, c] = found_[place].key;
    const Key wanted{j, i, -a, -b, -c};
    const auto reverse = std::lower_bound(own.begin(), own.end(), wanted, is_before);
    if (reverse != own.end() && found_[*reverse].key == wanted)
      reverse_[place] = *reverse;
    else if (found_[place].distance < reach_ - ROUNDING)
      return report(own_rank_, own_rank_, 1, found_[place].distance);
  }
  return "";
}

// Numbers what is kept: pairs by centre, then ghosts, then places at the border.
void BorderPlan::fill() {
  const int64_t version = pairs.version + 1;
  pairs = RankPairs();
  pairs.version = version;
  ghosts.clear();
  neighbors.clear();
  std::vector<int64_t> ghost_of(origins_.size(), NONE), pair_of(found_.size(), NONE);
  for (size_t k = 0; k < found_.size(); k++) {
    if (reverse_[k] == NONE) continue;
    const Found &found = found_[k];
    const Origin &end = origins_[found.point];
    pair_of[k] = static_cast<int64_t>(pairs.centers.size());
    pairs.centers.push_back(found.center);
    if (reverse_[k] != CROSSES) {
      pairs.neighbors.push_back(end.index);
      pairs.shifts.insert(pairs.shifts.end(), end.image.begin(), end.image.end());
      continue;
    }
    int64_t &ghost = ghost_of[found.point];
    if (ghost == NONE) {
      ghost = n_own_ + static_cast<int64_t>(ghosts.size());
      ghosts.push_back(found.point);
    }
    pairs.neighbors.push_back(ghost);
    pairs.shifts.insert(pairs.shifts.end(), 3, 0);
  }
  const auto n_pairs = static_cast<int64_t>(pairs.centers.size());
  pairs.reverse.assign(n_pairs, NONE);
  for (size_t k = 0; k < found_.size(); k++)
    if (reverse_[k] >= 0) pairs.reverse[pair_of[k]] = pair_of[reverse_[k]];
  pairs.crossings.starts.assign(1, 0);
  for (size_t r = 0; r < crossing_.size(); r++) {
    if (static_cast<int>(r) == own_rank_ || crossing_[r].empty()) continue;
    for (const int32_t place : crossing_[r]) {
      const auto h = static_cast<int64_t>(pairs.crossings.rows.size());
      pairs.reverse[pair_of[place]] = n_pairs + h;
      pairs.crossings.rows.push_back(pair_of[place]);
    }
    pairs.crossings.starts.push_back(static_cast<int64_t>(pairs.crossings.rows.size()));
    neighbors.push_back(static_cast<int>(r));
  }
}

}    // namespace pet_calc
