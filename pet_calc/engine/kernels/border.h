// The rows at a rank's border: packing, and putting what comes where the layers read it.

#pragma once

#include "exchange.h"

#include <cstring>
#include <utility>

namespace pet_calc::engine {

class Border {
  public:
    Border(Exchange &exchange, Crossings crossings)
        : exchange_(exchange), crossings_(std::move(crossings)) {}

    int64_t size() const { return crossings_.rows.size(); }
    // own rows, by their place
    const std::vector<int64_t> &rows() const { return crossings_.rows; }

    // Sends columns `first` to `first + width` of the rows, which are `stride` wide. `finish`
    // puts those of the reverses into the rows from `n_rows` on.
    template <typename A>
    void start(A *data, int64_t n_rows, int64_t stride, int64_t first, int64_t width) {
        row_bytes_ = width * sizeof(A);
        stride_bytes_ = stride * sizeof(A);
        target_ = reinterpret_cast<char *>(data + n_rows * stride + first);
        exchange_.sent.resize(size() * row_bytes_);
        exchange_.received.resize(size() * row_bytes_);
        for (int64_t h = 0; h < size(); h++)
            std::memcpy(exchange_.sent.data() + h * row_bytes_,
                        data + crossings_.rows[h] * stride + first, row_bytes_);
        exchange_.start(crossings_.starts, row_bytes_);
    }

    void finish() {
        exchange_.finish();
        for (int64_t h = 0; h < size(); h++)
            std::memcpy(target_ + h * stride_bytes_, exchange_.received.data() + h * row_bytes_,
                        row_bytes_);
    }

    // the neighbour of a place, for messages
    std::string describe(int64_t place) const {
        size_t neighbor = 0;
        while (crossings_.starts[neighbor + 1] <= place) neighbor++;
        return exchange_.describe(neighbor);
    }

  private:
    Exchange &exchange_;
    const Crossings crossings_;
    int64_t row_bytes_ = 0, stride_bytes_ = 0;
    char *target_ = nullptr;
};

}  // namespace pet_calc::engine
