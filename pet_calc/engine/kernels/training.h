// The passes of a training step.
//
// With a loss of energies E and of their gradient g in the positions, and with the loss's
// own gradients a = dL/dE and v = dL/dg, the gradient in the weights w is
//
//     dL/dw = sum_i a_i dE_i/dw + d/dw (v . g)
//
// and v . g is how E changes along v. So: forward and backward, as for an energy and its
// gradient, keeping what they compute; then, with a and v known, forward_dot, how
// everything changes along v, and backward_dot, how the gradients change along v, to
// which a is added at the energies. row_tangents.h explains the names.

#pragma once

#include "attention_tangents.h"
#include "frame.h"
#include "gradients.h"
#include "row_tangents.h"
#include "tapes.h"

#include <utility>

namespace pet_calc::engine {

template <typename A>
class TrainingPass {
  public:
    // `trained`: what else has no gradient, so that less is kept
    TrainingPass(const Network &network, const Trained &trained, const Input &input, Pool &pool)
        : net_(network),
          trained_(trained),
          in_(input),
          pool_(pool),
          n_(input.species.size(0)),
          e_(input.kinds.size(0)),
          t_(n_ + e_),
          d_(network.d_pet),
          w_(network.d_node),
          starts_(in_.first.template data_ptr<int64_t>()),
          reverse_(in_.reverse.template data_ptr<int64_t>()),
          factor_(p(in_.factors)),
          scale_(p(in_.scale)),
          norm_{network.subtracts_mean, A(network.eps)},
          pair_norm_{true, A(network.pair_eps)},
          weight_starts_(find_weight_starts(starts_, n_, network.n_heads)) {
        pool_.rewind();
        tokens_ = take(t_, d_);
        node_ = take(n_, w_);
        message_ = take(e_, d_);
        edge_ = tokens_.narrow(0, n_, e_);
        nodes_ = tokens_.narrow(0, 0, n_);
        rows_ = take(t_, d_);
        edge_rows_ = rows_.narrow(0, n_, e_);
        node_rows_ = rows_.narrow(0, 0, n_);
        wide_rows_ = take(n_, w_);
        both_ = take(e_, 2 * d_);
        logs_ = take(e_, 1);
        of_edge_values_ = take(e_, 1);
        no_bias_ = at::zeros({3 * d_}, tokens_.options());
        at::log_out(logs_, in_.factors.clamp_min(MIN_CUTOFF_FACTOR).unsqueeze(1));
        blocks_ = Blocks<A>{n_,      net_.n_heads,          d_ / net_.n_heads, A(net_.attention_scale),
                            starts_, weight_starts_.data(), p(logs_)};
        gnn_.resize(net_.gnn.size());
        for (size_t g = 0; g < gnn_.size(); g++)
            gnn_[g].transformers.resize(net_.gnn[g].transformers.size());
        node_heads_.resize(net_.node_heads.size());
        edge_heads_.resize(net_.edge_heads.size());
    }

    // energies per atom, and the gradient of their sum
    Output evaluate() {
        auto options = tokens_.options();
        out_ = {at::zeros({n_}, options), at::zeros({e_, 4}, options), at::zeros({e_}, options)};
        forward();
        backward();
        // not kept: the caller's graph holds this pass, which must not hold its results
        return std::exchange(out_, Output());
    }

    // Adds the gradient in the weights.
    //   of_energies [n_atoms]: the loss's gradient in the energies
    //   geometry_dot [n_edges, 4], factors_dot [n_edges]: how the input changes along the
    //   loss's gradient in the energy's gradient
    void differentiate(const Tensor &of_energies, const Tensor &geometry_dot,
                       const Tensor &factors_dot, Gradients &gradients) {
        gradients_ = &gradients;
        of_energies_ = of_energies;
        geometry_dot_ = geometry_dot;
        factors_dot_ = factors_dot;
        logs_dot_ = at::where(in_.factors > MIN_CUTOFF_FACTOR, factors_dot / in_.factors,
                              at::zeros_like(factors_dot));
        forward_dot();
        backward_dot();
    }

