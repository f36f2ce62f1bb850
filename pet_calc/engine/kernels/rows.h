// Kernels that work row by row, and what all of them need. A is the type that numbers are
// computed in, S the one in which matrix products read and write them (A or bfloat16).
//
// `ivdep` tells the compiler that arrays are worked on in place or apart, but never
// shifted: it would not vectorise loops over many arrays, exponentials among them.

#pragma once

#include <ATen/Parallel.h>
#include <c10/util/BFloat16.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <type_traits>
#include <vector>

namespace pet_calc::engine {

// rows of about this many numbers are worth a thread
constexpr int64_t GRAIN = 16384;

template <typename F>
void for_rows(int64_t n_rows, int64_t width, F work) {
    int64_t grain = std::max<int64_t>(1, GRAIN / std::max<int64_t>(1, width));
    at::parallel_for(0, n_rows, grain, [&](int64_t begin, int64_t end) { work(begin, end); });
}

// bfloat16 with round-to-nearest-even, in a form that compilers vectorise
inline float widen(c10::BFloat16 value) {
    uint32_t bits = static_cast<uint32_t>(value.x) << 16;
    float result;
    __builtin_memcpy(&result, &bits, 4);
    return result;
}
inline float widen(float value) { return value; }
inline double widen(double value) { return value; }

template <typename S, typename A>
inline S narrow(A value) {
    if constexpr (std::is_same_v<S, c10::BFloat16>) {
        float single = static_cast<float>(value);
        uint32_t bits;
        __builtin_memcpy(&bits, &single, 4);
        bits += 0x7fffu + ((bits >> 16) & 1u);
        return c10::BFloat16(static_cast<uint16_t>(bits >> 16), c10::BFloat16::from_bits());
    } else {
        return static_cast<S>(value);
    }
}

// Exponentials of more than this are infinite, which fast arithmetic does not know, and
// those of less than minus this do not count beside 1; vector exponentials would compute
// either number by number.
template <typename A>
constexpr A MOST_EXPONENT = sizeof(A) == 4 ? A(80) : A(700);

// out = x, converted
template <typename A, typename S>
void convert(const A *x, S *out, int64_t n_rows, int64_t d) {
    for_rows(n_rows, d, [&](int64_t begin, int64_t end) {
#pragma GCC ivdep
        for (int64_t k = begin * d; k < end * d; k++) out[k] = narrow<S>(x[k]);
    });
}

// stream = update + bias, or that added to it
template <bool adds, typename A, typename S>
void apply_update(A *stream, const S *update, const A *bias, int64_t n_rows, int64_t d) {
    for_rows(n_rows, d, [&](int64_t begin, int64_t end) {
        for (int64_t row = begin; row < end; row++) {
            A *s = stream + row * d;
            const S *u = update + row * d;
#pragma GCC ivdep
            for (int64_t k = 0; k < d; k++) s[k] = (adds ? s[k] : A(0)) + widen(u[k]) + bias[k];
        }
    });
}

template <typename A, typename S>
void add_update(A *stream, const S *update, const A *bias, int64_t n_rows, int64_t d) {
    apply_update<true, A, S>(stream, update, bias, n_rows, d);
}

template <typename A, typename S>
void set_update(A *stream, const S *update, const A *bias, int64_t n_rows, int64_t d) {
    apply_update<false, A, S>(stream, update, bias, n_rows, d);
}

// stream += update
template <typename A, typename S>
void add_rows(A *stream, const S *update, int64_t n_rows, int64_t d) {
    for_rows(n_rows, d, [&](int64_t begin, int64_t end) {
#pragma GCC ivdep
        for (int64_t k = begin * d; k < end * d; k++) stream[k] += widen(update[k]);
    });
}

// message = (message + edge of the reverse) / 2
template <typename A>
void average_with_reverse(A *message, const A *edge, const int64_t *reverse, int64_t n_edges,
                          int64_t d) {
    for_rows(n_edges, d, [&](int64_t begin, int64_t end) {
        for (int64_t e = begin; e < end; e++) {
            const A *other = edge + reverse[e] * d;
#pragma GCC ivdep
            for (int64_t k = 0; k < d; k++)
                message[e * d + k] = A(0.5) * (message[e * d + k] + other[k]);
        }
    });
}

}  // namespace pet_calc::engine
