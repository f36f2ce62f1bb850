// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright the pet-calc developers

#ifndef PET_CALC_EXCHANGE_H
#define PET_CALC_EXCHANGE_H

#include <mpi.h>

#include <cstdint>
#include <string>
#include <vector>

#include "engine/kernels/exchange.h"

namespace pet_calc {

// Messages between ranks by MPI. A rank that fails tells the others, which then wait no more.
class MpiExchange : public engine::Exchange {
 public:
  explicit MpiExchange(MPI_Comm world);
  MpiExchange(const MpiExchange &) = delete;
  // Collective. After a failure there may be messages left: then nothing is given back, and the
  // buffers of those messages, which go with this object, must stay. So do not destroy it then.
  ~MpiExchange() override;

  // whom the rows of `start` go to, in this order
  void set_neighbors(std::vector<int> ranks) { neighbors_ = std::move(ranks); }

  void start(const std::vector<int64_t> &starts, int64_t row_bytes) override;
  void finish() override;
  std::string describe(size_t neighbor) const override;

  // Ends the waiting of all others.
  void raise_alarm();
  // whether another rank did; then the reason is that rank's to tell
  bool was_stopped() const { return was_stopped_; }

  // a new step: the counts start again
  void begin_step();
  int64_t n_rows() const { return n_rows_; }      // of the last exchange
  int64_t n_bytes() const { return n_bytes_; }    // sent in this step
  double seconds() const { return seconds_; }     // in MPI in this step, mostly waiting

 private:
  void look_for_alarm();
  void check_sizes(const std::vector<MPI_Status> &statuses) const;

  MPI_Comm world_;
  int rank_ = 0, n_ranks_ = 1;
  std::vector<int> neighbors_;
  std::vector<MPI_Request> requests_;    // receives, then sends
  std::vector<int> expected_;            // bytes from each neighbour
  bool was_stopped_ = false;
  int64_t n_rows_ = 0, n_bytes_ = 0;
  double seconds_ = 0.0;
};

}    // namespace pet_calc

#endif
