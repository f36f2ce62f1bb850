// One evaluation: the forward pass, which keeps what its derivative needs, and the
// backward pass, in which the same streams hold gradients. A is the type of the streams,
// S that of the matrix products.

#pragma once

#include "frame.h"

namespace pet_calc::engine {

// What one transformer layer leaves for its derivative.
struct TransformerRecord {
    Tensor tokens, tokens_inverse, mixed, weights, edges, edges_inverse, edges_hidden;
    Tensor nodes, nodes_inverse, nodes_hidden;
};

struct GnnRecord {
    Tensor embedded, pair, pair_inverse, pair_hidden;
    std::vector<TransformerRecord> transformers;
};

struct HeadRecord {
    Tensor first, second, values;
};

template <typename A, typename S>
class Pass {
  public:
    Pass(const Network &network, const Input &input, Pool &pool)
        : net_(network),
          in_(input),
          pool_(pool),
          n_(input.species.size(0)),
          e_(input.kinds.size(0)),
          t_(n_ + e_),
          d_(network.d_pet),
          w_(network.d_node),
          starts_(input.first.data_ptr<int64_t>()),
          reverse_(input.reverse.data_ptr<int64_t>()),
          factor_(p(input.factors)),
          scale_(p(input.scale)),
          norm_{network.subtracts_mean, A(network.eps)},
          pair_norm_{true, A(network.pair_eps)} {
        pool_.rewind();
        auto options = at::TensorOptions().dtype(net_.real);
        energies_ = at::zeros({n_}, options);
        of_geometry_ = at::zeros({e_, 4}, options);
        of_factors_ = at::zeros({e_}, options);
        tokens_ = real(t_, d_);
        node_ = real(n_, w_);
        message_ = real(e_, d_);
        edge_ = tokens_.narrow(0, n_, e_);
        of_logs_ = real(e_, 1);
        of_edge_values_ = real(e_, 1);
        both_ = real(e_, 2 * d_);
        // temporaries for products; what they hold is never needed for long
        token_rows_ = stored(t_, d_);
        edge_rows_ = token_rows_.narrow(0, n_, e_);
        node_rows_ = token_rows_.narrow(0, 0, n_);
        pair_rows_ = stored(e_, 2 * d_);
        wide_rows_ = stored(n_, w_);
        narrow_rows_ = stored(n_, d_);
        attended_ = stored(t_, d_);
        of_mixed_ = stored(t_, 3 * d_);
        start_blocks();
    }

    Output run() {
        forward();
        backward();
        return {energies_, of_geometry_, of_factors_};
    }

  private:
    static A *p(const Tensor &x) { return x.data_ptr<A>(); }
    static S *q(const Tensor &x) { return x.data_ptr<S>(); }
    Tensor real(int64_t rows, int64_t columns) { return pool_.take(rows, columns, net_.real); }
    Tensor stored(int64_t rows, int64_t columns) {
        return pool_.take(rows, columns, net_.stored);
    }

    // a stream in the type that products read: itself, or converted into `buffer`
    static Tensor as_stored(const Tensor &x, const Tensor &buffer) {
        if constexpr (std::is_same_v<A, S>) return x;
        convert<A, S>(p(x), q(buffer), x.size(0), x.size(1));
        return buffer;
    }

    void activate(const Tensor &x, const Linear &layer, Tensor &out) const {
        if (net_.is_gated)
            gate_forward<A, S>(q(x), p(layer.bias), q(out), x.size(0), out.size(1));
        else
            silu_forward<A, S>(q(x), p(layer.bias), q(out), x.size(0), out.size(1));
    }
    // x becomes its own gradient
    void activate_back(const Tensor &of_out, const Tensor &x, const Linear &layer) const {
        int64_t width = of_out.size(1);
        if (net_.is_gated)
            gate_backward<A, S>(q(of_out), q(x), p(layer.bias), x.size(0), width);
        else
            silu_backward<A, S>(q(of_out), q(x), p(layer.bias), q(x), x.size(0), width);
    }

    void start_blocks() {
        weight_starts_ = find_weight_starts(starts_, n_, net_.n_heads);
        logs_ = real(e_, 1);
        A *log = p(logs_), *of_edge_value = p(of_edge_values_);
        for_rows(n_, 256, [&](int64_t begin, int64_t end) {
            for (int64_t i = begin; i < end; i++)
                for (int64_t k = starts_[i]; k < starts_[i + 1]; k++) {
                    log[k] = std::log(std::max(factor_[k], A(MIN_CUTOFF_FACTOR)));
                    of_edge_value[k] = scale_[i] * factor_[k];
                }
        });
        blocks_ = Blocks<A>{n_,      net_.n_heads,         d_ / net_.n_heads, A(net_.attention_scale),
                            starts_, weight_starts_.data(), log};
    }

