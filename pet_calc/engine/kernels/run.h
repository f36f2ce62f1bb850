// What the layers of one pass share: sizes, streams, buffers, and whether they keep what
// they compute for a gradient in the weights.

#pragma once

#include "attention.h"
#include "gradients.h"
#include "input.h"
#include "norm.h"

namespace pet_calc::engine {

// The types of a pass: `A` of streams and sums, `S` of what products read and write. In
// training layers keep a tape: what they compute, and how it changes along the direction.
template <typename Real, typename Stored, bool is_training>
struct Mode {
    using A = Real;
    using S = Stored;
    static constexpr bool IS_TRAINING = is_training;
};

template <typename T>
T *data(const Tensor &x) {
    return x.data_ptr<T>();
}

template <typename M>
struct Run {
    using A = typename M::A;
    using S = typename M::S;

    // `trained`: which tensors will have gradients, in training
    Run(const Network &network, const Input &input, Pool &pool, const Trained *trained)
        : network(network),
          input(input),
          pool(pool),
          trained(trained),
          n_atoms(input.species.size(0)),
          n_edges(input.kinds.size(0)),
          n_tokens(n_atoms + n_edges),
          n_foreign(input.border ? input.border->size() : 0),
          d_pet(network.d_pet),
          d_node(network.d_node),
          first_edge(data<int64_t>(input.first_edge)),
          reverse(data<int64_t>(input.reverse)),
          factors(data<A>(input.factors)),
          scale(data<A>(input.scale)) {
        pool.rewind();
        tokens = take_real(n_tokens + n_foreign, d_pet);
        node_tokens = tokens.narrow(0, 0, n_atoms);
        edge = tokens.narrow(0, n_atoms, n_edges);
        node = take_real(n_atoms, d_node);
        all_messages = take_real(n_edges + n_foreign, d_pet);
        message = all_messages.narrow(0, 0, n_edges);
        token_rows = take_stored(n_tokens, d_pet);
        node_rows = token_rows.narrow(0, 0, n_atoms);
        edge_rows = token_rows.narrow(0, n_atoms, n_edges);
        wide_rows = take_stored(n_atoms, d_node);
        norm = {network.subtracts_mean, A(network.eps)};
        pair_norm = {{true, A(network.pair_eps)},
                     reverse,
                     data<A>(take_real(n_edges + n_foreign, 2 * d_pet)),
                     input.border};
        grad_edge_values = take_real(n_edges, 1);
        grad_logs = take_real(n_edges, 1);
        if (M::IS_TRAINING) no_bias = at::zeros({d_pet}, tokens.options());
        start_blocks();
    }

    Run(const Run &) = delete;

    // ---- buffers

    Tensor take_real(int64_t n_rows, int64_t n_columns) {
        return pool.take(n_rows, n_columns, network.real);
    }
    Tensor take_stored(int64_t n_rows, int64_t n_columns) {
        return pool.take(n_rows, n_columns, network.stored);
    }
    Tensor borrow(Scratch scratch, int64_t n_rows, int64_t n_columns) {
        return pool.borrow(scratch, n_rows, n_columns, network.stored);
    }
    // for what the next product reads, and nothing else
    Tensor lend(int64_t n_rows, int64_t n_columns) {
        borrow(PASSING, n_tokens, 3 * d_pet);  // nearly always enough
        return borrow(PASSING, n_rows, n_columns);
    }
    Twin take_twin(int64_t n_rows, int64_t n_columns) {
        Tensor value = take_stored(n_rows, n_columns);
        return {value, M::IS_TRAINING ? take_stored(n_rows, n_columns) : Tensor()};
    }

    // a stream in the type that products read: itself, or converted
    Tensor as_stored(const Tensor &stream) {
        if constexpr (std::is_same_v<A, S>) return stream;
        Tensor buffer = lend(stream.size(0), stream.size(1));
        convert<A, S>(data<A>(stream), data<S>(buffer), stream.size(0), stream.size(1));
        return buffer;
    }

    // ---- what is kept for the gradient in the weights

