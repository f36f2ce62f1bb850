// Attention among each atom and its edges, and what updates both.

#pragma once

#include "attention.h"
#include "attention_dot.h"
#include "feed_forward.h"
#include "run.h"

namespace pet_calc::engine {

template <typename M>
class Transformer {
    using A = typename M::A;
    using S = typename M::S;

  public:
    Transformer(const Network &network, const TransformerWeights &weights)
        : weights_(weights),
          has_wide_node_(network.has_wide_node),
          edge_mlp_(weights.mlp_in, weights.mlp_out, network.is_gated, false),
          node_mlp_(weights.center_in, weights.center_out, network.is_gated, false) {}

    void forward(Run<M> &run) {
        const int64_t n = run.n_tokens, d = run.d_pet;
        contract(run);
        norm_.out = run.take_twin(n, d);
        norm_.inverse = run.take_real(n, 1);
        if (M::IS_TRAINING) norm_.along = run.take_real(n, 1);
        qkv_ = run.take_twin(n, 3 * d);
        attention_.value = run.take_real(run.n_weights(), 1);
        if (M::IS_TRAINING) attention_.dot = run.take_real(run.n_weights(), 1);
        attended_ = run.take_input(weights_.out, n);
        run.norm.forward(data<A>(run.tokens), data<S>(norm_.out.value), data<A>(norm_.inverse), n,
                         d);
        multiply(norm_.out.value, weights_.qkv, qkv_.value);
        run.with_head_width([&](auto width) {
            attend_forward<decltype(width)::value, A, S>(
                run.blocks, data<S>(qkv_.value), data<A>(weights_.qkv.bias),
                data<A>(attention_.value), data<S>(attended_.value));
        });
        multiply(attended_.value, weights_.out, run.token_rows);
        add_update<A, S>(data<A>(run.edge), data<S>(run.edge_rows), data<A>(weights_.out.bias),
                         run.n_edges, d);
        update_nodes(run);
        edge_mlp_.forward(run, run.edge, run.edge_rows, run.edge);
    }

    void backward(Run<M> &run) {
        const int64_t n = run.n_tokens, d = run.d_pet;
        edge_mlp_.backward(run, run.edge, run.edge);
        grad_out_ = run.keeps(weights_.out) ? run.take_stored(n, d) : run.token_rows;
        Tensor grad_edges = grad_out_.narrow(0, run.n_atoms, run.n_edges);
        convert<A, S>(data<A>(run.edge), data<S>(grad_edges), run.n_edges, d);
        update_nodes_backward(run);
        grad_attended_ = run.take_gradient(n, d);
        multiply_backward(grad_out_, weights_.out, grad_attended_);
        grad_qkv_ = run.take_gradient(weights_.qkv, n);
        run.with_head_width([&](auto width) {
            attend_backward<decltype(width)::value, A, S>(
                run.blocks, data<S>(grad_attended_), data<S>(qkv_.value),
                data<A>(weights_.qkv.bias), data<A>(attention_.value), data<S>(grad_qkv_),
                data<A>(run.grad_logs));
        });
        norm_.grad_out = run.take_gradient(n, d);
        multiply_backward(grad_qkv_, weights_.qkv, norm_.grad_out);
        run.node_tokens.zero_();
        run.norm.backward(data<S>(norm_.grad_out), data<S>(norm_.out.value), data<A>(norm_.inverse),
                          data<A>(run.tokens), n, d);
        contract_backward(run);
    }

    void forward_dot(Run<M> &run) {
        const int64_t n = run.n_tokens, d = run.d_pet;
        if (has_wide_node_) {
            run.keep_dot(weights_.contract, wide_, run.node);
            multiply(run.node, weights_.contract, run.node_tokens);
        } else {
            run.node_tokens.copy_(run.node);
        }
        run.norm.forward_dot(data<A>(run.tokens), data<A>(norm_.out.value), data<A>(norm_.inverse),
                             data<A>(norm_.out.dot), data<A>(norm_.along), n, d);
        multiply(norm_.out.dot, weights_.qkv, qkv_.dot);
        run.with_head_width([&](auto width) {
            attend_forward_dot<decltype(width)::value, A>(
                run.blocks, data<A>(qkv_.value), data<A>(weights_.qkv.bias), data<A>(qkv_.dot),
                data<A>(run.logs_dot), data<A>(attention_.value), data<A>(attention_.dot),
                data<A>(attended_.dot));
        });
        multiply(attended_.dot, weights_.out, run.token_rows);
        add_rows<A, A>(data<A>(run.edge), data<A>(run.edge_rows), run.n_edges, d);
        if (has_wide_node_) {
            run.keep_dot(weights_.expand, nodes_, run.node_rows);
            multiply(run.node_rows, weights_.expand, run.wide_rows);
            add_rows<A, A>(data<A>(run.node), data<A>(run.wide_rows), run.n_atoms, run.d_node);
            node_mlp_.forward_dot(run, run.node, run.wide_rows, run.node);
        } else {
            run.node.copy_(run.node_rows);
        }
        edge_mlp_.forward_dot(run, run.edge, run.edge_rows, run.edge);
    }

