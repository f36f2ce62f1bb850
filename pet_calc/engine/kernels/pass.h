// The layers of a network in their order: forward, and the gradient of the energies.

#pragma once

#include "embedding.h"
#include "feed_forward.h"
#include "readout.h"
#include "run.h"
#include "transformer.h"

#include <utility>
#include <vector>

namespace pet_calc::engine {

// One message-passing layer.
template <typename M>
struct GnnLayer {
    EdgeEmbedding<M> embedding;
    std::vector<Transformer<M>> transformers;
    FeedForward<M> combination;  // of an edge and its reverse, feedforward only

    GnnLayer(const Network &network, const GnnWeights &weights)
        : embedding(weights), combination(weights.pair_in, weights.pair_out, false, true) {
        for (const TransformerWeights &inner : weights.transformers)
            transformers.emplace_back(network, inner);
    }
};

template <typename M>
class Pass {
    using A = typename M::A;

  public:
    Pass(const Network &network, const Input &input, Pool &pool, const Trained *trained = nullptr)
        : network_(network), run_(network, input, pool, trained) {
        for (const GnnWeights &weights : network.gnn) layers_.emplace_back(network, weights);
        for (size_t r = 0; r < network.node_heads.size(); r++)
            readouts_.emplace_back(network.node_heads[r], network.edge_heads[r]);
    }

    // energies per atom, and the gradient of their sum; the last-layer features if asked for
    Output evaluate(bool with_features = false) {
        const auto options = at::TensorOptions().dtype(network_.real);
        run_.out = {at::zeros({run_.n_atoms}, options), at::zeros({run_.n_edges, 4}, options),
                    at::zeros({run_.n_edges}, options), Tensor()};
        if (with_features) run_.out.features = at::empty({run_.n_atoms, count_features()}, options);
        forward();
        if (with_features) write_features();
        backward();
        // not kept: in training the caller's graph holds this pass, which must not hold it
        return std::exchange(run_.out, Output());
    }

  protected:
    // streams hold values
    void forward() {
        at::index_select_out(run_.message, network_.message_table, 0, run_.input.kinds);
        if (network_.is_feedforward) embed_nodes(0);
        for (size_t g = 0; g < layers_.size(); g++) {
            if (!network_.is_feedforward) embed_nodes(g);
            layers_[g].embedding.forward(run_);
            for (Transformer<M> &transformer : layers_[g].transformers) transformer.forward(run_);
            if (has_mixing(g)) run_.start_exchange(run_.edge);
            if (run_.input.addition.has_value()) run_.node.add_(*run_.input.addition);
            if (network_.is_feedforward) {
                // message += edge + MLP(norm([edge, edge of the reverse]))
                layers_[g].combination.forward(run_, run_.edge, run_.edge_rows, run_.message);
                add_edges_to_message();
            } else {
                readouts_[g].forward(run_, run_.edge);
                if (!has_mixing(g)) continue;
                run_.finish_exchange();
                average_message();
            }
        }
        if (network_.is_feedforward) readouts_[0].forward(run_, run_.message);
    }

    // streams hold gradients
    void backward() {
        run_.grad_logs.zero_();
        run_.node.zero_();
        run_.message.zero_();
        if (network_.is_feedforward) readouts_[0].backward(run_, run_.message);
        for (int64_t g = layers_.size() - 1; g >= 0; g--) {
            if (network_.is_feedforward) {
                run_.edge.copy_(run_.message);
                layers_[g].combination.backward(run_, run_.message, run_.edge);
            } else {
                if (has_mixing(g))
                    average_message_backward();
                else
                    run_.edge.zero_();
                run_.node.zero_();
                readouts_[g].backward(run_, run_.edge);
            }
            for (int64_t k = layers_[g].transformers.size() - 1; k >= 0; k--)
                layers_[g].transformers[k].backward(run_);
            layers_[g].embedding.backward(run_);
        }
        A *grad_factor = data<A>(run_.out.grad_factors);
        const A *grad_log = data<A>(run_.grad_logs);
        for (int64_t k = 0; k < run_.n_edges; k++)
            if (run_.factors[k] > A(MIN_CUTOFF_FACTOR))
                grad_factor[k] += grad_log[k] / run_.factors[k];
    }

    int64_t count_features() const {
        int64_t n = 0;
        for (const Readout<M> &readout : readouts_) n += readout.n_features();
        return n;
    }
    // of one readout layer after the other; their heads hold values until `backward`
    void write_features() {
        int64_t column = 0;
        for (Readout<M> &readout : readouts_) {
            readout.write_features(run_, column);
            column += readout.n_features();
        }
    }

    // whether edges are mixed with their reverses after a layer: nothing in the residual form
    // reads the last message
    bool has_mixing(size_t g) const { return network_.is_feedforward || g + 1 < layers_.size(); }

    void embed_nodes(int64_t r) {
        at::index_select_out(run_.node, network_.node_tables[r], 0, run_.input.species);
    }

    void add_edges_to_message() {
        add_rows<A, A>(data<A>(run_.message), data<A>(run_.edge), run_.n_edges, run_.d_pet);
    }

    // message = (message + edge of the reverse) / 2
    void average_message() {
        average_with_reverse<A>(data<A>(run_.message), data<A>(run_.edge), run_.reverse,
                                run_.n_edges, run_.d_pet);
    }
    void average_message_backward() {
        run_.message.mul_(0.5);
        run_.start_exchange(run_.message);
        run_.finish_exchange();
        at::index_select_out(run_.edge, run_.all_messages, 0, run_.input.reverse);
    }

    const Network &network_;
    Run<M> run_;
    std::vector<GnnLayer<M>> layers_;
    std::vector<Readout<M>> readouts_;
};

}  // namespace pet_calc::engine
