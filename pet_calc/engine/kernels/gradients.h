// Gradients in those of a network's tensors that are asked for.

#pragma once

#include "low_rank.h"
#include "weights.h"

#include <unordered_map>
#include <unordered_set>

namespace pet_calc::engine {

// Which of a network's tensors have gradients, known before there are any.
class Trained {
  public:
    Trained(const Tensors &tensors, const std::vector<std::string> &names) {
        for (const std::string &name : names)
            if (tensors.contains(name)) known_.insert(tensors.at(name).unsafeGetTensorImpl());
    }

    // whether the gradient needs a layer's input
    bool has(const Linear &layer) const {
        return has(layer.weight) || has(layer.lora_a) || has(layer.lora_b);
    }

  private:
    bool has(const Tensor &tensor) const { return known_.count(tensor.unsafeGetTensorImpl()) > 0; }
    std::unordered_set<const void *> known_;
};

class Gradients {
  public:
    // `names` of `tensors`; "addition" is the one that has no weights of the network
    Gradients(const Tensors &tensors, const std::vector<std::string> &names,
              const c10::optional<Tensor> &addition) {
        for (const std::string &name : names) {
            bool is_addition = name == "addition";
            const Tensor tensor = is_addition ? *addition : tensors.at(name);
            Tensor gradient = at::zeros_like(tensor);
            by_name.insert(name, gradient);
            by_tensor_.emplace(tensor.unsafeGetTensorImpl(), gradient);
            has_trunk_ = has_trunk_ || name.find("_head.") == std::string::npos;
            has_inputs_ = has_inputs_ || is_of_inputs(name);
        }
    }

    // null if nobody asked
    Tensor *find(const Tensor &tensor) {
        auto found = by_tensor_.find(tensor.unsafeGetTensorImpl());
        return found == by_tensor_.end() ? nullptr : &found->second;
    }

    // whether anything but heads is asked for
    bool has_trunk() const { return has_trunk_; }

    // whether anything is asked for that comes before the first attention
    bool has_inputs() const { return has_inputs_; }

    // of a bias, or of anything that is added to each row
    void add_sum(const Tensor &bias, const Tensor &grad_rows_dot) {
        if (!bias.defined()) return;
        if (Tensor *sum = find(bias)) sum->add_(grad_rows_dot.sum(0));
    }

    // of a table whose rows `index` were looked up
    void add_to_rows(const Tensor &table, const Tensor &index, const Tensor &grad_rows_dot) {
        if (Tensor *sum = find(table)) sum->index_add_(0, index, grad_rows_dot);
    }

    // of the matrix of a linear layer y = x W^T, or of its factors
    template <typename A>
    void add_matrix(const Linear &layer, const Twin &x, const Tensor &grad_y,
                    const Tensor &grad_y_dot) {
        if (layer.lora_a.defined())
            add_factor_gradients<A>(layer.lora_a, layer.lora_b, x, {grad_y, grad_y_dot},
                                    find(layer.lora_a), find(layer.lora_b));
        if (Tensor *weight = find(layer.weight)) {
            add_product_of_columns<A>(grad_y_dot, x.value, *weight);
            add_product_of_columns<A>(grad_y, x.dot, *weight);
        }
    }

    Tensors by_name;

  private:
    static bool is_of_inputs(const std::string &name) {
        for (const char *start : {"addition", "message_table", "node_table.", "gnn.0.basis",
                                  "gnn.0.table", "gnn.0.compress.", "gnn.0.0.contract."})
            if (name.rfind(start, 0) == 0) return true;
        return false;
    }

    std::unordered_map<const void *, Tensor> by_tensor_;
    bool has_trunk_ = false, has_inputs_ = false;
};

}  // namespace pet_calc::engine