    // ---- forward

    void forward() {
        records_.resize(net_.gnn.size());
        node_records_.resize(net_.node_heads.size());
        edge_records_.resize(net_.edge_heads.size());
        at::index_select_out(message_, net_.message_table, 0, in_.kinds);
        if (net_.is_feedforward) embed_nodes(0);
        for (size_t g = 0; g < net_.gnn.size(); g++) {
            if (!net_.is_feedforward) embed_nodes(g);
            embed(net_.gnn[g], records_[g]);
            for (const TransformerWeights &weights : net_.gnn[g].transformers)
                records_[g].transformers.push_back(transform(weights));
            if (in_.addition.has_value()) node_.add_(*in_.addition);
            if (net_.is_feedforward) {
                combine_pairs(net_.gnn[g], records_[g]);
            } else {
                read_out(g, edge_);
                average_with_reverse<A>(p(message_), p(edge_), reverse_, e_, d_);
            }
        }
        if (net_.is_feedforward) read_out(0, message_);
    }

    void embed_nodes(int64_t r) {
        at::index_select_out(node_, net_.node_tables[r], 0, in_.species);
    }

    void embed(const GnnWeights &layer, GnnRecord &record) {
        record.embedded = stored(e_, d_);
        Tensor product = pair_rows_.view({2 * e_, d_}).narrow(0, 0, e_);
        const S *from_message = nullptr;
        if (layer.message.weight.defined()) {
            multiply(as_stored(message_, edge_rows_), layer.message, product);
            from_message = q(product);
        }
        embed_edges<A, S>(p(layer.table), in_.kinds.template data_ptr<int64_t>(),
                          p(in_.geometry), p(layer.basis), from_message, q(record.embedded),
                          q(edge_rows_), e_, d_);
        multiply(edge_rows_, layer.compress, product);
        set_update<A, S>(p(edge_), q(product), p(layer.compress.bias), e_, d_);
    }

    TransformerRecord transform(const TransformerWeights &weights) {
        TransformerRecord r;
        Tensor nodes = tokens_.narrow(0, 0, n_);
        if (net_.has_wide_node) {
            multiply(as_stored(node_, wide_rows_), weights.contract, node_rows_);
            set_update<A, S>(p(nodes), q(node_rows_), p(weights.contract.bias), n_, d_);
        } else {
            nodes.copy_(node_);
        }
        r.tokens = stored(t_, d_);
        r.tokens_inverse = real(t_, 1);
        r.mixed = stored(t_, 3 * d_);
        r.weights = real(weight_starts_[n_], 1);
        norm_.template forward<S>(p(tokens_), q(r.tokens), p(r.tokens_inverse), t_, d_);
        multiply(r.tokens, weights.mixed, r.mixed);
        with_head_width(d_ / net_.n_heads, [&](auto width) {
            attend<decltype(width)::value, A, S>(blocks_, q(r.mixed), p(weights.mixed.bias),
                                                 p(r.weights), q(attended_));
        });
        multiply(attended_, weights.out, token_rows_);
        update_nodes(weights, r, nodes);
        update_edges(weights, r);
        return r;
    }

    void update_edges(const TransformerWeights &weights, TransformerRecord &r) {
        add_update<A, S>(p(edge_), q(edge_rows_), p(weights.out.bias), e_, d_);
        r.edges = stored(e_, d_);
        r.edges_inverse = real(e_, 1);
        r.edges_hidden = stored(e_, weights.mlp_in.weight.size(0));
        norm_.template forward<S>(p(edge_), q(r.edges), p(r.edges_inverse), e_, d_);
        multiply(r.edges, weights.mlp_in, r.edges_hidden);
        if (!edge_hidden_.defined()) edge_hidden_ = stored(e_, weights.mlp_out.weight.size(1));
        activate(r.edges_hidden, weights.mlp_in, edge_hidden_);
        multiply(edge_hidden_, weights.mlp_out, edge_rows_);
        add_update<A, S>(p(edge_), q(edge_rows_), p(weights.mlp_out.bias), e_, d_);
    }

    void update_nodes(const TransformerWeights &weights, TransformerRecord &r, Tensor &nodes) {
        if (!net_.has_wide_node) {
            set_update<A, S>(p(node_), q(node_rows_), p(weights.out.bias), n_, d_);
            return;
        }
        set_update<A, S>(p(nodes), q(node_rows_), p(weights.out.bias), n_, d_);
        multiply(as_stored(nodes, narrow_rows_), weights.expand, wide_rows_);
        add_update<A, S>(p(node_), q(wide_rows_), p(weights.expand.bias), n_, w_);
        r.nodes = stored(n_, w_);
        r.nodes_inverse = real(n_, 1);
        r.nodes_hidden = stored(n_, weights.center_in.weight.size(0));
        norm_.template forward<S>(p(node_), q(r.nodes), p(r.nodes_inverse), n_, w_);
        multiply(r.nodes, weights.center_in, r.nodes_hidden);
        if (!node_hidden_.defined()) node_hidden_ = stored(n_, weights.center_out.weight.size(1));
        activate(r.nodes_hidden, weights.center_in, node_hidden_);
        multiply(node_hidden_, weights.center_out, wide_rows_);
        add_update<A, S>(p(node_), q(wide_rows_), p(weights.center_out.bias), n_, w_);
    }

