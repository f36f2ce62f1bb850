// The folded weights of a PET and its shape. pet_calc/model/fold.py has the names.

#pragma once

#include "constants.h"
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

// With fewer rows than this a matrix that is used in four products only is not laid out;
// one that stays always is.
constexpr int64_t ENOUGH_ROWS = 128;

using Tensors = c10::Dict<std::string, Tensor>;
using Integers = c10::Dict<std::string, int64_t>;
using Numbers = c10::Dict<std::string, double>;

// Numbers of atoms and edges; as many as there may be, for a network that is kept.
struct Sizes {
    int64_t n_atoms = std::numeric_limits<int64_t>::max();
    int64_t n_edges = std::numeric_limits<int64_t>::max();
};

// The kernels trust the sizes, types and layout of what they get.
inline void check_sizes(const std::string &name, const Tensor &x, at::IntArrayRef sizes,
                        at::ScalarType type) {
    TORCH_CHECK(x.defined() && x.sizes() == sizes, "engine: ", name, ": expected the size ", sizes,
                ", got ", x.defined() ? x.sizes() : at::IntArrayRef());
    TORCH_CHECK(x.scalar_type() == type, "engine: ", name, ": expected numbers of type ", type,
                ", got ", x.scalar_type());
}

inline void check_tensor(const std::string &name, const Tensor &x, at::IntArrayRef sizes,
                         at::ScalarType type) {
    check_sizes(name, x, sizes, type);
    TORCH_CHECK(x.device().is_cpu() && x.is_contiguous(), "engine: ", name,
                ": expected contiguous memory of the CPU");
}

struct Network {
    Sizes expected;
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
            const Sizes &expected, Layouts &layouts)
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
        TORCH_CHECK(shape.at("format_version") == FORMAT_VERSION, "the weights are folded in form ",
                    shape.at("format_version"), ", this engine knows form ", FORMAT_VERSION);
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
            node_heads.push_back(
                read_head(tensors, layouts, "node_head" + suffix, expected.n_atoms));
            edge_heads.push_back(
                read_head(tensors, layouts, "edge_head" + suffix, expected.n_edges));
            node_tables.push_back(tensors.at("node_table" + suffix));
        }
        message_table = tensors.at("message_table");
        real = message_table.scalar_type();
        stored = gnn[0].compress.weight.scalar_type();
        check();
    }

    int64_t n_species() const { return message_table.size(0); }

  private:
    static Linear read_linear(const Tensors &tensors, Layouts &layouts, const std::string &name,
                              int64_t n_rows) {
        Linear result;
        result.weight = tensors.at(name + ".weight");
        result.turned = result.weight.t();
        if (n_rows >= ENOUGH_ROWS || layouts.keeps(result)) {
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
                               is_of_nodes ? expected.n_atoms : expected.n_edges);
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

    static HeadWeights read_head(const Tensors &tensors, Layouts &layouts, const std::string &name,
                                 int64_t n_rows) {
        HeadWeights head;
        head.first = read_linear(tensors, layouts, name + ".0", n_rows);
        head.second = read_linear(tensors, layouts, name + ".1", n_rows);
        head.last = tensors.at(name + ".last");
        head.last_bias = tensors.at(name + ".last_bias");
        return head;
    }

    // `has_bias`: whether a kernel adds one
    void check(const std::string &name, const Linear &layer, int64_t n_out, int64_t n_in,
               bool has_bias = true) const {
        check_sizes(name, layer.weight, {n_out, n_in}, stored);
        if (layer.lora_a.defined()) {
            check_sizes(name + ".lora_A", layer.lora_a, {layer.lora_a.size(0), n_in}, real);
            check_sizes(name + ".lora_B", layer.lora_b, {layer.lora_a.size(0), n_out}, real);
        }
        if (has_bias) check_tensor(name + ".bias", layer.bias, {n_out}, real);
    }

    // an MLP, whose activation may be of twice as many numbers as it leaves
    void check(const std::string &name, const Linear &in, const Linear &out, int64_t width,
               bool is_gated) const {
        int64_t n_hidden = out.n_in();
        check(name + "_in", in, (is_gated ? 2 : 1) * n_hidden, width);
        check(name + "_out", out, width, n_hidden);
    }

    void check(const std::string &name, const HeadWeights &head, int64_t width) const {
        int64_t n_hidden = head.last.numel();
        check(name + ".0", head.first, n_hidden, width);
        check(name + ".1", head.second, n_hidden, n_hidden);
        check_tensor(name + ".last", head.last, {n_hidden}, real);
        TORCH_CHECK(head.last_bias.numel() == 1, "engine: ", name, ".last_bias: expected a number");
    }

    void check(const std::string &prefix, const GnnWeights &layer) const {
        check_tensor(prefix + "basis", layer.basis, {4, d_pet}, real);
        check_tensor(prefix + "table", layer.table, {n_species(), d_pet}, real);
        check(prefix + "compress", layer.compress, d_pet, d_pet);
        if (layer.message.weight.defined())
            check(prefix + "message", layer.message, d_pet, d_pet, false);
        for (size_t t = 0; t < layer.transformers.size(); t++) {
            const TransformerWeights &weights = layer.transformers[t];
            const std::string inner = prefix + std::to_string(t) + ".";
            check(inner + "mixed", weights.qkv, 3 * d_pet, d_pet);
            check(inner + "out", weights.out, d_pet, d_pet);
            check(inner + "mlp", weights.mlp_in, weights.mlp_out, d_pet, is_gated);
            if (!has_wide_node) continue;
            check(inner + "contract", weights.contract, d_pet, d_node);
            check(inner + "expand", weights.expand, d_node, d_pet);
            check(inner + "center", weights.center_in, weights.center_out, d_node, is_gated);
        }
        if (!is_feedforward) return;
        check(prefix + "pair_in", layer.pair_in, 2 * d_pet, 2 * d_pet);
        check(prefix + "pair_out", layer.pair_out, d_pet, 2 * d_pet);
    }

    void check() const {
        TORCH_CHECK(n_heads > 0 && d_pet % n_heads == 0, "engine: ", n_heads,
                    " attention heads do not share the width ", d_pet);
        check_tensor("message_table", message_table, {n_species(), d_pet}, real);
        for (size_t g = 0; g < gnn.size(); g++) check("gnn." + std::to_string(g) + ".", gnn[g]);
        TORCH_CHECK(node_heads.size() == (is_feedforward ? 1 : gnn.size()),
                    "engine: ", node_heads.size(), " readout layers do not go with ", gnn.size(),
                    " layers");
        for (size_t r = 0; r < node_heads.size(); r++) {
            std::string suffix = "." + std::to_string(r);
            check_tensor("node_table" + suffix, node_tables[r], {n_species(), d_node}, real);
            check("node_head" + suffix, node_heads[r], d_node);
            check("edge_head" + suffix, edge_heads[r], d_pet);
        }
    }
};

}  // namespace pet_calc::engine
