// What the passes of a training step keep for each other. A tensor `of_x` is the energy's
// gradient in x.

#pragma once

#include <ATen/ATen.h>

#include <vector>

namespace pet_calc::engine {

using at::Tensor;

// Something in the network, and how it changes along the direction.
struct Twin {
    Tensor value, dot;
};

struct NormTape {
    Twin out;
    Tensor inverse, along;
    Tensor of_out;
};

// stream += out(activation(in(norm(stream))))
struct MlpTape {
    NormTape norm;
    Twin hidden, active;
    Tensor of_active, of_update;
};

struct TransformerTape {
    Twin wide;  // node features, where they are wider than edges
    NormTape tokens;
    Twin mixed, weights, attended, nodes;
    Tensor of_mixed, of_attended, of_tokens_out, of_contracted, of_expanded;
    MlpTape edge_mlp, node_mlp;
};

struct GnnTape {
    Twin message, embedded, active;
    Tensor of_active, of_edge;
    std::vector<TransformerTape> transformers;
    MlpTape pair_mlp;
};

struct HeadTape {
    Twin in, first, hidden, second;
    Tensor of_hidden;
};

}  // namespace pet_calc::engine
