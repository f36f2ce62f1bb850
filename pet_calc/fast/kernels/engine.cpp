// Energy of a PET and its gradient, written out by hand.
//
// The forward pass keeps what the backward pass needs and nothing else; there are no
// weight gradients. Matrix products are PyTorch's, everything between two of them is
// one loop. Norm weights, the edge embedding and the element tables are folded into the
// matrices before they come here (network.py).

#include "attention.h"
#include "rows.h"
#include "selection.h"

#include <ATen/ATen.h>
#include <torch/library.h>

#include <string>
#include <tuple>
#include <vector>

namespace pet_calc {

using at::Tensor;

// Buffers that are kept between calls: new memory would have to be cleared by the
// system each time, which costs as much as the arithmetic.
class Pool {
  public:
    void rewind() { next_ = 0; }

    Tensor take(int64_t n_rows, int64_t n_columns, at::ScalarType dtype) {
        if (next_ == buffers_.size()) buffers_.emplace_back();
        Tensor &buffer = buffers_[next_++];
        int64_t needed = n_rows * n_columns;
        if (!buffer.defined() || buffer.numel() < needed || buffer.scalar_type() != dtype)
            buffer = at::empty({needed + needed / 8}, at::TensorOptions().dtype(dtype));
        return buffer.narrow(0, 0, needed).view({n_rows, n_columns});
    }

  private:
    std::vector<Tensor> buffers_;
    size_t next_ = 0;
};

struct Linear {
    Tensor weight;  // [out, in]
    Tensor bias;    // [out], added by the kernel that reads the product
    Tensor turned;  // [in, out]: the same laid out for the forward product
};

struct TransformerWeights {
    Linear mixed, out, mlp_in, mlp_out, contract, expand, center_in, center_out;
};

struct GnnWeights {
    Tensor basis, table;
    Linear message, compress, pair_in, pair_out;
    std::vector<TransformerWeights> transformers;
};

struct HeadWeights {
    Linear first, second;
    Tensor last;
    double last_bias;
};

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

using Weights = c10::Dict<std::string, Tensor>;

class Engine : public torch::CustomClassHolder {
    // calls `work` with a number of the type to compute in and one of the type to store
    template <typename F>
    auto dispatch(F work) const {
        if (real_ == at::kDouble) return work(double(), double());
        if (stored_ == at::kBFloat16) return work(float(), c10::BFloat16());
        return work(float(), float());
    }

