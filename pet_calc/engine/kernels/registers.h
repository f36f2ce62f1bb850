// The processor's registers as types.

#pragma once

#include <cstdint>

namespace pet_calc::engine {

// W numbers in registers; aligned as one number, so that it can be read from anywhere
template <typename A, int64_t W>
struct Lanes {
    typedef A type __attribute__((vector_size(W * sizeof(A)), aligned(sizeof(A)), may_alias));
};

// of this processor; compilers make slow code of wider vectors
#if defined(__AVX512F__)
constexpr int64_t REGISTER_BYTES = 64;
#elif defined(__AVX__)
constexpr int64_t REGISTER_BYTES = 32;
#else
constexpr int64_t REGISTER_BYTES = 16;
#endif

// the widest registers that d numbers fill without a rest
template <typename A>
constexpr int64_t choose_width(int64_t d) {
    int64_t width = REGISTER_BYTES / sizeof(A);
    while (d % width != 0) width /= 2;
    return width;
}

}  // namespace pet_calc::engine
