// Energies and their gradient with the gradient of both in the weights, as a class for
// PyTorch: for one training step each.

#include "edges.h"
#include "training.h"

#include <torch/library.h>

#include <memory>
#include <tuple>

namespace pet_calc::engine {

// Buffers of passes; those of passes that are over are there for the ones to come.
class Workspace : public torch::CustomClassHolder {
  public:
    Pool *take() {
        if (idle_.empty()) {
            pools_.push_back(std::make_unique<Pool>());
            return pools_.back().get();
        }
        Pool *pool = idle_.back();
        idle_.pop_back();
        return pool;
    }
    void give_back(Pool *pool) { idle_.push_back(pool); }

    int64_t count_bytes() const {
        int64_t total = 0;
        for (const auto &pool : pools_) total += pool->count_bytes();
        return total;
    }

  private:
    std::vector<std::unique_ptr<Pool>> pools_;
    std::vector<Pool *> idle_;
};

// One type's part of a step.
class Step {
  public:
    virtual ~Step() = default;
    virtual std::tuple<Tensor, Tensor> evaluate() = 0;
    virtual void differentiate(const Tensor &grad_energies, const Tensor &vectors_dot,
                               Gradients &gradients) = 0;
};

template <typename A>
class TypedStep : public Step {
  public:
    template <typename... Arguments>
    TypedStep(const Network &network, const Trained &trained, Pool &pool, Arguments &&...arguments)
        : edges_(network, std::forward<Arguments>(arguments)...),
          pass_(network, trained, edges_.input(), pool) {}

    std::tuple<Tensor, Tensor> evaluate() override {
        Output out = pass_.evaluate();
        return {out.energies, edges_.backward(out)};
    }

    void differentiate(const Tensor &grad_energies, const Tensor &vectors_dot,
                       Gradients &gradients) override {
        auto [geometry_dot, factors_dot] = edges_.forward_dot(vectors_dot);
        pass_.differentiate(grad_energies, geometry_dot, factors_dot, gradients);
    }

  private:
    Edges<A> edges_;
    TrainingPass<A> pass_;
};

class TrainingStep : public torch::CustomClassHolder {
  public:
    TrainingStep(const c10::intrusive_ptr<Workspace> &workspace,
                 const c10::intrusive_ptr<Layouts> &layouts, const Tensors &tensors,
                 const std::vector<std::string> &trained, const Integers &shape,
                 const Numbers &numbers, const Tensor &species, const Tensor &centers,
                 const Tensor &neighbors, const Tensor &reverse, const Tensor &vectors,
                 const Tensor &scale, const c10::optional<Tensor> &addition)
        : pool_(workspace->take(), [workspace](Pool *pool) { workspace->give_back(pool); }),
          tensors_(tensors),
          trained_(tensors, trained),
          network_(tensors, shape, numbers, {species.size(0), centers.size(0)}, *layouts),
          addition_(addition) {
        at::NoGradGuard no_grad;
        auto make = [&](auto real) {
            step_ = std::make_unique<TypedStep<decltype(real)>>(network_, trained_, *pool_, species,
                                                                centers, neighbors, reverse,
                                                                vectors, scale, addition_);
        };
        if (network_.real == at::kDouble)
            make(double());
        else
            make(float());
    }

    // energies [n_atoms], and the gradient [n_pairs, 3] of their sum in the vectors
    std::tuple<Tensor, Tensor> evaluate() {
        at::NoGradGuard no_grad;
        return step_->evaluate();
    }

    // A loss's gradient in the tensors of these names, which are among `trained`, from that in the
    // energies [n_atoms] and in their gradient [n_pairs, 3].
    Tensors differentiate(const Tensor &grad_energies, const Tensor &grad_gradient,
                          const std::vector<std::string> &names) {
        at::NoGradGuard no_grad;
        Gradients gradients(tensors_, names, addition_);
        step_->differentiate(grad_energies, grad_gradient, gradients);
        return gradients.by_name;
    }

  private:
    const std::shared_ptr<Pool> pool_;  // given back in the end, or if building throws
    const Tensors tensors_;
    const Trained trained_;
    const Network network_;
    const c10::optional<Tensor> addition_;
    std::unique_ptr<Step> step_;
};

}  // namespace pet_calc::engine

TORCH_LIBRARY(pet_calc_training, library) {
    library.class_<pet_calc::engine::Workspace>("Workspace")
        .def(torch::init<>())
        .def("count_bytes", &pet_calc::engine::Workspace::count_bytes);
    library.class_<pet_calc::engine::Layouts>("Layouts")
        .def(torch::init<const std::vector<at::Tensor> &>())
        .def("count_bytes", &pet_calc::engine::Layouts::count_bytes);
    library.class_<pet_calc::engine::TrainingStep>("TrainingStep")
        .def(torch::init<const c10::intrusive_ptr<pet_calc::engine::Workspace> &,
                         const c10::intrusive_ptr<pet_calc::engine::Layouts> &,
                         const pet_calc::engine::Tensors &, const std::vector<std::string> &,
                         const pet_calc::engine::Integers &, const pet_calc::engine::Numbers &,
                         const at::Tensor &, const at::Tensor &, const at::Tensor &,
                         const at::Tensor &, const at::Tensor &, const at::Tensor &,
                         const c10::optional<at::Tensor> &>())
        .def("evaluate", &pet_calc::engine::TrainingStep::evaluate)
        .def("differentiate", &pet_calc::engine::TrainingStep::differentiate);
}