  public:
    Engine(const Weights &weights, const c10::Dict<std::string, int64_t> &shape,
           const c10::Dict<std::string, double> &numbers) {
        auto flag = [&](const char *name) { return shape.at(name) != 0; };
        d_ = shape.at("d_pet");
        d_node_ = shape.at("d_node");
        n_heads_ = shape.at("num_heads");
        is_feedforward_ = flag("is_feedforward");
        is_gated_ = flag("is_gated");
        is_wide_ = d_node_ != d_;
        subtracts_mean_ = flag("subtracts_mean");
        eps_ = numbers.at("eps");
        pair_eps_ = numbers.at("pair_eps");
        scale_ = numbers.at("attention_scale");
        cutoff_ = Cutoff{numbers.at("cutoff"),       numbers.at("cutoff_width"),
                         numbers.at("n_wanted"),     numbers.at("adaptive_width"),
                         flag("is_bump"),            flag("is_adaptive")};
        auto linear = [&](const std::string &name) {
            Linear result;
            result.weight = weights.at(name + ".weight").contiguous();
            result.turned = result.weight.t().contiguous();
            if (weights.contains(name + ".bias"))
                result.bias = weights.at(name + ".bias").contiguous();
            return result;
        };
        for (int64_t g = 0; g < shape.at("num_gnn_layers"); g++) {
            std::string prefix = "gnn." + std::to_string(g) + ".";
            GnnWeights layer;
            layer.basis = weights.at(prefix + "basis").contiguous();
            layer.table = weights.at(prefix + "table").contiguous();
            layer.compress = linear(prefix + "compress");
            if (g > 0) layer.message = linear(prefix + "message");
            if (is_feedforward_) {
                layer.pair_in = linear(prefix + "pair_in");
                layer.pair_out = linear(prefix + "pair_out");
            }
            for (int64_t t = 0; t < shape.at("num_attention_layers"); t++) {
                std::string inner = prefix + std::to_string(t) + ".";
                TransformerWeights w;
                w.mixed = linear(inner + "mixed");
                w.out = linear(inner + "out");
                w.mlp_in = linear(inner + "mlp_in");
                w.mlp_out = linear(inner + "mlp_out");
                if (is_wide_) {
                    w.contract = linear(inner + "contract");
                    w.expand = linear(inner + "expand");
                    w.center_in = linear(inner + "center_in");
                    w.center_out = linear(inner + "center_out");
                }
                layer.transformers.push_back(w);
            }
            gnn_.push_back(layer);
        }
        for (int64_t r = 0; r < shape.at("num_readout_layers"); r++) {
            std::string suffix = "." + std::to_string(r);
            for (bool is_edge : {false, true}) {
                std::string name = std::string(is_edge ? "edge" : "node") + "_head" + suffix;
                HeadWeights head;
                head.first = linear(name + ".0");
                head.second = linear(name + ".1");
                head.last = weights.at(name + ".last").contiguous();
                head.last_bias = weights.at(name + ".last_bias").item<double>();
                (is_edge ? edge_heads_ : node_heads_).push_back(head);
            }
            node_tables_.push_back(weights.at("node_table" + suffix).contiguous());
        }
        message_table_ = weights.at("message_table").contiguous();
        real_ = message_table_.scalar_type();
        stored_ = gnn_[0].compress.weight.scalar_type();
    }

    // Energies per atom, and the gradient of their sum, from edges and their factors.
    // Arguments: see network.py.
    std::tuple<Tensor, Tensor, Tensor> run_edges(
        const Tensor &species, const Tensor &kinds, const Tensor &reverse, const Tensor &first,
        const Tensor &geometry, const Tensor &factors, const Tensor &scale,
        const c10::optional<Tensor> &addition) {
        at::NoGradGuard no_grad;
        return dispatch([&](auto real, auto stored) {
            return compute<decltype(real), decltype(stored)>(species, kinds, reverse, first,
                                                             geometry, factors, scale, addition);
        });
    }

    // The same from all pairs, whose edges are found here.
    std::tuple<Tensor, Tensor> run_pairs(
        const Tensor &species, const Tensor &centers, const Tensor &neighbors,
        const Tensor &reverse, const Tensor &vectors, const Tensor &scale,
        const c10::optional<Tensor> &addition) {
        at::NoGradGuard no_grad;
        return dispatch([&](auto real, auto stored) {
            return compute_pairs<decltype(real), decltype(stored)>(
                species, centers, neighbors, reverse, vectors, scale, addition);
        });
    }

