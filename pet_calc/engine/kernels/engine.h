// Energy of a PET and its gradient, written out by hand.
//
// There are no weight gradients. Everything between two matrix products is one loop, and
// the products themselves are those of products.h. Norm weights, the edge embedding and the element
// tables are folded into the matrices before they come here (pet_calc/model/fold.py).
//
// `library.cpp` makes it a class for Python; the LAMMPS plugin uses it as it is.

#pragma once

#include "exchange.h"
#include "pool.h"
#include "weights.h"

#include <ATen/core/ivalue.h>

#include <tuple>

namespace pet_calc::engine {

class Engine : public torch::CustomClassHolder {
  public:
    Engine(const Tensors &tensors, const Integers &shape, const Numbers &numbers);

    // Energies per atom, and the gradient of their sum with respect to the vectors
    // [n_pairs, 3], from pairs sorted by centre. Arguments: see Edges in edges.h.
    std::tuple<Tensor, Tensor> run_pairs(const Tensor &species, const Tensor &centers,
                                         const Tensor &neighbors, const Tensor &reverse,
                                         const Tensor &vectors, const Tensor &scale,
                                         const c10::optional<Tensor> &addition);

    // The same, and the last-layer features [n_atoms, n_features] as PET::evaluate_with_features
    // of the model in Python orders them. They are not scaled.
    std::tuple<Tensor, Tensor, Tensor> run_pairs_with_features(
        const Tensor &species, const Tensor &centers, const Tensor &neighbors,
        const Tensor &reverse, const Tensor &vectors, const Tensor &scale,
        const c10::optional<Tensor> &addition);

    // The same on one of several ranks: energies and features, if asked for, of the part's
    // centres, of which `scale` and `addition` are, and the gradient of the energies of all ranks
    // in this one's vectors.
    std::tuple<Tensor, Tensor, Tensor> run_part(const Part &part, bool with_features,
                                                const Tensor &species, const Tensor &centers,
                                                const Tensor &neighbors, const Tensor &reverse,
                                                const Tensor &vectors, const Tensor &scale,
                                                const c10::optional<Tensor> &addition);

  private:
    // of edges: energies, gradient, and features where asked for
    template <typename... Arguments>
    std::tuple<Tensor, Tensor, Tensor> run(bool with_features, const Arguments &...arguments);
    template <typename F>
    auto dispatch(F work) const;

    Network network_;
    Pool pool_;
};

}  // namespace pet_calc::engine