  private:
    static A *p(const Tensor &x) { return x.data_ptr<A>(); }
    Tensor take(int64_t rows, int64_t columns) { return pool_.take(rows, columns, net_.real); }
    Twin take_twin(int64_t rows, int64_t columns) {
        Tensor value = take(rows, columns);
        return {value, take(rows, columns)};
    }
    // what goes into a layer, kept only if its gradient needs it
    Twin take_input(const Linear &layer, int64_t rows, int64_t columns) {
        if (trained_.has(layer)) return take_twin(rows, columns);
        Tensor passing = lend(rows, columns);
        return {passing, passing};
    }
    // a buffer for what the next product reads, and nothing else
    Tensor lend(int64_t rows, int64_t columns) {
        borrow(lent_, t_, 3 * d_);  // nearly always enough
        return borrow(lent_, rows, columns);
    }
    NormTape take_norm(int64_t rows, int64_t columns) {
        NormTape norm;
        norm.out = take_twin(rows, columns);
        norm.inverse = take(rows, 1);
        norm.along = take(rows, 1);
        norm.of_out = take(rows, columns);
        return norm;
    }
    // a copy of a stream, or itself where no gradient of the layer will ask for it
    Tensor keep_for(const Linear &layer, const Tensor &stream) {
        if (!trained_.has(layer)) return stream;
        return take(stream.size(0), stream.size(1)).copy_(stream);
    }

    template <typename F>
    void with_width(F work) const {
        with_head_width(d_ / net_.n_heads, work);
    }

    // the gradient of a linear layer whose input was x
    void add_gradient(const Linear &layer, const Twin &x, const Tensor &of_y,
                      const Tensor &of_y_dot) {
        if (of_y.size(0) == 0) return;
        if (!trained_.has(layer)) return add_sum(layer.bias, of_y_dot);
        if (layer.lora_a.defined()) add_low_rank_gradient(layer, x, of_y, of_y_dot);
        if (Tensor *weight = gradients_->find(layer.weight)) {
            weight->addmm_(of_y_dot.t(), x.value);
            weight->addmm_(of_y.t(), x.dot);
        }
        add_sum(layer.bias, of_y_dot);
    }
    // the same in the factors of LoRA: y = x A^T B^T, with B [out, r] as lora_b transposed
    void add_low_rank_gradient(const Linear &layer, const Twin &x, const Tensor &of_y,
                               const Tensor &of_y_dot) {
        int64_t rows = of_y.size(0), rank = layer.lora_a.size(0);
        auto shrink = [&](Tensor &buffer, const Tensor &from, const Tensor &panels) {
            Tensor low = borrow(buffer, rows, rank);
            multiply_panels<A>(from, panels, low, false);
            return low;
        };
        if (Tensor *of_a = gradients_->find(layer.lora_a)) {
            Tensor panels = lay_out_panels<A>(layer.lora_b.t());
            add_product_of_columns<A>(shrink(low_, of_y_dot, panels), x.value, *of_a);
            add_product_of_columns<A>(shrink(low_, of_y, panels), x.dot, *of_a);
        }
        if (Tensor *of_b = gradients_->find(layer.lora_b)) {
            Tensor panels = lay_out_panels<A>(layer.lora_a.t());
            add_product_of_columns<A>(shrink(low_, x.value, panels), of_y_dot, *of_b);
            add_product_of_columns<A>(shrink(low_, x.dot, panels), of_y, *of_b);
        }
    }
    void add_sum(const Tensor &bias, const Tensor &of_y_dot) {
        if (!bias.defined()) return;
        if (Tensor *sum = gradients_->find(bias)) sum->add_(of_y_dot.sum(0));
    }
    void add_to_rows(const Tensor &table, const Tensor &index, const Tensor &of_rows_dot) {
        if (Tensor *sum = gradients_->find(table)) sum->index_add_(0, index, of_rows_dot);
    }

    // ---- a multilayer perceptron on a stream

    void run_mlp(MlpTape &tape, const Linear &in, const Linear &out, bool is_gated,
                 const Tensor &stream) {
        int64_t rows = stream.size(0), width = out.weight.size(1);
        bool is_pair = in.weight.size(1) != stream.size(1);
        tape.norm = take_norm(rows, in.weight.size(1));
        tape.hidden = take_twin(rows, in.weight.size(0));
        tape.active = take_input(out, rows, width);
        if (is_pair)
            pair_norm_forward<A, A>(pair_norm_, p(stream), reverse_, p(tape.norm.out.value),
                                    p(tape.norm.inverse), rows, d_);
        else
            norm_.template forward<A>(p(stream), p(tape.norm.out.value), p(tape.norm.inverse),
                                      rows, stream.size(1));
        multiply(tape.norm.out.value, in, tape.hidden.value);
        auto activate = is_gated ? gate_forward<A, A> : silu_forward<A, A>;
        activate(p(tape.hidden.value), p(in.bias), p(tape.active.value), rows, width);
    }