  private:
    template <typename A, typename S>
    std::tuple<Tensor, Tensor> compute_pairs(
        const Tensor &species, const Tensor &centers, const Tensor &neighbors,
        const Tensor &reverse, const Tensor &vectors, const Tensor &scale,
        const c10::optional<Tensor> &addition) {
        const int64_t n = species.size(0), n_pairs = centers.size(0);
        const int64_t *center = centers.data_ptr<int64_t>();
        const int64_t *neighbor = neighbors.data_ptr<int64_t>();
        const A *vector = vectors.data_ptr<A>();
        std::vector<int64_t> starts(n + 1, 0);
        for (int64_t p = 0; p < n_pairs; p++) starts[center[p] + 1]++;
        for (int64_t i = 0; i < n; i++) starts[i + 1] += starts[i];
        Selection<A> selection;
        select<A>(cutoff_, vector, neighbor, reverse.data_ptr<int64_t>(), starts.data(), n,
                  selection);
        const int64_t e = selection.kept.size();
        auto real = at::TensorOptions().dtype(real_), whole = at::TensorOptions().dtype(at::kLong);
        Tensor geometry = at::empty({e, 4}, real), factors = at::empty({e}, real);
        measure<A>(cutoff_, vector, neighbor, n, selection, geometry.data_ptr<A>(),
                   factors.data_ptr<A>());
        Tensor kinds = at::empty({e}, whole);
        const int64_t *kind_of = species.data_ptr<int64_t>();
        for (int64_t k = 0; k < e; k++)
            kinds.data_ptr<int64_t>()[k] = kind_of[neighbor[selection.kept[k]]];
        auto view = [&](std::vector<int64_t> &values) {
            return at::from_blob(values.data(), {int64_t(values.size())}, whole);
        };
        auto [energies, of_geometry, of_factors] =
            compute<A, S>(species, kinds, view(selection.reverse), view(selection.first), geometry,
                          factors, scale, addition);
        Tensor gradient = at::empty({n_pairs, 3}, real);
        select_backward<A>(cutoff_, vector, starts.data(), n, selection,
                           of_geometry.template data_ptr<A>(),
                           of_factors.template data_ptr<A>(), gradient.data_ptr<A>());
        return {energies, gradient};
    }

