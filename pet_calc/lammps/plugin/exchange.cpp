// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright the pet-calc developers

#include "exchange.h"

#include <limits>
#include <stdexcept>
#include <thread>

namespace pet_calc {

namespace {

constexpr int ROWS = 1, ALARM = 2;    // kinds of messages

}    // namespace

MpiExchange::MpiExchange(MPI_Comm world) {
  // of our own: no message of LAMMPS is taken for one of these
  MPI_Comm_dup(world, &world_);
  // a message that is too long is an error to report, not the end of the process
  MPI_Comm_set_errhandler(world_, MPI_ERRORS_RETURN);
  MPI_Comm_rank(world_, &rank_);
  MPI_Comm_size(world_, &n_ranks_);
}

MpiExchange::~MpiExchange() {
  int is_over = 0;
  MPI_Finalized(&is_over);
  if (!is_over) MPI_Comm_free(&world_);
}

void MpiExchange::start(const std::vector<int64_t> &starts, int64_t row_bytes) {
  const double begin = MPI_Wtime();
  requests_.clear();
  expected_.clear();
  const size_t n = neighbors_.size();
  for (size_t r = 0; r < n; r++) {
    const int64_t n_bytes = (starts[r + 1] - starts[r]) * row_bytes;
    if (n_bytes > std::numeric_limits<int>::max())
      throw std::runtime_error("more than 2 GB of edges cross one border; use more ranks");
    expected_.push_back(static_cast<int>(n_bytes));
  }
  // Also where there are no rows: the other rank must find the same.
  for (size_t r = 0; r < n; r++) {
    requests_.emplace_back();
    MPI_Irecv(received.data() + starts[r] * row_bytes, expected_[r], MPI_BYTE, neighbors_[r], ROWS,
              world_, &requests_.back());
  }
  for (size_t r = 0; r < n; r++) {
    requests_.emplace_back();
    MPI_Isend(sent.data() + starts[r] * row_bytes, expected_[r], MPI_BYTE, neighbors_[r], ROWS,
              world_, &requests_.back());
  }
  n_rows_ = starts.back();
  n_bytes_ += starts.back() * row_bytes;
  seconds_ += MPI_Wtime() - begin;
}

void MpiExchange::finish() {
  const double begin = MPI_Wtime();
  std::vector<MPI_Status> statuses(requests_.size());
  // set only where something went wrong
  for (MPI_Status &status : statuses) status.MPI_ERROR = MPI_SUCCESS;
  int is_done = 0, outcome = MPI_SUCCESS;
  while (true) {
    outcome = MPI_Testall(static_cast<int>(requests_.size()), requests_.data(), &is_done,
                          statuses.data());
    if (is_done || outcome != MPI_SUCCESS) break;
    look_for_alarm();
    // more ranks than cores: let the one that is waited for run
    std::this_thread::yield();
  }
  check_sizes(statuses);
  if (outcome != MPI_SUCCESS)
    throw std::runtime_error("rank " + std::to_string(rank_) +
                             " could not exchange edges: MPI error " + std::to_string(outcome));
  seconds_ += MPI_Wtime() - begin;
}

void MpiExchange::check_sizes(const std::vector<MPI_Status> &statuses) const {
  for (size_t r = 0; r < neighbors_.size(); r++) {
    // another one went wrong, and this one had not yet come
    if (statuses[r].MPI_ERROR == MPI_ERR_PENDING) continue;
    int n_bytes = 0;
    MPI_Get_count(&statuses[r], MPI_BYTE, &n_bytes);
    if (statuses[r].MPI_ERROR == MPI_SUCCESS && n_bytes == expected_[r]) continue;
    throw std::runtime_error(describe(r) + " do not agree on the edges that cross their border: " +
                             std::to_string(expected_[r]) + " bytes were expected, " +
                             std::to_string(n_bytes) + " came");
  }
}

std::string MpiExchange::describe(size_t neighbor) const {
  return "ranks " + std::to_string(rank_) + " and " + std::to_string(neighbors_.at(neighbor));
}

void MpiExchange::look_for_alarm() {
  int is_there = 0;
  MPI_Iprobe(MPI_ANY_SOURCE, ALARM, world_, &is_there, MPI_STATUS_IGNORE);
  if (!is_there) return;
  was_stopped_ = true;
  throw std::runtime_error("another rank failed");
}

void MpiExchange::raise_alarm() {
  for (int other = 0; other < n_ranks_; other++) {
    if (other == rank_) continue;
    // empty, so it needs no buffer, and nobody has to wait for it
    MPI_Request request;
    MPI_Isend(nullptr, 0, MPI_BYTE, other, ALARM, world_, &request);
    MPI_Request_free(&request);
  }
}

void MpiExchange::begin_step() {
  n_rows_ = n_bytes_ = 0;
  seconds_ = 0.0;
}

}    // namespace pet_calc