    // `is_end`: nobody needs the gradient in what comes before
    void backward_dot(Run<M> &run, bool is_end) {
        const int64_t n = run.n_tokens, d = run.d_pet;
        edge_mlp_.backward_dot(run, run.edge, run.edge);
        run.edge_rows.copy_(run.edge);
        if (has_wide_node_) {
            node_mlp_.backward_dot(run, run.node, run.node);
            run.add_gradient(weights_.expand, nodes_, grad_expanded_, run.node);
            multiply_backward(run.node, weights_.expand, run.node_rows);
        } else {
            run.node_rows.copy_(run.node);
        }
        run.add_gradient(weights_.out, attended_, grad_out_, run.token_rows);
        Tensor grad_attended_dot = run.borrow(ACTIVE, n, d);
        Tensor grad_qkv_dot = run.borrow(HIDDEN, n, 3 * d);
        multiply_backward(run.token_rows, weights_.out, grad_attended_dot);
        run.with_head_width([&](auto width) {
            attend_backward_dot<decltype(width)::value, A>(
                run.blocks, data<A>(grad_attended_), data<A>(grad_attended_dot),
                data<A>(qkv_.value), data<A>(weights_.qkv.bias), data<A>(qkv_.dot),
                data<A>(attention_.value), data<A>(attention_.dot), data<A>(grad_qkv_dot));
        });
        run.add_gradient(weights_.qkv, norm_.out, grad_qkv_, grad_qkv_dot);
        if (is_end) return;
        Tensor grad_norm_dot = run.borrow(ACTIVE, n, d);
        multiply_backward(grad_qkv_dot, weights_.qkv, grad_norm_dot);
        run.node_tokens.zero_();
        run.norm.backward_dot(data<A>(norm_.grad_out), data<A>(grad_norm_dot),
                              data<A>(norm_.out.value), data<A>(norm_.out.dot),
                              data<A>(norm_.inverse), data<A>(norm_.along), data<A>(run.tokens), n,
                              d);
        if (has_wide_node_) {
            run.add_gradient(weights_.contract, wide_, grad_contracted_, run.node_tokens);
            multiply_backward(run.node_tokens, weights_.contract, run.wide_rows);
            add_rows<A, A>(data<A>(run.node), data<A>(run.wide_rows), run.n_atoms, run.d_node);
        } else {
            run.node.copy_(run.node_tokens);
        }
    }

  private:
    // the atoms' tokens, from wider nodes or from nodes as they are
    void contract(Run<M> &run) {
        if (!has_wide_node_) {
            run.node_tokens.copy_(run.node);
            return;
        }
        wide_ = run.keep_input(weights_.contract, run.node);
        multiply(wide_.value, weights_.contract, run.node_rows);
        set_update<A, S>(data<A>(run.node_tokens), data<S>(run.node_rows),
                         data<A>(weights_.contract.bias), run.n_atoms, run.d_pet);
    }

    void contract_backward(Run<M> &run) {
        if (!has_wide_node_) {
            run.node.copy_(run.node_tokens);
            return;
        }
        grad_contracted_ = run.keep_gradient(weights_.contract, run.node_tokens);
        multiply_backward(grad_contracted_, weights_.contract, run.wide_rows);
        add_rows<A, S>(data<A>(run.node), data<S>(run.wide_rows), run.n_atoms, run.d_node);
    }

    // from what the attention leaves in the rows of the nodes
    void update_nodes(Run<M> &run) {
        const int64_t n = run.n_atoms;
        const Tensor &target = has_wide_node_ ? run.node_tokens : run.node;
        set_update<A, S>(data<A>(target), data<S>(run.node_rows), data<A>(weights_.out.bias), n,
                         run.d_pet);
        if (!has_wide_node_) return;
        nodes_ = run.keep_input(weights_.expand, run.node_tokens);
        multiply(nodes_.value, weights_.expand, run.wide_rows);
        add_update<A, S>(data<A>(run.node), data<S>(run.wide_rows), data<A>(weights_.expand.bias),
                         n, run.d_node);
        node_mlp_.forward(run, run.node, run.wide_rows, run.node);
    }

    void update_nodes_backward(Run<M> &run) {
        Tensor grad_nodes = grad_out_.narrow(0, 0, run.n_atoms);
        if (!has_wide_node_) {
            convert<A, S>(data<A>(run.node), data<S>(grad_nodes), run.n_atoms, run.d_pet);
            return;
        }
        node_mlp_.backward(run, run.node, run.node);
        grad_expanded_ = run.keep_gradient(weights_.expand, run.node);
        multiply_backward(grad_expanded_, weights_.expand, grad_nodes);
    }

    const TransformerWeights &weights_;
    const bool has_wide_node_;
    FeedForward<M> edge_mlp_, node_mlp_;
    Twin wide_, qkv_, attention_, attended_, nodes_;
    NormTape norm_;
    Tensor grad_out_, grad_attended_, grad_qkv_, grad_contracted_, grad_expanded_;
};

}  // namespace pet_calc::engine
