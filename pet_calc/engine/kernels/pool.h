// Buffers that are kept between calls: new memory would have to be cleared by the system
// each time, which costs as much as the arithmetic.

#pragma once

#include <ATen/ATen.h>

#include <array>
#include <vector>

namespace pet_calc::engine {

using at::Tensor;

// Something in the network, and how it changes along the direction.
struct Twin {
    Tensor value, dot;
};

// Scratch, by what it is for. What is in it lasts until the next one asks for the same.
enum Scratch { PASSING, HIDDEN, HIDDEN_DOT, ACTIVE, ACTIVE_DOT, N_SCRATCH };

class Pool {
  public:
    // what was taken so far is there to be taken again
    void rewind() { next_ = 0; }

    // A buffer until `rewind`. Whoever takes the same in the same order gets the same ones.
    Tensor take(int64_t n_rows, int64_t n_columns, at::ScalarType dtype) {
        if (next_ == buffers_.size()) buffers_.emplace_back();
        return view(buffers_[next_++], n_rows, n_columns, dtype);
    }

    Tensor borrow(Scratch scratch, int64_t n_rows, int64_t n_columns, at::ScalarType dtype) {
        return view(scratch_[scratch], n_rows, n_columns, dtype);
    }

    int64_t count_bytes() const {
        int64_t total = 0;
        for (const Tensor &buffer : buffers_) total += count_bytes(buffer);
        for (const Tensor &buffer : scratch_) total += count_bytes(buffer);
        return total;
    }

  private:
    static int64_t count_bytes(const Tensor &buffer) {
        return buffer.defined() ? buffer.nbytes() : 0;
    }

    // of the buffer, which is made larger if it is too small
    static Tensor view(Tensor &buffer, int64_t n_rows, int64_t n_columns, at::ScalarType dtype) {
        int64_t needed = n_rows * n_columns;
        if (!buffer.defined() || buffer.numel() < needed || buffer.scalar_type() != dtype)
            buffer = at::empty({needed + needed / 8}, at::TensorOptions().dtype(dtype));
        return buffer.narrow(0, 0, needed).view({n_rows, n_columns});
    }

    std::vector<Tensor> buffers_;
    std::array<Tensor, N_SCRATCH> scratch_;
    size_t next_ = 0;
};

}  // namespace pet_calc::engine
