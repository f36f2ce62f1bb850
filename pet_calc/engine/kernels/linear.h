// The matrix of a linear layer, and products with it.

#pragma once

#include "products.h"

#include <ATen/core/ivalue.h>

#include <unordered_map>
#include <vector>

namespace pet_calc::engine {

struct Linear {
    Tensor weight;               // [out, in]
    Tensor turned;               // [in, out]: the same
    Tensor panels, back_panels;  // of `turned` and of `weight`, where they pay
    Tensor bias;                 // [out], added by the kernel that reads the product
    Tensor lora_a, lora_b;       // [r, in], [r, out]: where the gradient goes by these

    int64_t n_in() const { return weight.size(1); }
    int64_t n_out() const { return weight.size(0); }
};

// Panels of weights that stay the same from network to network, laid out once.
class Layouts : public torch::CustomClassHolder {
  public:
    explicit Layouts(const std::vector<Tensor> &weights) {
        for (const Tensor &weight : weights)
            known_.emplace(weight.unsafeGetTensorImpl(), Linear{weight});
    }

    bool keeps(const Linear &layer) const {
        return known_.count(layer.weight.unsafeGetTensorImpl()) > 0;
    }

    // lays out a layer's matrix, or takes what is there
    void lay_out(Linear &layer) {
        auto found = known_.find(layer.weight.unsafeGetTensorImpl());
        Linear &kept = found == known_.end() ? layer : found->second;
        if (!kept.panels.defined()) {
            kept.panels = lay_out_panels(layer.weight.t());
            kept.back_panels = lay_out_panels(layer.weight);
        }
        layer.panels = kept.panels;
        layer.back_panels = kept.back_panels;
    }

    int64_t count_bytes() const {
        int64_t total = 0;
        for (const auto &[key, layer] : known_)
            if (layer.panels.defined()) total += layer.panels.nbytes() + layer.back_panels.nbytes();
        return total;
    }

  private:
    std::unordered_map<const void *, Linear> known_;
};

inline void multiply(const Tensor &x, const Tensor &matrix, const Tensor &panels, Tensor out) {
    if (x.size(0) == 0) return;
    if (!panels.defined())
        at::mm_out(out, x, matrix);
    else if (x.scalar_type() == at::kDouble)
        multiply_panels<double>(x, panels, out, false);
    else
        multiply_panels<float>(x, panels, out, false);
}

// out [n, n_out] = x [n, n_in] times the layer's matrix transposed, without its bias
inline void multiply(const Tensor &x, const Linear &layer, const Tensor &out) {
    multiply(x, layer.turned, layer.panels, out);
}

// grad_x [n, n_in] from grad_y [n, n_out]
inline void multiply_backward(const Tensor &grad_y, const Linear &layer, const Tensor &grad_x) {
    multiply(grad_y, layer.weight, layer.back_panels, grad_x);
}

}  // namespace pet_calc::engine