    // `of_update` is the gradient of what was added to the stream
    void run_mlp_back(MlpTape &tape, const Linear &in, const Linear &out, bool is_gated,
                      const Tensor &of_update, const Tensor &stream) {
        int64_t rows = stream.size(0), width = out.weight.size(1);
        tape.of_update = keep_for(out, of_update);
        tape.of_active = take(rows, width);
        multiply_back(tape.of_update, out, tape.of_active);
        Tensor of_hidden = borrow(hidden_, rows, in.weight.size(0));
        if (is_gated) {
            of_hidden.copy_(tape.hidden.value);
            gate_backward<A, A>(p(tape.of_active), p(of_hidden), p(in.bias), rows, width);
        } else {
            silu_backward<A, A>(p(tape.of_active), p(tape.hidden.value), p(in.bias),
                                p(of_hidden), rows, width);
        }
        multiply_back(of_hidden, in, tape.norm.of_out);
        if (in.weight.size(1) != stream.size(1))
            pair_norm_backward<A, A>(pair_norm_, p(tape.norm.of_out), p(tape.norm.out.value),
                                     p(tape.norm.inverse), reverse_, p(both_), p(stream), rows,
                                     d_);
        else
            norm_.template backward<A>(p(tape.norm.of_out), p(tape.norm.out.value),
                                       p(tape.norm.inverse), p(stream), rows, stream.size(1));
    }

    void run_mlp_dot(MlpTape &tape, const Linear &in, const Linear &out, bool is_gated,
                     const Tensor &stream) {
        int64_t rows = stream.size(0), width = out.weight.size(1);
        NormTape &norm = tape.norm;
        if (in.weight.size(1) != stream.size(1))
            pair_norm_dot<A>(pair_norm_, p(stream), reverse_, p(norm.out.value), p(norm.inverse),
                             p(norm.out.dot), p(norm.along), rows, d_);
        else
            norm_dot<A>(norm_, p(stream), p(norm.out.value), p(norm.inverse), p(norm.out.dot),
                        p(norm.along), rows, stream.size(1));
        multiply(norm.out.dot, in, tape.hidden.dot);
        auto activate = is_gated ? gate_dot<A> : silu_dot<A>;
        activate(p(tape.hidden.value), p(in.bias), p(tape.hidden.dot), p(tape.active.dot), rows,
                 width);
    }

    void run_mlp_back_dot(MlpTape &tape, const Linear &in, const Linear &out, bool is_gated,
                          const Tensor &of_update_dot, const Tensor &stream) {
        int64_t rows = stream.size(0), width = out.weight.size(1), wide = in.weight.size(0);
        add_gradient(out, tape.active, tape.of_update, of_update_dot);
        Tensor of_active_dot = borrow(active_, rows, width);
        multiply_back(of_update_dot, out, of_active_dot);
        Tensor of_hidden = borrow(hidden_, rows, wide);
        Tensor of_hidden_dot = borrow(hidden_dot_, rows, wide);
        auto activate = is_gated ? gate_back_dot<A> : silu_back_dot<A>;
        activate(p(tape.hidden.value), p(in.bias), p(tape.hidden.dot), p(tape.of_active),
                 p(of_active_dot), p(of_hidden), p(of_hidden_dot), rows, width);
        add_gradient(in, tape.norm.out, of_hidden, of_hidden_dot);
        int64_t columns = in.weight.size(1);
        Tensor of_norm_dot = borrow(active_, rows, columns);
        multiply_back(of_hidden_dot, in, of_norm_dot);
        NormTape &norm = tape.norm;
        if (columns == stream.size(1)) {
            norm_back_dot<A>(norm_, p(norm.of_out), p(of_norm_dot), p(norm.out.value),
                             p(norm.out.dot), p(norm.inverse), p(norm.along), p(stream), rows,
                             columns);
            return;
        }
        both_.zero_();
        norm_back_dot<A>(pair_norm_, p(norm.of_out), p(of_norm_dot), p(norm.out.value),
                         p(norm.out.dot), p(norm.inverse), p(norm.along), p(both_), rows,
                         columns);
        add_both_ways<A>(p(both_), reverse_, p(stream), rows, d_);
    }

    // a buffer that nothing is kept in
    Tensor borrow(Tensor &buffer, int64_t rows, int64_t columns) {
        int64_t needed = rows * columns;
        if (!buffer.defined() || buffer.numel() < needed) buffer = take(needed, 1);
        return buffer.view({-1}).narrow(0, 0, needed).view({rows, columns});
    }

    // ---- forward: node, edge and message hold values