    // message += edge + MLP(norm([edge, edge of the reverse]))
    void combine_pairs(const GnnWeights &layer, GnnRecord &record) {
        record.pair = stored(e_, 2 * d_);
        record.pair_inverse = real(e_, 1);
        record.pair_hidden = stored(e_, 2 * d_);
        pair_norm_forward<A, S>(pair_norm_, p(edge_), reverse_, q(record.pair),
                                p(record.pair_inverse), e_, d_);
        multiply(record.pair, layer.pair_in, record.pair_hidden);
        silu_forward<A, S>(q(record.pair_hidden), p(layer.pair_in.bias), q(pair_rows_), e_,
                           2 * d_);
        multiply(pair_rows_, layer.pair_out, edge_rows_);
        add_update<A, S>(p(message_), q(edge_rows_), p(layer.pair_out.bias), e_, d_);
        add_rows<A, A>(p(message_), p(edge_), e_, d_);
    }

    HeadRecord read(const Tensor &x, const HeadWeights &head) {
        HeadRecord record;
        int64_t rows = x.size(0), width = head.last.size(0);
        Tensor hidden = stored(rows, width);
        record.first = stored(rows, width);
        record.second = stored(rows, width);
        record.values = real(rows, 1);
        multiply(as_stored(x, stored(rows, x.size(1))), head.first, record.first);
        silu_forward<A, S>(q(record.first), p(head.first.bias), q(hidden), rows, width);
        multiply(hidden, head.second, record.second);
        last_layer<A, S>(q(record.second), p(head.second.bias), p(head.last), p(record.values),
                         rows, width);
        return record;
    }

    // adds what the heads of one readout layer say, and its gradient in the factors
    void read_out(int64_t r, const Tensor &edges) {
        node_records_[r] = read(node_, net_.node_heads[r]);
        edge_records_[r] = read(edges, net_.edge_heads[r]);
        add_values<A>(p(node_records_[r].values), p(edge_records_[r].values),
                      A(net_.node_heads[r].last_bias.item<double>()),
                      A(net_.edge_heads[r].last_bias.item<double>()), starts_, factor_, scale_,
                      p(energies_), p(of_factors_), n_);
    }

    // ---- backward: node, edge and message now hold gradients

    void backward() {
        of_logs_.zero_();
        node_.zero_();
        message_.zero_();
        if (net_.is_feedforward) read_out_back(0, message_);
        for (int64_t g = net_.gnn.size() - 1; g >= 0; g--) {
            if (net_.is_feedforward) {
                combine_pairs_back(net_.gnn[g], records_[g]);
            } else {
                // the next message was (message + edge of the reverse) / 2
                message_.mul_(0.5);
                at::index_select_out(edge_, message_, 0, in_.reverse);
                node_.zero_();
                read_out_back(g, edge_);
            }
            for (int64_t k = net_.gnn[g].transformers.size() - 1; k >= 0; k--)
                transform_back(net_.gnn[g].transformers[k], records_[g].transformers[k]);
            embed_back(net_.gnn[g], records_[g]);
        }
        A *of_factor = p(of_factors_);
        const A *of_log = p(of_logs_);
        for (int64_t k = 0; k < e_; k++)
            if (factor_[k] > A(MIN_CUTOFF_FACTOR)) of_factor[k] += of_log[k] / factor_[k];
    }

    void read_out_back(int64_t r, const Tensor &edges) {
        read_back(node_records_[r], net_.node_heads[r], scale_, node_);
        read_back(edge_records_[r], net_.edge_heads[r], p(of_edge_values_), edges);
    }

    // out += gradient of the head's input for a gradient `of_values` of its values
    void read_back(HeadRecord &record, const HeadWeights &head, const A *of_values,
                   const Tensor &out) {
        int64_t rows = record.first.size(0), width = head.last.size(0);
        Tensor from = stored(rows, width), product = stored(rows, out.size(1));
        last_layer_backward<A, S>(of_values, q(record.second), p(head.second.bias), p(head.last),
                                  rows, width);
        multiply_back(record.second, head.second, from);
        silu_backward<A, S>(q(from), q(record.first), p(head.first.bias), q(from), rows, width);
        multiply_back(from, head.first, product);
        add_rows<A, S>(p(out), q(product), rows, out.size(1));
    }

