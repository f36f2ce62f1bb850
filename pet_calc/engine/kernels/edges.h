// From all pairs of atoms to the edges of a network, and back.

#pragma once

#include "border.h"
#include "cutoff.h"
#include "input.h"

#include <memory>

namespace pet_calc::engine {

template <typename A>
class Edges {
  public:
    // species [n_atoms]; centers, neighbors, reverse [n_pairs], sorted by centre;
    // vectors [n_pairs, 3]; scale [n_atoms]; addition: see Input. `part`: of one rank among
    // several, with scale and addition [n_centers]; it must live as long as this.
    Edges(const Network &network, const Tensor &species, const Tensor &centers,
          const Tensor &neighbors, const Tensor &reverse, const Tensor &vectors,
          const Tensor &scale, const c10::optional<Tensor> &addition, const Part *part = nullptr)
        : cutoff_(network.cutoff),
          n_atoms_(part ? part->n_centers : species.numel()),
          part_(part),
          neighbors_(neighbors),
          vectors_(vectors),
          starts_(n_atoms_ + 1, 0) {
        const Tensor own_species = find_own(network, species);
        const int64_t n_crossings = part ? part->crossings.rows.size() : 0;
        check_atoms(network, own_species, scale, addition);
        check_pairs(network, n_atoms_, species.numel(), n_crossings, centers, neighbors, reverse,
                    vectors);
        if (part) check_crossings(part->crossings, reverse);
        const int64_t *center = centers.data_ptr<int64_t>();
        const int64_t *neighbor = neighbors.data_ptr<int64_t>();
        for (int64_t p = 0; p < centers.size(0); p++) starts_[center[p] + 1]++;
        for (int64_t i = 0; i < n_atoms_; i++) starts_[i + 1] += starts_[i];
        measure_distances<A>(vectors.data_ptr<A>(), centers.size(0), selection_);
        if (cutoff_.is_adaptive) solve_radii<A>(cutoff_, starts_.data(), n_atoms_, selection_);
        if (part) exchange_distances(species.numel());
        choose_edges<A>(cutoff_, neighbor, reverse.data_ptr<int64_t>(), starts_.data(), n_atoms_,
                        part ? part->crossings : Crossings(), selection_);
        if (part) border_ = std::make_unique<Border>(part->exchange, selection_.crossings);
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
        input_ = Input{own_species,
                       kinds,
                       view(selection_.reverse),
                       view(selection_.first_edge),
                       geometry,
                       factors,
                       scale,
                       addition,
                       border_.get()};
    }

    Edges(const Edges &) = delete;

    const Input &input() const { return input_; }

    // gradient [n_pairs, 3] in the vectors
    Tensor backward(const Output &out) {
        Tensor gradient = at::empty_like(vectors_);
        const Tensor grad_factors =
            part_ && cutoff_.is_adaptive ? exchange_slopes(out.grad_factors) : out.grad_factors;
        select_backward<A>(cutoff_, vectors_.data_ptr<A>(), starts_.data(), n_atoms_, selection_,
                           out.grad_geometry.template data_ptr<A>(),
                           grad_factors.template data_ptr<A>(), gradient.data_ptr<A>());
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
    // species of the atoms that are evaluated; those of the others are checked here
    Tensor find_own(const Network &network, const Tensor &species) const {
        if (!part_) return species;
        check_tensor("species", species, {species.numel()}, at::kLong);
        TORCH_CHECK(n_atoms_ >= 0 && n_atoms_ <= species.numel(), "engine: ", n_atoms_, " of the ",
                    species.numel(), " atoms cannot be the rank's own");
        check_indices("species", species, network.n_species());
        return species.narrow(0, 0, n_atoms_);
    }

    // Adds distances of reverses on other ranks to the distances, and radii of their centres to
    // the radii. So both ranks have the same numbers to choose edges by.
    void exchange_distances(int64_t n_all) {
        const int64_t n_pairs = neighbors_.numel();
        const std::vector<int64_t> &rows = part_->crossings.rows;
        const int64_t *neighbor = neighbors_.data_ptr<int64_t>();
        std::vector<A> both(2 * (n_pairs + rows.size()));
        std::vector<int64_t> center(n_pairs);
        for (int64_t i = 0; i < n_atoms_; i++)
            std::fill(center.begin() + starts_[i], center.begin() + starts_[i + 1], i);
        for (const int64_t p : rows) {
            both[2 * p] = selection_.distances[p];
            if (cutoff_.is_adaptive) both[2 * p + 1] = selection_.radii[center[p]];
        }
        Border border(part_->exchange, part_->crossings);
        border.start(both.data(), n_pairs, 2, 0, 2);
        border.finish();
        selection_.distances.resize(n_pairs + rows.size());
        if (cutoff_.is_adaptive) selection_.radii.resize(n_all);
        // far more than rounding, far less than what tells two pairs apart
        const A same = sizeof(A) == 8 ? A(1e-6) : A(1e-3);
        for (size_t h = 0; h < rows.size(); h++) {
            const A own = selection_.distances[rows[h]], other = both[2 * (n_pairs + h)];
            TORCH_CHECK(std::abs(own - other) <= same, "a pair of atoms is ", own,
                        " long on one rank and ", other, " on another: ", border.describe(h));
            selection_.distances[n_pairs + h] = other;
            if (cutoff_.is_adaptive)
                selection_.radii[neighbor[rows[h]]] = both[2 * (n_pairs + h) + 1];
        }
    }

    // [n_edges + n_crossings]: the gradient in the factors, and behind it, for the radii, what that
    // of reverses on other ranks is times their slopes
    Tensor exchange_slopes(const Tensor &grad_factors) {
        const int64_t n_edges = grad_factors.numel(), n_crossings = border_->size();
        Tensor all = at::empty({n_edges + n_crossings}, grad_factors.options());
        all.narrow(0, 0, n_edges).copy_(grad_factors);
        A *value = all.data_ptr<A>();
        std::vector<A> pulls(n_edges + n_crossings);
        for (const int64_t e : border_->rows()) pulls[e] = value[e] * selection_.slopes[e];
        border_->start(pulls.data(), n_edges, 1, 0, 1);
        border_->finish();
        std::copy(pulls.begin() + n_edges, pulls.end(), value + n_edges);
        selection_.slopes.resize(n_edges + n_crossings, A(1));
        return all;
    }

    const Cutoff cutoff_;
    const int64_t n_atoms_;
    const Part *part_;
    const Tensor neighbors_, vectors_;
    std::vector<int64_t> starts_;
    Selection<A> selection_;
    std::unique_ptr<Border> border_;
    Input input_;
};

}  // namespace pet_calc::engine
