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
    at::NoGradGuard no_grad;
    return dispatch([&](auto real, auto stored) {
        Edges<decltype(real)> edges(network_, species, centers, neighbors, reverse, vectors, scale,
                                    addition);
        Output out = evaluate<decltype(real), decltype(stored)>(network_, edges.input(), pool_);
        return std::make_tuple(out.energies, edges.backward(out));
    });
}

}  // namespace pet_calc::engine