    void combine_pairs_back(const GnnWeights &layer, GnnRecord &record) {
        edge_.copy_(message_);
        multiply_back(as_stored(message_, edge_rows_), layer.pair_out, pair_rows_);
        silu_backward<A, S>(q(pair_rows_), q(record.pair_hidden), p(layer.pair_in.bias),
                            q(record.pair_hidden), e_, 2 * d_);
        multiply_back(record.pair_hidden, layer.pair_in, pair_rows_);
        pair_norm_backward<A, S>(pair_norm_, q(pair_rows_), q(record.pair),
                                 p(record.pair_inverse), reverse_, p(both_), p(edge_), e_, d_);
    }

    void transform_back(const TransformerWeights &weights, TransformerRecord &r) {
        update_edges_back(weights, r);
        update_nodes_back(weights, r);
        multiply_back(token_rows_, weights.out, attended_);
        with_head_width(d_ / net_.n_heads, [&](auto width) {
            attend_backward<decltype(width)::value, A, S>(
                blocks_, q(attended_), q(r.mixed), p(weights.mixed.bias), p(r.weights),
                q(of_mixed_), p(of_logs_));
        });
        multiply_back(of_mixed_, weights.mixed, attended_);
        Tensor nodes = tokens_.narrow(0, 0, n_);
        nodes.zero_();
        norm_.template backward<S>(q(attended_), q(r.tokens), p(r.tokens_inverse), p(tokens_),
                                   t_, d_);
        if (net_.has_wide_node) {
            multiply_back(as_stored(nodes, narrow_rows_), weights.contract, wide_rows_);
            add_rows<A, S>(p(node_), q(wide_rows_), n_, w_);
        } else {
            node_.copy_(nodes);
        }
    }

    // leaves the gradient of the attention's output in the edges' token rows
    void update_edges_back(const TransformerWeights &weights, TransformerRecord &r) {
        multiply_back(as_stored(edge_, edge_rows_), weights.mlp_out, edge_hidden_);
        activate_back(edge_hidden_, r.edges_hidden, weights.mlp_in);
        multiply_back(r.edges_hidden, weights.mlp_in, edge_rows_);
        norm_.template backward<S>(q(edge_rows_), q(r.edges), p(r.edges_inverse), p(edge_), e_,
                                   d_);
        convert<A, S>(p(edge_), q(edge_rows_), e_, d_);
    }

    // the same for the nodes
    void update_nodes_back(const TransformerWeights &weights, TransformerRecord &r) {
        if (!net_.has_wide_node) {
            convert<A, S>(p(node_), q(node_rows_), n_, d_);
            return;
        }
        multiply_back(as_stored(node_, wide_rows_), weights.center_out, node_hidden_);
        activate_back(node_hidden_, r.nodes_hidden, weights.center_in);
        multiply_back(r.nodes_hidden, weights.center_in, wide_rows_);
        norm_.template backward<S>(q(wide_rows_), q(r.nodes), p(r.nodes_inverse), p(node_), n_,
                                   w_);
        multiply_back(as_stored(node_, wide_rows_), weights.expand, node_rows_);
    }

    void embed_back(const GnnWeights &layer, GnnRecord &record) {
        Tensor product = pair_rows_.view({2 * e_, d_}).narrow(0, 0, e_);
        multiply_back(as_stored(edge_, edge_rows_), layer.compress, product);
        embed_edges_backward<A, S>(q(product), q(record.embedded), p(layer.basis),
                                   p(of_geometry_), e_, d_);
        if (layer.message.weight.defined()) {
            multiply_back(product, layer.message, edge_rows_);
            add_rows<A, S>(p(message_), q(edge_rows_), e_, d_);
        }
    }

    const Network &net_;
    const Input &in_;
    Pool &pool_;
    const int64_t n_, e_, t_, d_, w_;  // atoms, edges, tokens, widths of edge and node
    const int64_t *starts_, *reverse_;
    const A *factor_, *scale_;
    const Norm<A> norm_, pair_norm_;
    Blocks<A> blocks_;
    std::vector<int64_t> weight_starts_;
    Tensor energies_, of_geometry_, of_factors_, of_edge_values_, logs_, of_logs_;
    Tensor tokens_, node_, edge_, message_, both_;
    Tensor token_rows_, edge_rows_, node_rows_, pair_rows_, wide_rows_, narrow_rows_;
    Tensor attended_, of_mixed_, edge_hidden_, node_hidden_;
    std::vector<GnnRecord> records_;
    std::vector<HeadRecord> node_records_, edge_records_;
};

}  // namespace pet_calc::engine
