#include "engine.h"

#include "edges.h"
#include "inference.h"

#include <ATen/core/grad_mode.h>

namespace pet_calc::engine {

// calls `work` with a number of the type to compute in and one of the type to store
template <typename F>
auto Engine::dispatch(F work) const {
    if (network_.real == at::kDouble) return work(double(), double());
    if (network_.stored == at::kBFloat16) return work(float(), c10::BFloat16());
    return work(float(), float());
}

Engine::Engine(const Tensors &tensors, const Integers &shape, const Numbers &numbers)
    : network_([&] {
          Layouts none({});
          return Network(tensors, shape, numbers, {}, none);
      }()) {}

std::tuple<Tensor, Tensor> Engine::run_pairs(const Tensor &species, const Tensor &centers,
                                             const Tensor &neighbors, const Tensor &reverse,
                                             const Tensor &vectors, const Tensor &scale,
                                             const c10::optional<Tensor> &addition) {
    auto [energies, gradient, none] =
        run(false, species, centers, neighbors, reverse, vectors, scale, addition);
    return {energies, gradient};
}

std::tuple<Tensor, Tensor, Tensor> Engine::run_pairs_with_features(
    const Tensor &species, const Tensor &centers, const Tensor &neighbors, const Tensor &reverse,
    const Tensor &vectors, const Tensor &scale, const c10::optional<Tensor> &addition) {
    return run(true, species, centers, neighbors, reverse, vectors, scale, addition);
}

// `arguments`: those of Edges after the network
template <typename... Arguments>
std::tuple<Tensor, Tensor, Tensor> Engine::run(bool with_features, const Arguments &...arguments) {
    at::NoGradGuard no_grad;
    return dispatch([&](auto real, auto stored) {
        Edges<decltype(real)> edges(network_, arguments...);
        Output out = evaluate<decltype(real), decltype(stored)>(network_, edges.input(), pool_,
                                                                with_features);
        return std::make_tuple(out.energies, edges.backward(out), out.features);
    });
}

std::tuple<Tensor, Tensor, Tensor> Engine::run_part(const Part &part, bool with_features,
                                                    const Tensor &species, const Tensor &centers,
                                                    const Tensor &neighbors, const Tensor &reverse,
                                                    const Tensor &vectors, const Tensor &scale,
                                                    const c10::optional<Tensor> &addition) {
    return run(with_features, species, centers, neighbors, reverse, vectors, scale, addition,
               &part);
}

}  // namespace pet_calc::engine
