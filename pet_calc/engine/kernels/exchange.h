// How ranks that share a structure give each other rows of edges. Needs no torch: the LAMMPS
// plugin implements it with MPI, tests with threads.

#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace pet_calc::engine {

// Own rows whose reverses other ranks have. Those of one rank are together, and it has their
// reverses in the same order. So both send and get equally many, and the exchange is its own
// transpose: gradients go back as values came.
struct Crossings {
    std::vector<int64_t> rows;    // of pairs or of edges
    std::vector<int64_t> starts;  // [n_neighbors + 1], the first of each neighbouring rank
};

// One message to and from each neighbouring rank at a time.
class Exchange {
  public:
    virtual ~Exchange() = default;

    // Sends `sent` and receives `received`, rows of `row_bytes` each, without waiting. Those of
    // neighbour r are starts[r] to starts[r + 1] of either; they stay as they are until `finish`.
    virtual void start(const std::vector<int64_t> &starts, int64_t row_bytes) = 0;
    // Waits for both. Throws if another rank failed, or has another number of rows.
    virtual void finish() = 0;
    // who that neighbour is and who asks, for messages
    virtual std::string describe(size_t neighbor) const = 0;

    // They live here, so that a message on its way has a place whatever becomes of the pass.
    std::vector<char> sent, received;
};

// What one rank evaluates: its own atoms, which come first, and pairs whose centre is one of
// them. A pair of `crossings`, which has place h there, has n_pairs + h as its reverse.
struct Part {
    int64_t n_centers;
    Crossings crossings;  // of pairs
    Exchange &exchange;
};

}  // namespace pet_calc::engine