    // whether the gradient needs a layer's input and the gradient of its output
    bool keeps(const Linear &layer) const {
        if constexpr (M::IS_TRAINING) return trained->has(layer);
        return false;
    }
    // where the input of a layer is computed
    Twin take_input(const Linear &layer, int64_t n_rows) {
        if (keeps(layer)) return take_twin(n_rows, layer.n_in());
        Tensor passing = lend(n_rows, layer.n_in());
        return {passing, passing};
    }
    // a stream as the input of a layer
    Twin keep_input(const Linear &layer, const Tensor &stream) {
        if (!keeps(layer)) return {as_stored(stream), Tensor()};
        Twin kept = take_twin(stream.size(0), stream.size(1));
        kept.value.copy_(stream);
        return kept;
    }
    // how that stream changes
    void keep_dot(const Linear &layer, Twin &kept, const Tensor &stream) {
        if (keeps(layer)) kept.dot.copy_(stream);
    }
    // a stream as the gradient of a layer's output
    Tensor keep_gradient(const Linear &layer, const Tensor &stream) {
        if (!keeps(layer)) return as_stored(stream);
        return take_stored(stream.size(0), stream.size(1)).copy_(stream);
    }
    // where the gradient of a layer's output is computed
    Tensor take_gradient(const Linear &layer, int64_t n_rows) {
        if (keeps(layer)) return take_stored(n_rows, layer.n_out());
        return lend(n_rows, layer.n_out());
    }
    // where a gradient is computed that only `backward_dot` asks for again
    Tensor take_gradient(int64_t n_rows, int64_t n_columns) {
        if constexpr (M::IS_TRAINING) return take_stored(n_rows, n_columns);
        return borrow(ACTIVE, n_rows, n_columns);
    }
    // where something gets its gradient: in its place, if nobody asks for it again
    Tensor find_place(const Tensor &x) {
        if constexpr (M::IS_TRAINING) return borrow(HIDDEN, x.size(0), x.size(1));
        return x;
    }

    // adds the gradient of a linear layer whose input was x
    void add_gradient(const Linear &layer, const Twin &x, const Tensor &grad_y,
                      const Tensor &grad_y_dot) {
        if (grad_y_dot.size(0) == 0) return;
        if (keeps(layer)) gradients->template add_matrix<A>(layer, x, grad_y, grad_y_dot);
        gradients->add_sum(layer.bias, grad_y_dot);
    }

    // ---- reverses on other ranks

    // Sends rows of `edge` or `message`; those of reverses will be behind them.
    void start_exchange(const Tensor &stream) {
        if (input.border) input.border->start(data<A>(stream), n_edges, d_pet, 0, d_pet);
    }
    void finish_exchange() {
        if (input.border) input.border->finish();
    }

    // ---- attention

    // how many numbers the weights of all blocks are
    int64_t n_weights() const { return weight_starts_[n_atoms]; }

    // calls `work` with the width of an attention head as a constant
    template <typename F>
    void with_head_width(F work) const {
        engine::with_head_width(d_pet / network.n_heads, work);
    }

    const Network &network;
    const Input input;
    Pool &pool;
    const Trained *trained;
    Gradients *gradients = nullptr;  // while `backward_dot` runs
    const int64_t n_atoms, n_edges, n_tokens, n_foreign, d_pet, d_node;
    const int64_t *first_edge, *reverse;
    const A *factors, *scale;
    Norm<A> norm;
    PairNorm<A> pair_norm;
    Blocks<A> blocks;
    // streams: values, then gradients, or how either changes. `node_tokens` [n_atoms, d_pet]
    // and `edge` are parts of `tokens`, `message` is one of `all_messages`: behind both are
    // rows for `n_foreign` reverses that other ranks have
    Tensor tokens, node_tokens, edge, node, message, all_messages;
    // what a product leaves for the next loop; `node_rows` and `edge_rows` are parts
    Tensor token_rows, node_rows, edge_rows, wide_rows;
    Tensor grad_edge_values, logs, grad_logs;
    Output out;
    // in training: how the input changes along the direction, and zeros [d_pet]
    Tensor geometry_dot, factors_dot, logs_dot, no_bias;

  private:
    void start_blocks() {
        weight_starts_ = find_weight_starts(first_edge, n_atoms, network.n_heads);
        logs = take_real(n_edges, 1);
        A *log = data<A>(logs), *grad_edge_value = data<A>(grad_edge_values);
        for_rows(n_atoms, 256, [&](int64_t begin, int64_t end) {
            for (int64_t i = begin; i < end; i++)
                for (int64_t k = first_edge[i]; k < first_edge[i + 1]; k++) {
                    log[k] = std::log(std::max(factors[k], A(MIN_CUTOFF_FACTOR)));
                    grad_edge_value[k] = scale[i] * factors[k];
                }
        });
        blocks = Blocks<A>{n_atoms,
                           network.n_heads,
                           d_pet / network.n_heads,
                           A(network.attention_scale),
                           first_edge,
                           weight_starts_.data(),
                           log};
    }

    std::vector<int64_t> weight_starts_;
};

}  // namespace pet_calc::engine
