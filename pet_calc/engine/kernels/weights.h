// The folded weights of a PET and its shape. pet_calc/model/fold.py has the names.

#pragma once

#include "cutoff.h"
#include "linear.h"

#include <ATen/ATen.h>
#include <ATen/core/Dict.h>
#include <ATen/core/ivalue.h>

#include <limits>
#include <string>
#include <vector>

namespace pet_calc::engine {

struct TransformerWeights {
    Linear qkv, out, mlp_in, mlp_out;
    Linear contract, expand, center_in, center_out;  // where nodes are wider than edges
};

struct GnnWeights {
    Tensor basis, table;       // of geometry and of elements
    Linear message, compress;  // `message` not in the first layer
    Linear pair_in, pair_out;  // feedforward only
    std::vector<TransformerWeights> transformers;
};

struct HeadWeights {
    Linear first, second;
    Tensor last, last_bias;
};

// With fewer rows than this a matrix that is used in four products only is not laid out.
constexpr int64_t ENOUGH_ROWS = 512;

// FORMAT_VERSION of fold.py
constexpr int64_t FORMAT_VERSION = 1;

using Tensors = c10::Dict<std::string, Tensor>;
using Integers = c10::Dict<std::string, int64_t>;
using Numbers = c10::Dict<std::string, double>;

// Numbers of atoms and edges; as many as there may be, for a network that is kept.
struct Rows {
    int64_t nodes = std::numeric_limits<int64_t>::max();
    int64_t edges = std::numeric_limits<int64_t>::max();
};

struct Network {
    Rows expected;
    int64_t d_pet, d_node, n_heads;
    bool is_feedforward, is_gated, has_wide_node, subtracts_mean;
    double eps, pair_eps, attention_scale;
    Cutoff cutoff;
    at::ScalarType real, stored;  // of streams and biases, of products
    std::vector<GnnWeights> gnn;
    std::vector<HeadWeights> node_heads, edge_heads;
    std::vector<Tensor> node_tables;
    Tensor message_table;

    // `expected`: how many rows its products will have; `layouts`: of some weights
    Network(const Tensors &tensors, const Integers &shape, const Numbers &numbers,
            const Rows &expected, Layouts &layouts)
        : expected(expected),
          d_pet(shape.at("d_pet")),
          d_node(shape.at("d_node")),
          n_heads(shape.at("num_heads")),
          is_feedforward(shape.at("is_feedforward") != 0),
          is_gated(shape.at("is_gated") != 0),
          has_wide_node(d_node != d_pet),
          subtracts_mean(shape.at("subtracts_mean") != 0),
          eps(numbers.at("eps")),
          pair_eps(numbers.at("pair_eps")),
          attention_scale(numbers.at("attention_scale")) {
        TORCH_CHECK(shape.at("format_version") == FORMAT_VERSION,
                    "the weights are folded in form ", shape.at("format_version"),
                    ", this engine knows form ", FORMAT_VERSION);
        cutoff.radius = numbers.at("cutoff");
        cutoff.width = numbers.at("cutoff_width");
        cutoff.n_wanted = numbers.at("n_wanted");
        cutoff.adaptive_width = numbers.at("adaptive_width");
        cutoff.is_bump = shape.at("is_bump") != 0;
        cutoff.is_adaptive = shape.at("is_adaptive") != 0;
        for (int64_t g = 0; g < shape.at("num_gnn_layers"); g++)
            gnn.push_back(read_gnn(tensors, layouts, g, shape.at("num_attention_layers")));
        for (int64_t r = 0; r < shape.at("num_readout_layers"); r++) {
            std::string suffix = "." + std::to_string(r);
            node_heads.push_back(read_head(tensors, layouts, "node_head" + suffix, expected.nodes));
            edge_heads.push_back(read_head(tensors, layouts, "edge_head" + suffix, expected.edges));
            node_tables.push_back(tensors.at("node_table" + suffix));
        }
        message_table = tensors.at("message_table");
        real = message_table.scalar_type();
        stored = gnn[0].compress.weight.scalar_type();
    }

  private:
    static Linear read_linear(const Tensors &tensors, Layouts &layouts,
                              const std::string &name, int64_t n_rows) {
        Linear result;
        result.weight = tensors.at(name + ".weight");
        result.turned = result.weight.t();
        if (n_rows >= ENOUGH_ROWS) {
            layouts.lay_out(result);
            if (!result.panels.defined()) result.turned = result.turned.contiguous();
        }
        if (tensors.contains(name + ".bias")) result.bias = tensors.at(name + ".bias");
        if (tensors.contains(name + ".lora_A")) {
            result.lora_a = tensors.at(name + ".lora_A");
            result.lora_b = tensors.at(name + ".lora_B");
        }
        return result;
    }

    GnnWeights read_gnn(const Tensors &tensors, Layouts &layouts, int64_t g,
                        int64_t n_transformers) const {
        std::string prefix = "gnn." + std::to_string(g) + ".";
        auto linear = [&](const std::string &name, bool is_of_nodes = false) {
            return read_linear(tensors, layouts, prefix + name,
                               is_of_nodes ? expected.nodes : expected.edges);
        };
        GnnWeights layer;
        layer.basis = tensors.at(prefix + "basis");
        layer.table = tensors.at(prefix + "table");
        layer.compress = linear("compress");
        if (g > 0) layer.message = linear("message");
        if (is_feedforward) {
            layer.pair_in = linear("pair_in");
            layer.pair_out = linear("pair_out");
        }
        for (int64_t t = 0; t < n_transformers; t++) {
            std::string inner = std::to_string(t) + ".";
            TransformerWeights weights;
            weights.qkv = linear(inner + "mixed");
            weights.out = linear(inner + "out");
            weights.mlp_in = linear(inner + "mlp_in");
            weights.mlp_out = linear(inner + "mlp_out");
            if (has_wide_node) {
                weights.contract = linear(inner + "contract", true);
                weights.expand = linear(inner + "expand", true);
                weights.center_in = linear(inner + "center_in", true);
                weights.center_out = linear(inner + "center_out", true);
            }
            layer.transformers.push_back(weights);
        }
        return layer;
    }

    static HeadWeights read_head(const Tensors &tensors, Layouts &layouts,
                                 const std::string &name, int64_t n_rows) {
        HeadWeights head;
        head.first = read_linear(tensors, layouts, name + ".0", n_rows);
        head.second = read_linear(tensors, layouts, name + ".1", n_rows);
        head.last = tensors.at(name + ".last");
        head.last_bias = tensors.at(name + ".last_bias");
        return head;
    }
};

}  // namespace pet_calc::engine
