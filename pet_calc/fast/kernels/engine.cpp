#include "engine.h"

#include "pass.h"

#include <ATen/core/grad_mode.h>

namespace pet_calc::fast {

// calls `work` with a number of the type to compute in and one of the type to store
template <typename F>
auto Engine::dispatch(F work) const {
    if (network_.real == at::kDouble) return work(double(), double());
    if (network_.stored == at::kBFloat16) return work(float(), c10::BFloat16());
    return work(float(), float());
}

Engine::Engine(const Tensors &tensors, const Integers &shape, const Numbers &numbers)
    : network_(tensors, shape, numbers) {}

std::tuple<Tensor, Tensor, Tensor> Engine::run_edges(
    const Tensor &species, const Tensor &kinds, const Tensor &reverse, const Tensor &first,
    const Tensor &geometry, const Tensor &factors, const Tensor &scale,
    const c10::optional<Tensor> &addition) {
    at::NoGradGuard no_grad;
    Input input{species, kinds, reverse, first, geometry, factors, scale, addition};
    return dispatch([&](auto real, auto stored) {
        Output out = Pass<decltype(real), decltype(stored)>(network_, input, pool_).run();
        return std::make_tuple(out.energies, out.of_geometry, out.of_factors);
    });
}

std::tuple<Tensor, Tensor> Engine::run_pairs(
    const Tensor &species, const Tensor &centers, const Tensor &neighbors,
    const Tensor &reverse, const Tensor &vectors, const Tensor &scale,
    const c10::optional<Tensor> &addition) {
    at::NoGradGuard no_grad;
    return dispatch([&](auto real, auto stored) {
        return compute_pairs<decltype(real), decltype(stored)>(
            species, centers, neighbors, reverse, vectors, scale, addition);
    });
}

template <typename A, typename S>
std::tuple<Tensor, Tensor> Engine::compute_pairs(
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
    select<A>(network_.cutoff, vector, neighbor, reverse.data_ptr<int64_t>(), starts.data(),
              n, selection);
    const int64_t e = selection.kept.size();
    auto real = at::TensorOptions().dtype(network_.real);
    auto whole = at::TensorOptions().dtype(at::kLong);
    Tensor geometry = at::empty({e, 4}, real), factors = at::empty({e}, real);
    measure<A>(network_.cutoff, vector, neighbor, n, selection, geometry.data_ptr<A>(),
               factors.data_ptr<A>());
    Tensor kinds = at::empty({e}, whole);
    const int64_t *kind = species.data_ptr<int64_t>();
    for (int64_t k = 0; k < e; k++)
        kinds.data_ptr<int64_t>()[k] = kind[neighbor[selection.kept[k]]];
    auto view = [&](std::vector<int64_t> &values) {
        return at::from_blob(values.data(), {int64_t(values.size())}, whole);
    };
    Tensor reverse_edges = view(selection.reverse), first = view(selection.first);
    Input input{species, kinds, reverse_edges, first, geometry, factors, scale, addition};
    Output out = Pass<A, S>(network_, input, pool_).run();
    Tensor gradient = at::empty({n_pairs, 3}, real);
    select_backward<A>(network_.cutoff, vector, starts.data(), n, selection,
                       out.of_geometry.template data_ptr<A>(),
                       out.of_factors.template data_ptr<A>(), gradient.data_ptr<A>());
    return {out.energies, gradient};
}

}  // namespace pet_calc::fast
