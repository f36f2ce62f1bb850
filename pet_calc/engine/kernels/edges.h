// From all pairs of atoms to the edges of a network, and back.

#pragma once

#include "cutoff.h"
#include "input.h"

namespace pet_calc::engine {

template <typename A>
class Edges {
  public:
    // species [n_atoms]; centers, neighbors, reverse [n_pairs], sorted by centre;
    // vectors [n_pairs, 3]; scale [n_atoms]; addition: see Input
    Edges(const Network &network, const Tensor &species, const Tensor &centers,
          const Tensor &neighbors, const Tensor &reverse, const Tensor &vectors,
          const Tensor &scale, const c10::optional<Tensor> &addition)
        : cutoff_(network.cutoff),
          n_atoms_(species.numel()),
          neighbors_(neighbors),
          vectors_(vectors),
          starts_(n_atoms_ + 1, 0) {
        check_atoms(network, species, scale, addition);
        check_pairs(network, n_atoms_, centers, neighbors, reverse, vectors);
        const int64_t *center = centers.data_ptr<int64_t>();
        const int64_t *neighbor = neighbors.data_ptr<int64_t>();
        for (int64_t p = 0; p < centers.size(0); p++) starts_[center[p] + 1]++;
        for (int64_t i = 0; i < n_atoms_; i++) starts_[i + 1] += starts_[i];
        select<A>(cutoff_, vectors.data_ptr<A>(), neighbor, reverse.data_ptr<int64_t>(),
                  starts_.data(), n_atoms_, selection_);
        const int64_t n_edges = selection_.kept.size();
        auto whole = at::TensorOptions().dtype(at::kLong);
        Tensor geometry = at::empty({n_edges, 4}, vectors.options());
        Tensor factors = at::empty({n_edges}, vectors.options()),
               kinds = at::empty({n_edges}, whole);
        measure<A>(cutoff_, vectors.data_ptr<A>(), neighbor, n_atoms_, selection_,
                   geometry.data_ptr<A>(), factors.data_ptr<A>());
        const int64_t *kind = species.data_ptr<int64_t>();
        for (int64_t k = 0; k < n_edges; k++)
            kinds.data_ptr<int64_t>()[k] = kind[neighbor[selection_.kept[k]]];
        auto view = [&](std::vector<int64_t> &values) {
            return at::from_blob(values.data(), {int64_t(values.size())}, whole);
        };
        input_ = Input{species,
                       kinds,
                       view(selection_.reverse),
                       view(selection_.first_edge),
                       geometry,
                       factors,
                       scale,
                       addition};
    }

    Edges(const Edges &) = delete;

    const Input &input() const { return input_; }

    // gradient [n_pairs, 3] in the vectors
    Tensor backward(const Output &out) const {
        Tensor gradient = at::empty_like(vectors_);
        select_backward<A>(cutoff_, vectors_.data_ptr<A>(), starts_.data(), n_atoms_, selection_,
                           out.grad_geometry.template data_ptr<A>(),
                           out.grad_factors.template data_ptr<A>(), gradient.data_ptr<A>());
        return gradient;
    }

    // how geometry and factors change when the vectors do
    std::tuple<Tensor, Tensor> forward_dot(const Tensor &vectors_dot) const {
        check_tensor("gradient of the vectors' gradient", vectors_dot, vectors_.sizes(),
                     vectors_.scalar_type());
        Tensor geometry_dot = at::empty_like(input_.geometry);
        Tensor factors_dot = at::empty_like(input_.factors);
        select_forward_dot<A>(cutoff_, vectors_.data_ptr<A>(), vectors_dot.data_ptr<A>(),
                              neighbors_.data_ptr<int64_t>(), starts_.data(), n_atoms_, selection_,
                              geometry_dot.data_ptr<A>(), factors_dot.data_ptr<A>());
        return {geometry_dot, factors_dot};
    }

  private:
    const Cutoff cutoff_;
    const int64_t n_atoms_;
    const Tensor neighbors_, vectors_;
    std::vector<int64_t> starts_;
    Selection<A> selection_;
    Input input_;
};

}  // namespace pet_calc::engine