    void forward() {
        at::index_select_out(message_, net_.message_table, 0, in_.kinds);
        if (net_.is_feedforward) embed_nodes(0);
        for (size_t g = 0; g < gnn_.size(); g++) {
            if (!net_.is_feedforward) embed_nodes(g);
            embed(net_.gnn[g], gnn_[g]);
            for (size_t k = 0; k < gnn_[g].transformers.size(); k++)
                transform(net_.gnn[g].transformers[k], gnn_[g].transformers[k]);
            if (in_.addition.has_value()) node_.add_(*in_.addition);
            if (net_.is_feedforward) {
                combine_pairs(net_.gnn[g], gnn_[g].pair_mlp);
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

    void embed(const GnnWeights &layer, GnnTape &tape) {
        tape.embedded = take_twin(e_, d_);
        tape.active = take_input(layer.compress, e_, d_);
        const A *from_message = nullptr;
        if (layer.message.weight.defined()) {
            if (trained_.has(layer.message)) {
                tape.message = take_twin(e_, d_);
                tape.message.value.copy_(message_);
            }
            multiply(message_, layer.message, edge_rows_);
            from_message = p(edge_rows_);
        }
        embed_edges<A, A>(p(layer.table), in_.kinds.template data_ptr<int64_t>(),
                          p(in_.geometry), p(layer.basis), from_message, p(tape.embedded.value),
                          p(tape.active.value), e_, d_);
        multiply(tape.active.value, layer.compress, edge_rows_);
        set_update<A, A>(p(edge_), p(edge_rows_), p(layer.compress.bias), e_, d_);
    }

    void transform(const TransformerWeights &weights, TransformerTape &tape) {
        if (net_.has_wide_node) {
            if (trained_.has(weights.contract)) {
                tape.wide = take_twin(n_, w_);
                tape.wide.value.copy_(node_);
            }
            multiply(node_, weights.contract, node_rows_);
            set_update<A, A>(p(nodes_), p(node_rows_), p(weights.contract.bias), n_, d_);
        } else {
            nodes_.copy_(node_);
        }
        tape.tokens = take_norm(t_, d_);
        tape.mixed = take_twin(t_, 3 * d_);
        tape.weights = take_twin(weight_starts_[n_], 1);
        tape.attended = take_input(weights.out, t_, d_);
        norm_.template forward<A>(p(tokens_), p(tape.tokens.out.value), p(tape.tokens.inverse),
                                  t_, d_);
        multiply(tape.tokens.out.value, weights.mixed, tape.mixed.value);
        with_width([&](auto width) {
            attend<decltype(width)::value, A, A>(blocks_, p(tape.mixed.value),
                                                 p(weights.mixed.bias), p(tape.weights.value),
                                                 p(tape.attended.value));
        });
        multiply(tape.attended.value, weights.out, rows_);
        add_update<A, A>(p(edge_), p(edge_rows_), p(weights.out.bias), e_, d_);
        if (net_.has_wide_node) {
            tape.nodes = take_input(weights.expand, n_, d_);
            set_update<A, A>(p(tape.nodes.value), p(node_rows_), p(weights.out.bias), n_, d_);
            multiply(tape.nodes.value, weights.expand, wide_rows_);
            add_update<A, A>(p(node_), p(wide_rows_), p(weights.expand.bias), n_, w_);
            run_mlp(tape.node_mlp, weights.center_in, weights.center_out, net_.is_gated, node_);
            multiply(tape.node_mlp.active.value, weights.center_out, wide_rows_);
            add_update<A, A>(p(node_), p(wide_rows_), p(weights.center_out.bias), n_, w_);
        } else {
            set_update<A, A>(p(node_), p(node_rows_), p(weights.out.bias), n_, d_);
        }
        run_mlp(tape.edge_mlp, weights.mlp_in, weights.mlp_out, net_.is_gated, edge_);
        multiply(tape.edge_mlp.active.value, weights.mlp_out, edge_rows_);
        add_update<A, A>(p(edge_), p(edge_rows_), p(weights.mlp_out.bias), e_, d_);
    }

    // message += edge + MLP(norm([edge, edge of the reverse]))
    void combine_pairs(const GnnWeights &layer, MlpTape &tape) {
        run_mlp(tape, layer.pair_in, layer.pair_out, false, edge_);
        multiply(tape.active.value, layer.pair_out, edge_rows_);
        add_update<A, A>(p(message_), p(edge_rows_), p(layer.pair_out.bias), e_, d_);
        message_.add_(edge_);
    }

    Tensor read(const Tensor &x, const HeadWeights &head, HeadTape &tape) {
        int64_t rows = x.size(0), width = head.last.size(0);
        tape.first = take_twin(rows, width);
        tape.hidden = take_input(head.second, rows, width);
        tape.second = take_twin(rows, width);
        if (trained_.has(head.first)) {
            tape.in = take_twin(rows, x.size(1));
            tape.in.value.copy_(x);
        }
        multiply(x, head.first, tape.first.value);
        silu_forward<A, A>(p(tape.first.value), p(head.first.bias), p(tape.hidden.value), rows,
                           width);
        multiply(tape.hidden.value, head.second, tape.second.value);
        Tensor values = take(rows, 1);
        last_layer<A, A>(p(tape.second.value), p(head.second.bias), p(head.last), p(values),
                         rows, width);
        return values;
    }

    void read_out(int64_t r, const Tensor &edges) {
        Tensor node_values = read(node_, net_.node_heads[r], node_heads_[r]);
        Tensor edge_values = read(edges, net_.edge_heads[r], edge_heads_[r]);
        add_values<A>(p(node_values), p(edge_values), A(net_.node_heads[r].last_bias.item<double>()),
                      A(net_.edge_heads[r].last_bias.item<double>()), starts_, factor_, scale_,
                      p(out_.energies), p(out_.of_factors), n_);
    }

    // ---- backward: they hold gradients

    void backward() {
        A *of_edge_value = p(of_edge_values_);
        for (int64_t i = 0; i < n_; i++)
            for (int64_t k = starts_[i]; k < starts_[i + 1]; k++)
                of_edge_value[k] = scale_[i] * factor_[k];
        of_logs_ = at::zeros({e_}, tokens_.options());
        node_.zero_();
        message_.zero_();
        if (net_.is_feedforward) read_out_back(0, message_);
        for (int64_t g = gnn_.size() - 1; g >= 0; g--) {
            if (net_.is_feedforward) {
                edge_.copy_(message_);
                run_mlp_back(gnn_[g].pair_mlp, net_.gnn[g].pair_in, net_.gnn[g].pair_out, false,
                             message_, edge_);
            } else {
                // the next message was (message + edge of the reverse) / 2
                message_.mul_(0.5);
                at::index_select_out(edge_, message_, 0, in_.reverse);
                node_.zero_();
                read_out_back(g, edge_);
            }
            for (int64_t k = gnn_[g].transformers.size() - 1; k >= 0; k--)
                transform_back(net_.gnn[g].transformers[k], gnn_[g].transformers[k]);
            embed_back(net_.gnn[g], gnn_[g]);
        }
        out_.of_factors.add_(at::where(in_.factors > MIN_CUTOFF_FACTOR, of_logs_ / in_.factors,
                                       at::zeros_like(of_logs_)));
    }

    void read_out_back(int64_t r, const Tensor &edges) {
        read_back(node_heads_[r], net_.node_heads[r], scale_, node_);
        read_back(edge_heads_[r], net_.edge_heads[r], p(of_edge_values_), edges);
    }

    void read_back(HeadTape &tape, const HeadWeights &head, const A *of_values,
                   const Tensor &stream) {
        int64_t rows = stream.size(0), width = head.last.size(0);
        tape.of_hidden = take(rows, width);
        Tensor of_second = borrow(hidden_, rows, width).copy_(tape.second.value);
        last_layer_backward<A, A>(of_values, p(of_second), p(head.second.bias), p(head.last),
                                  rows, width);
        multiply_back(of_second, head.second, tape.of_hidden);
        silu_backward<A, A>(p(tape.of_hidden), p(tape.first.value), p(head.first.bias),
                            p(of_second), rows, width);
        Tensor product = borrow(active_, rows, stream.size(1));
        multiply_back(of_second, head.first, product);
        stream.add_(product);
    }

    void transform_back(const TransformerWeights &weights, TransformerTape &tape) {
        run_mlp_back(tape.edge_mlp, weights.mlp_in, weights.mlp_out, net_.is_gated, edge_, edge_);
        tape.of_tokens_out = trained_.has(weights.out) ? take(t_, d_) : lend(t_, d_);
        tape.of_tokens_out.narrow(0, n_, e_).copy_(edge_);
        Tensor of_nodes = tape.of_tokens_out.narrow(0, 0, n_);
        if (net_.has_wide_node) {
            run_mlp_back(tape.node_mlp, weights.center_in, weights.center_out, net_.is_gated,
                         node_, node_);
            tape.of_expanded = keep_for(weights.expand, node_);
            multiply_back(node_, weights.expand, of_nodes);
        } else {
            of_nodes.copy_(node_);
        }
        tape.of_attended = take(t_, d_);
        tape.of_mixed = trained_.has(weights.mixed) ? take(t_, 3 * d_) : lend(t_, 3 * d_);
        multiply_back(tape.of_tokens_out, weights.out, tape.of_attended);
        with_width([&](auto width) {
            attend_backward<decltype(width)::value, A, A>(
                blocks_, p(tape.of_attended), p(tape.mixed.value), p(weights.mixed.bias),
                p(tape.weights.value), p(tape.of_mixed), p(of_logs_));
        });
        multiply_back(tape.of_mixed, weights.mixed, tape.tokens.of_out);
        nodes_.zero_();
        norm_.template backward<A>(p(tape.tokens.of_out), p(tape.tokens.out.value),
                                   p(tape.tokens.inverse), p(tokens_), t_, d_);
        if (net_.has_wide_node) {
            tape.of_contracted = keep_for(weights.contract, nodes_);
            multiply_back(nodes_, weights.contract, wide_rows_);
            node_.add_(wide_rows_);
        } else {
            node_.copy_(nodes_);
        }
    }

    void embed_back(const GnnWeights &layer, GnnTape &tape) {
        tape.of_edge = keep_for(layer.compress, edge_);
        tape.of_active = take(e_, d_);
        multiply_back(edge_, layer.compress, tape.of_active);
        Tensor of_embedded = borrow(hidden_, e_, d_).copy_(tape.of_active);
        embed_edges_backward<A, A>(p(of_embedded), p(tape.embedded.value), p(layer.basis),
                                   p(out_.of_geometry), e_, d_);
        if (layer.message.weight.defined()) {
            multiply_back(of_embedded, layer.message, edge_rows_);
            message_.add_(edge_rows_);
        }
    }

    // ---- forward_dot: they hold how values change

    void forward_dot() {
        message_.zero_();
        node_.zero_();
        for (size_t g = 0; g < gnn_.size(); g++) {
            if (!net_.is_feedforward) node_.zero_();
            embed_dot(net_.gnn[g], gnn_[g]);
            for (size_t k = 0; k < gnn_[g].transformers.size(); k++)
                transform_dot(net_.gnn[g].transformers[k], gnn_[g].transformers[k]);
            if (net_.is_feedforward) {
                MlpTape &tape = gnn_[g].pair_mlp;
                run_mlp_dot(tape, net_.gnn[g].pair_in, net_.gnn[g].pair_out, false, edge_);
                multiply(tape.active.dot, net_.gnn[g].pair_out, edge_rows_);
                message_.add_(edge_rows_).add_(edge_);
            } else {
                read_out_dot(g, edge_);
                average_with_reverse<A>(p(message_), p(edge_), reverse_, e_, d_);
            }
        }
        if (net_.is_feedforward) read_out_dot(0, message_);
    }

    void embed_dot(const GnnWeights &layer, GnnTape &tape) {
        const A *from_message = nullptr;
        if (layer.message.weight.defined()) {
            if (trained_.has(layer.message)) tape.message.dot.copy_(message_);
            multiply(message_, layer.message, edge_rows_);
            from_message = p(edge_rows_);
        }
        embed_edges_dot<A>(p(geometry_dot_), p(layer.basis), from_message, p(tape.embedded.value),
                           p(tape.embedded.dot), p(tape.active.dot), e_, d_);
        multiply(tape.active.dot, layer.compress, edge_);
    }

    void transform_dot(const TransformerWeights &weights, TransformerTape &tape) {
        if (net_.has_wide_node) {
            if (trained_.has(weights.contract)) tape.wide.dot.copy_(node_);
            multiply(node_, weights.contract, nodes_);
        } else {
            nodes_.copy_(node_);
        }
        norm_dot<A>(norm_, p(tokens_), p(tape.tokens.out.value), p(tape.tokens.inverse),
                    p(tape.tokens.out.dot), p(tape.tokens.along), t_, d_);
        multiply(tape.tokens.out.dot, weights.mixed, tape.mixed.dot);
        with_width([&](auto width) {
            attend_dot<decltype(width)::value, A>(
                blocks_, p(tape.mixed.value), p(weights.mixed.bias), p(tape.mixed.dot),
                p(logs_dot_), p(tape.weights.value), p(tape.weights.dot), p(tape.attended.dot));
        });
        multiply(tape.attended.dot, weights.out, rows_);
        edge_.add_(edge_rows_);
        if (net_.has_wide_node) {
            tape.nodes.dot.copy_(node_rows_);
            multiply(node_rows_, weights.expand, wide_rows_);
            node_.add_(wide_rows_);
            run_mlp_dot(tape.node_mlp, weights.center_in, weights.center_out, net_.is_gated,
                        node_);
            multiply(tape.node_mlp.active.dot, weights.center_out, wide_rows_);
            node_.add_(wide_rows_);
        } else {
            node_.copy_(node_rows_);
        }
        run_mlp_dot(tape.edge_mlp, weights.mlp_in, weights.mlp_out, net_.is_gated, edge_);
        multiply(tape.edge_mlp.active.dot, weights.mlp_out, edge_rows_);
        edge_.add_(edge_rows_);
    }

    void read_out_dot(int64_t r, const Tensor &edges) {
        read_dot(node_, net_.node_heads[r], node_heads_[r]);
        read_dot(edges, net_.edge_heads[r], edge_heads_[r]);
    }

    void read_dot(const Tensor &stream, const HeadWeights &head, HeadTape &tape) {
        int64_t rows = stream.size(0), width = head.last.size(0);
        if (trained_.has(head.first)) tape.in.dot.copy_(stream);
        multiply(stream, head.first, tape.first.dot);
        silu_dot<A>(p(tape.first.value), p(head.first.bias), p(tape.first.dot),
                    p(tape.hidden.dot), rows, width);
        multiply(tape.hidden.dot, head.second, tape.second.dot);
    }

    // ---- backward_dot: they hold how gradients change, with what comes from the energies

    void backward_dot() {
        Tensor of_nodes_dot = of_energies_ * in_.scale;
        Tensor of_edges_dot = at::empty({e_}, tokens_.options());
        const A *of_energy = p(of_energies_), *factor_dot = p(factors_dot_);
        for (int64_t i = 0; i < n_; i++)
            for (int64_t k = starts_[i]; k < starts_[i + 1]; k++)
                p(of_edges_dot)[k] = scale_[i] * (of_energy[i] * factor_[k] + factor_dot[k]);
        bool has_trunk = gradients_->has_trunk();
        node_.zero_();
        message_.zero_();
        if (net_.is_feedforward) read_out_back_dot(0, message_, of_nodes_dot, of_edges_dot);
        for (int64_t g = gnn_.size() - 1; g >= 0; g--) {
            if (net_.is_feedforward) {
                if (!has_trunk) return;
                edge_.copy_(message_);
                run_mlp_back_dot(gnn_[g].pair_mlp, net_.gnn[g].pair_in, net_.gnn[g].pair_out,
                                 false, message_, edge_);
            } else {
                message_.mul_(0.5);
                at::index_select_out(edge_, message_, 0, in_.reverse);
                node_.zero_();
                read_out_back_dot(g, edge_, of_nodes_dot, of_edges_dot);
                if (!has_trunk) continue;
            }
            if (in_.addition.has_value())
                if (Tensor *sum = gradients_->find(*in_.addition)) sum->add_(node_);
            bool is_end = g == 0 && !gradients_->has_inputs();
            for (int64_t k = gnn_[g].transformers.size() - 1; k >= 0; k--)
                transform_back_dot(net_.gnn[g].transformers[k], gnn_[g].transformers[k],
                                   is_end && k == 0);
            if (is_end) return;
            embed_back_dot(net_.gnn[g], gnn_[g]);
            if (!net_.is_feedforward) add_to_rows(net_.node_tables[g], in_.species, node_);
        }
        if (!has_trunk) return;
        if (net_.is_feedforward) add_to_rows(net_.node_tables[0], in_.species, node_);
        add_to_rows(net_.message_table, in_.kinds, message_);
    }

    void read_out_back_dot(int64_t r, const Tensor &edges, const Tensor &of_nodes_dot,
                           const Tensor &of_edges_dot) {
        read_back_dot(node_heads_[r], net_.node_heads[r], in_.scale, of_nodes_dot, node_);
        read_back_dot(edge_heads_[r], net_.edge_heads[r], of_edge_values_.squeeze(1),
                      of_edges_dot, edges);
    }

    void read_back_dot(HeadTape &tape, const HeadWeights &head, const Tensor &of_values,
                       const Tensor &of_values_dot, const Tensor &stream) {
        int64_t rows = stream.size(0), width = head.last.size(0);
        if (rows == 0) return;
        Tensor of_x = borrow(hidden_, rows, width), of_x_dot = borrow(hidden_dot_, rows, width);
        Twin active{borrow(active_, rows, width), borrow(active_dot_, rows, width)};
        last_layer_back_dot<A>(p(of_values), p(of_values_dot), p(tape.second.value),
                               p(head.second.bias), p(head.last), p(tape.second.dot), p(of_x),
                               p(of_x_dot), p(active.value), p(active.dot), rows, width);
        if (Tensor *last = gradients_->find(head.last)) {
            last->addmv_(active.value.t(), of_values_dot);
            last->addmv_(active.dot.t(), of_values);
        }
        if (Tensor *bias = gradients_->find(head.last_bias)) bias->add_(of_values_dot.sum());
        add_gradient(head.second, tape.hidden, of_x, of_x_dot);
        Tensor of_hidden_dot = active.value;
        multiply_back(of_x_dot, head.second, of_hidden_dot);
        silu_back_dot<A>(p(tape.first.value), p(head.first.bias), p(tape.first.dot),
                         p(tape.of_hidden), p(of_hidden_dot), p(of_x), p(of_x_dot), rows, width);
        add_gradient(head.first, tape.in, of_x, of_x_dot);
        if (!gradients_->has_trunk()) return;
        Tensor product = borrow(active_, rows, stream.size(1));
        multiply_back(of_x_dot, head.first, product);
        stream.add_(product);
    }

    // `is_end`: nobody needs the gradient in what comes before
    void transform_back_dot(const TransformerWeights &weights, TransformerTape &tape,
                            bool is_end) {
        run_mlp_back_dot(tape.edge_mlp, weights.mlp_in, weights.mlp_out, net_.is_gated, edge_,
                         edge_);
        edge_rows_.copy_(edge_);
        if (net_.has_wide_node) {
            run_mlp_back_dot(tape.node_mlp, weights.center_in, weights.center_out,
                             net_.is_gated, node_, node_);
            add_gradient(weights.expand, tape.nodes, tape.of_expanded, node_);
            multiply_back(node_, weights.expand, node_rows_);
        } else {
            node_rows_.copy_(node_);
        }
        add_gradient(weights.out, tape.attended, tape.of_tokens_out, rows_);
        Tensor of_attended_dot = borrow(active_, t_, d_);
        Tensor of_mixed_dot = borrow(hidden_, t_, 3 * d_);
        multiply_back(rows_, weights.out, of_attended_dot);
        with_width([&](auto width) {
            attend_back_dot<decltype(width)::value, A>(
                blocks_, p(tape.of_attended), p(of_attended_dot), p(tape.mixed.value),
                p(weights.mixed.bias), p(tape.mixed.dot), p(tape.weights.value),
                p(tape.weights.dot), p(of_mixed_dot));
        });
        add_gradient(weights.mixed, tape.tokens.out, tape.of_mixed, of_mixed_dot);
        if (is_end) return;
        multiply_back(of_mixed_dot, weights.mixed, of_attended_dot);
        nodes_.zero_();
        norm_back_dot<A>(norm_, p(tape.tokens.of_out), p(of_attended_dot),
                         p(tape.tokens.out.value), p(tape.tokens.out.dot),
                         p(tape.tokens.inverse), p(tape.tokens.along), p(tokens_), t_, d_);
        if (net_.has_wide_node) {
            add_gradient(weights.contract, tape.wide, tape.of_contracted, nodes_);
            multiply_back(nodes_, weights.contract, wide_rows_);
            node_.add_(wide_rows_);
        } else {
            node_.copy_(nodes_);
        }
    }

    void embed_back_dot(const GnnWeights &layer, GnnTape &tape) {
        if (e_ == 0) return;
        add_gradient(layer.compress, tape.active, tape.of_edge, edge_);
        Tensor of_active_dot = borrow(active_, e_, d_);
        Tensor of_x = borrow(hidden_, e_, d_), of_x_dot = borrow(hidden_dot_, e_, d_);
        multiply_back(edge_, layer.compress, of_active_dot);
        silu_back_dot<A>(p(tape.embedded.value), p(no_bias_), p(tape.embedded.dot),
                         p(tape.of_active), p(of_active_dot), p(of_x), p(of_x_dot), e_, d_);
        add_to_rows(layer.table, in_.kinds, of_x_dot);
        if (Tensor *basis = gradients_->find(layer.basis)) {
            basis->addmm_(in_.geometry.t(), of_x_dot);
            basis->addmm_(geometry_dot_.t(), of_x);
        }
        if (layer.message.weight.defined()) {
            add_gradient(layer.message, tape.message, of_x, of_x_dot);
            multiply_back(of_x_dot, layer.message, edge_rows_);
            message_.add_(edge_rows_);
        }
    }

    const Network &net_;
    const Trained &trained_;
    const Input in_;
    Pool &pool_;
    const int64_t n_, e_, t_, d_, w_;  // atoms, edges, tokens, widths of edge and node
    const int64_t *starts_, *reverse_;
    const A *factor_, *scale_;
    const Norm<A> norm_, pair_norm_;
    const std::vector<int64_t> weight_starts_;
    Blocks<A> blocks_;
    Output out_;
    Tensor logs_, of_logs_, of_edge_values_;
    Tensor of_energies_, geometry_dot_, factors_dot_, logs_dot_;
    Tensor tokens_, node_, edge_, nodes_, message_;           // streams
    Tensor rows_, edge_rows_, node_rows_, wide_rows_, both_;  // what products leave
    Tensor hidden_, hidden_dot_, active_, active_dot_, low_, lent_;  // to borrow
    Tensor no_bias_;
    std::vector<GnnTape> gnn_;
    std::vector<HeadTape> node_heads_, edge_heads_;
    Gradients *gradients_ = nullptr;
};

}  // namespace pet_calc::engine
