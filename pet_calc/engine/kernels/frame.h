// What every pass over a network needs: the structures, products, blocks of attention.

#pragma once

#include "attention.h"
#include "weights.h"

namespace pet_calc::engine {

constexpr double MIN_CUTOFF_FACTOR = 1e-15;  // of pet_calc/model/constants.py

// The structures, as edges.
struct Input {
    Tensor species;   // [n_atoms] int64, species index
    Tensor kinds;     // [n_edges] int64, species index of the neighbour
    Tensor reverse;   // [n_edges] int64
    Tensor first;     // [n_atoms + 1] int64, first edge of each atom
    Tensor geometry;  // [n_edges, 4], vector and length
    Tensor factors;   // [n_edges], cutoff factors
    Tensor scale;     // [n_atoms], of each atom's energy
    c10::optional<Tensor> addition;  // [n_atoms, d_node], to the node tokens
};

struct Output {
    Tensor energies;     // [n_atoms]
    Tensor of_geometry;  // [n_edges, 4], gradient of the summed energies
    Tensor of_factors;   // [n_edges]
};

inline void multiply(const Tensor &x, const Tensor &matrix, const Tensor &panels,
                     Tensor out) {
    if (x.size(0) == 0) return;
    if (!panels.defined())
        at::mm_out(out, x, matrix);
    else if (x.scalar_type() == at::kDouble)
        multiply_panels<double>(x, panels, out, false);
    else
        multiply_panels<float>(x, panels, out, false);
}

inline void multiply(const Tensor &x, const Linear &layer, const Tensor &out) {
    multiply(x, layer.turned, layer.panels, out);
}

inline void multiply_back(const Tensor &x, const Linear &layer, const Tensor &out) {
    multiply(x, layer.weight, layer.back_panels, out);
}

// calls `work` with the width of an attention head as a constant
template <typename F>
void with_head_width(int64_t width, F work) {
    switch (width) {
        case 4: return work(std::integral_constant<int64_t, 4>());
        case 8: return work(std::integral_constant<int64_t, 8>());
        case 12: return work(std::integral_constant<int64_t, 12>());
        case 16: return work(std::integral_constant<int64_t, 16>());
        case 24: return work(std::integral_constant<int64_t, 24>());
        case 32: return work(std::integral_constant<int64_t, 32>());
        case 48: return work(std::integral_constant<int64_t, 48>());
        case 64: return work(std::integral_constant<int64_t, 64>());
        case 80: return work(std::integral_constant<int64_t, 80>());
        case 96: return work(std::integral_constant<int64_t, 96>());
        case 128: return work(std::integral_constant<int64_t, 128>());
    }
    TORCH_CHECK(false, "no kernel for attention heads of width ", width);
}

// starts [n_atoms + 1] of the attention weights of each atom's block
inline std::vector<int64_t> find_weight_starts(const int64_t *first, int64_t n_atoms,
                                               int64_t n_heads) {
    std::vector<int64_t> starts(n_atoms + 1, 0);
    for (int64_t i = 0; i < n_atoms; i++) {
        int64_t size = first[i + 1] - first[i] + 1;
        starts[i + 1] = starts[i] + size * pad(size) * n_heads;
    }
    return starts;
}

}  // namespace pet_calc::engine