    template <typename A, typename S>
    std::tuple<Tensor, Tensor, Tensor> compute(
        const Tensor &species, const Tensor &kinds, const Tensor &reverse_of,
        const Tensor &first, const Tensor &geometry, const Tensor &factors, const Tensor &scale,
        const c10::optional<Tensor> &addition) {
        pool_.rewind();
        const int64_t n = species.size(0), e = kinds.size(0), t = n + e, d = d_, w = d_node_;
        const int64_t n_gnn = gnn_.size();
        const int64_t *kind = kinds.data_ptr<int64_t>(), *reverse = reverse_of.data_ptr<int64_t>();
        const Norm<A> norm{subtracts_mean_, A(eps_)}, pair_norm{true, A(pair_eps_)};
        auto real = [&](int64_t rows, int64_t columns) { return pool_.take(rows, columns, real_); };
        auto stored = [&](int64_t rows, int64_t columns) {
            return pool_.take(rows, columns, stored_);
        };
        auto p = [](const Tensor &x) { return x.data_ptr<A>(); };
        auto q = [](const Tensor &x) { return x.data_ptr<S>(); };
        auto multiply = [&](const Tensor &x, const Linear &layer, Tensor &out) {
            if (x.size(0) > 0) at::mm_out(out, x, layer.turned);
        };
        auto multiply_back = [&](const Tensor &x, const Linear &layer, Tensor &out) {
            if (x.size(0) > 0) at::mm_out(out, x, layer.weight);
        };

        // a stream in the type that products read: itself, or converted into `buffer`
        auto as_stored = [&](const Tensor &x, Tensor buffer) {
            if (std::is_same_v<A, S>) return x;
            convert<A, S>(p(x), q(buffer), x.size(0), x.size(1));
            return buffer;
        };

        // blocks
        const int64_t *starts = first.data_ptr<int64_t>();
        std::vector<int64_t> weight_starts(n + 1, 0);
        for (int64_t i = 0; i < n; i++) {
            int64_t size = starts[i + 1] - starts[i] + 1;
            weight_starts[i + 1] = weight_starts[i] + size * pad(size) * n_heads_;
        }
        Tensor logs = real(e, 1);
        const A *factor = p(factors), *strength = p(scale);
        for_rows(e, 16, [&](int64_t begin, int64_t end) {
            for (int64_t k = begin; k < end; k++)
                p(logs)[k] = std::log(factor[k] > A(LOWEST) ? factor[k] : A(LOWEST));
        });
        Blocks<A> blocks{n, n_heads_, d / n_heads_, A(scale_), starts, weight_starts.data(),
                         p(logs)};

        // streams
        Tensor tokens = real(t, d), node = real(n, w), message = real(e, d);
        Tensor edge = tokens.narrow(0, n, e);
        Tensor tmp_d = stored(t, d), tmp_2 = stored(e, 2 * d), tmp_f, tmp_c;
        at::index_select_out(message, message_table_, 0, kinds);

        auto embed_nodes = [&](int64_t r) {
            at::index_select_out(node, node_tables_[r], 0, species);
        };
        auto activate = [&](const Tensor &x, const Linear &layer, Tensor &out) {
            int64_t width = out.size(1);
            if (is_gated_)
                gate_forward<A, S>(q(x), p(layer.bias), q(out), x.size(0), width);
            else
                silu_forward<A, S>(q(x), p(layer.bias), q(out), x.size(0), width);
        };
        auto activate_back = [&](const Tensor &of_out, Tensor &x, const Linear &layer) {
            int64_t width = of_out.size(1);
            if (is_gated_)
                gate_backward<A, S>(q(of_out), q(x), p(layer.bias), x.size(0), width);
            else
                silu_backward<A, S>(q(of_out), q(x), p(layer.bias), q(x), x.size(0), width);
        };

        // ---- forward
        std::vector<GnnRecord> records(n_gnn);
        std::vector<HeadRecord> node_records(node_heads_.size()), edge_records(edge_heads_.size());
        Tensor energies = at::zeros({n}, at::TensorOptions().dtype(real_));
        Tensor edge_values = at::zeros({e}, at::TensorOptions().dtype(real_));
        auto read = [&](const Tensor &x, const HeadWeights &head, HeadRecord &record) {
            int64_t rows = x.size(0), width = head.last.size(0);
            Tensor input = as_stored(x, stored(rows, x.size(1))), hidden = stored(rows, width);
            record.first = stored(rows, width);
            record.second = stored(rows, width);
            record.values = real(rows, 1);
            multiply(input, head.first, record.first);
            silu_forward<A, S>(q(record.first), p(head.first.bias), q(hidden), rows, width);
            multiply(hidden, head.second, record.second);
            last_layer<A, S>(q(record.second), p(head.second.bias), p(head.last),
                             p(record.values), rows, width);
        };
        auto collect = [&](int64_t r) {
            A node_bias = node_heads_[r].last_bias, edge_bias = edge_heads_[r].last_bias;
            const A *of_node = p(node_records[r].values), *of_edge = p(edge_records[r].values);
            A *energy = p(energies), *value = p(edge_values);
            for (int64_t i = 0; i < n; i++) {
                A sum = of_node[i] + node_bias;
                for (int64_t k = starts[i]; k < starts[i + 1]; k++) {
                    value[k] += (of_edge[k] + edge_bias) * strength[i];
                    sum += (of_edge[k] + edge_bias) * factor[k];
                }
                energy[i] += sum * strength[i];
            }
        };

        if (is_feedforward_) embed_nodes(0);
        for (int64_t g = 0; g < n_gnn; g++) {
            const GnnWeights &layer = gnn_[g];
            GnnRecord &record = records[g];
            if (!is_feedforward_) embed_nodes(g);
            record.embedded = stored(e, d);
            Tensor activated = tmp_d.narrow(0, 0, e), product = tmp_2.view({2 * e, d}).narrow(0, 0, e);
            const S *from_message = nullptr;
            if (g > 0) {
                multiply(as_stored(message, activated), layer.message, product);
                from_message = q(product);
            }
            embed_edges<A, S>(p(layer.table), kind, p(geometry), p(layer.basis), from_message,
                              q(record.embedded), q(activated), e, d);
            multiply(activated, layer.compress, product);
            set_update<A, S>(p(edge), q(product), p(layer.compress.bias), e, d);

            for (const TransformerWeights &weights : layer.transformers) {
                TransformerRecord r;
                Tensor of_nodes = tokens.narrow(0, 0, n);
                Tensor update = tmp_d, node_update = update.narrow(0, 0, n);
                if (is_wide_) {
                    Tensor wide = stored(n, w);
                    multiply(as_stored(node, wide), weights.contract, node_update);
                    set_update<A, S>(p(of_nodes), q(node_update), p(weights.contract.bias), n, d);
                } else {
                    of_nodes.copy_(node);
                }
                r.tokens = stored(t, d);
                r.tokens_inverse = real(t, 1);
                r.mixed = stored(t, 3 * d);
                r.weights = real(weight_starts[n], 1);
                norm.template forward<S>(p(tokens), q(r.tokens), p(r.tokens_inverse), t, d);
                multiply(r.tokens, weights.mixed, r.mixed);
                Tensor attended = stored(t, d);
                with_width<A, S>([&](auto width) {
                    attend<decltype(width)::value, A, S>(blocks, q(r.mixed),
                                                         p(weights.mixed.bias), p(r.weights),
                                                         q(attended));
                });
                multiply(attended, weights.out, update);
                add_update<A, S>(p(edge), q(update) + n * d, p(weights.out.bias), e, d);
                // edges
                int64_t f = weights.mlp_out.weight.size(1);
                r.edges = stored(e, d);
                r.edges_inverse = real(e, 1);
                r.edges_hidden = stored(e, weights.mlp_in.weight.size(0));
                norm.template forward<S>(p(edge), q(r.edges), p(r.edges_inverse), e, d);
                multiply(r.edges, weights.mlp_in, r.edges_hidden);
                if (!tmp_f.defined()) tmp_f = stored(e, f);
                activate(r.edges_hidden, weights.mlp_in, tmp_f);
                // nodes: read their update before the edges' next product replaces it
                if (is_wide_) {
                    Tensor narrow_update = stored(n, d), wide = stored(n, w);
                    A *sum = p(of_nodes);
                    set_update<A, S>(sum, q(node_update), p(weights.out.bias), n, d);
                    multiply(as_stored(of_nodes, narrow_update), weights.expand, wide);
                    add_update<A, S>(p(node), q(wide), p(weights.expand.bias), n, w);
                    r.nodes = stored(n, w);
                    r.nodes_inverse = real(n, 1);
                    r.nodes_hidden = stored(n, weights.center_in.weight.size(0));
                    norm.template forward<S>(p(node), q(r.nodes), p(r.nodes_inverse), n, w);
                    multiply(r.nodes, weights.center_in, r.nodes_hidden);
                    if (!tmp_c.defined()) tmp_c = stored(n, weights.center_out.weight.size(1));
                    activate(r.nodes_hidden, weights.center_in, tmp_c);
                    multiply(tmp_c, weights.center_out, wide);
                    add_update<A, S>(p(node), q(wide), p(weights.center_out.bias), n, w);
                } else {
                    set_update<A, S>(p(node), q(node_update), p(weights.out.bias), n, d);
                }
                Tensor edge_update = update.narrow(0, n, e);
                multiply(tmp_f, weights.mlp_out, edge_update);
                add_update<A, S>(p(edge), q(edge_update), p(weights.mlp_out.bias), e, d);
                record.transformers.push_back(r);
            }
            if (addition.has_value()) node.add_(*addition);

            if (is_feedforward_) {
                record.pair = stored(e, 2 * d);
                record.pair_inverse = real(e, 1);
                record.pair_hidden = stored(e, 2 * d);
                pair_norm_forward<A, S>(pair_norm, p(edge), reverse, q(record.pair),
                                        p(record.pair_inverse), e, d);
                multiply(record.pair, layer.pair_in, record.pair_hidden);
                silu_forward<A, S>(q(record.pair_hidden), p(layer.pair_in.bias), q(tmp_2), e,
                                   2 * d);
                Tensor update = tmp_d.narrow(0, 0, e);
                multiply(tmp_2, layer.pair_out, update);
                add_update<A, S>(p(message), q(update), p(layer.pair_out.bias), e, d);
                add_rows<A, A>(p(message), p(edge), e, d);
            } else {
                read(node, node_heads_[g], node_records[g]);
                read(edge, edge_heads_[g], edge_records[g]);
                collect(g);
                average_with_reverse<A>(p(message), p(edge), reverse, e, d);
            }
        }
        if (is_feedforward_) {
            read(node, node_heads_[0], node_records[0]);
            read(message, edge_heads_[0], edge_records[0]);
            collect(0);
        }

        // ---- backward: the streams now hold gradients
        Tensor of_geometry = at::zeros({e, 4}, at::TensorOptions().dtype(real_));
        Tensor of_factors = edge_values;
        Tensor of_logs = real(e, 1);
        of_logs.zero_();
        Tensor scratch = real(e, 2 * d);
        auto read_back = [&](HeadRecord &record, const HeadWeights &head, const A *of_values,
                             Tensor &out) {
            int64_t rows = record.first.size(0), width = head.last.size(0);
            Tensor from = stored(rows, width), product = stored(rows, out.size(1));
            last_layer_backward<A, S>(of_values, q(record.second), p(head.second.bias),
                                      p(head.last), rows, width);
            multiply_back(record.second, head.second, from);
            silu_backward<A, S>(q(from), q(record.first), p(head.first.bias), q(from), rows,
                                width);
            multiply_back(from, head.first, product);
            add_rows<A, S>(p(out), q(product), rows, out.size(1));
        };
        Tensor of_edge_values = real(e, 1);
        for (int64_t i = 0; i < n; i++)
            for (int64_t k = starts[i]; k < starts[i + 1]; k++)
                p(of_edge_values)[k] = strength[i] * factor[k];
        node.zero_();
        message.zero_();
        if (is_feedforward_) {
            read_back(node_records[0], node_heads_[0], strength, node);
            read_back(edge_records[0], edge_heads_[0], p(of_edge_values), message);
        }
        for (int64_t g = n_gnn - 1; g >= 0; g--) {
            const GnnWeights &layer = gnn_[g];
            GnnRecord &record = records[g];
            if (is_feedforward_) {
                edge.copy_(message);
                Tensor from = as_stored(message, tmp_d.narrow(0, 0, e));
                multiply_back(from, layer.pair_out, tmp_2);
                silu_backward<A, S>(q(tmp_2), q(record.pair_hidden), p(layer.pair_in.bias),
                                    q(record.pair_hidden), e, 2 * d);
                multiply_back(record.pair_hidden, layer.pair_in, tmp_2);
                pair_norm_backward<A, S>(pair_norm, q(tmp_2), q(record.pair),
                                         p(record.pair_inverse), reverse, p(scratch), p(edge),
                                         e, d);
            } else {
                // message of the next layer = (message + edge of the reverse) / 2
                message.mul_(0.5);
                at::index_select_out(edge, message, 0, reverse_of);
                node.zero_();
                read_back(node_records[g], node_heads_[g], strength, node);
                read_back(edge_records[g], edge_heads_[g], p(of_edge_values), edge);
            }
            for (int64_t k = layer.transformers.size() - 1; k >= 0; k--) {
                const TransformerWeights &weights = layer.transformers[k];
                TransformerRecord &r = record.transformers[k];
                // edges
                Tensor from = tmp_d.narrow(0, n, e);
                multiply_back(as_stored(edge, from), weights.mlp_out, tmp_f);
                activate_back(tmp_f, r.edges_hidden, weights.mlp_in);
                multiply_back(r.edges_hidden, weights.mlp_in, from);
                norm.template backward<S>(q(from), q(r.edges), p(r.edges_inverse), p(edge), e, d);
                convert<A, S>(p(edge), q(from), e, d);
                // nodes
                Tensor node_from = tmp_d.narrow(0, 0, n);
                if (is_wide_) {
                    Tensor wide = stored(n, w);
                    multiply_back(as_stored(node, wide), weights.center_out, tmp_c);
                    activate_back(tmp_c, r.nodes_hidden, weights.center_in);
                    multiply_back(r.nodes_hidden, weights.center_in, wide);
                    norm.template backward<S>(q(wide), q(r.nodes), p(r.nodes_inverse), p(node),
                                              n, w);
                    multiply_back(as_stored(node, wide), weights.expand, node_from);
                } else {
                    convert<A, S>(p(node), q(node_from), n, d);
                    node.zero_();
                }
                Tensor attended = stored(t, d);
                multiply_back(tmp_d, weights.out, attended);
                Tensor of_mixed = stored(t, 3 * d);
                with_width<A, S>([&](auto width) {
                    attend_backward<decltype(width)::value, A, S>(
                        blocks, q(attended), q(r.mixed), p(weights.mixed.bias), p(r.weights),
                        q(of_mixed), p(of_logs));
                });
                multiply_back(of_mixed, weights.mixed, attended);
                Tensor of_nodes = tokens.narrow(0, 0, n);
                of_nodes.zero_();
                norm.template backward<S>(q(attended), q(r.tokens), p(r.tokens_inverse),
                                          p(tokens), t, d);
                if (is_wide_) {
                    Tensor narrow_from = stored(n, d), wide = stored(n, w);
                    multiply_back(as_stored(of_nodes, narrow_from), weights.contract, wide);
                    add_rows<A, S>(p(node), q(wide), n, w);
                } else {
                    add_rows<A, A>(p(node), p(of_nodes), n, d);
                }
            }
            Tensor from = tmp_d.narrow(0, 0, e);
            Tensor product = tmp_2.view({2 * e, d}).narrow(0, 0, e);
            multiply_back(as_stored(edge, from), layer.compress, product);
            embed_edges_backward<A, S>(q(product), q(record.embedded), p(layer.basis),
                                       p(of_geometry), e, d);
            if (g > 0) {
                multiply_back(product, layer.message, from);
                add_rows<A, S>(p(message), q(from), e, d);
            }
        }
        A *of_factor = p(of_factors);
        const A *of_log = p(of_logs);
        for (int64_t k = 0; k < e; k++)
            if (factor[k] > A(LOWEST)) of_factor[k] += of_log[k] / factor[k];
        return {energies, of_geometry, of_factors};
    }

    template <typename A, typename S, typename F>
    void with_width(F work) const {
        switch (d_ / n_heads_) {
            case 4: return work(std::integral_constant<int64_t, 4>());
            case 8: return work(std::integral_constant<int64_t, 8>());
            case 12: return work(std::integral_constant<int64_t, 12>());
            case 16: return work(std::integral_constant<int64_t, 16>());
            case 24: return work(std::integral_constant<int64_t, 24>());
            case 32: return work(std::integral_constant<int64_t, 32>());
            case 48: return work(std::integral_constant<int64_t, 48>());
            case 64: return work(std::integral_constant<int64_t, 64>());
            case 80: return work(std::integral_constant<int64_t, 80>());
            case 96: return work(std::integral_constant<int64_t, 96>());
            case 128: return work(std::integral_constant<int64_t, 128>());
        }
        TORCH_CHECK(false, "no kernel for attention heads of width ", d_ / n_heads_);
    }

    static constexpr double LOWEST = 1e-15;

    int64_t d_, d_node_, n_heads_;
    bool is_feedforward_, is_gated_, is_wide_, subtracts_mean_;
    double eps_, pair_eps_, scale_;
    Cutoff cutoff_;
    at::ScalarType real_, stored_;
    std::vector<GnnWeights> gnn_;
    std::vector<HeadWeights> node_heads_, edge_heads_;
    std::vector<Tensor> node_tables_;
    Tensor message_table_;
    Pool pool_;
};

}  // namespace pet_calc

TORCH_LIBRARY(pet_calc, library) {
    library.class_<pet_calc::Engine>("Engine")
        .def(torch::init<pet_calc::Weights, c10::Dict<std::string, int64_t>,
                         c10::Dict<std::string, double>>())
        .def("run_edges", &pet_calc::Engine::run_edges)
        .def("run_pairs", &pet_calc::Engine::run_pairs);
}
