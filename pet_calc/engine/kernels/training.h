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
// which a is added at the energies. norm.h explains the names.

#pragma once

#include "pass.h"

namespace pet_calc::engine {

template <typename A>
class TrainingPass : public Pass<Mode<A, A, true>> {
    using M = Mode<A, A, true>;
    using Base = Pass<M>;
    using Base::layers_;
    using Base::network_;
    using Base::readouts_;
    using Base::run_;

  public:
    // `trained`: what else has no gradient, so that less is kept
    TrainingPass(const Network &network, const Trained &trained, const Input &input, Pool &pool)
        : Base(network, input, pool, &trained) {}

    // Adds the gradient in the weights.
    //   grad_energies [n_atoms]: the loss's gradient in the energies
    //   geometry_dot [n_edges, 4], factors_dot [n_edges]: how the input changes along the
    //   loss's gradient in the energy's gradient
    void differentiate(const Tensor &grad_energies, const Tensor &geometry_dot,
                       const Tensor &factors_dot, Gradients &gradients) {
        check_tensor("gradient of the energies", grad_energies, {run_.n_atoms}, network_.real);
        run_.gradients = &gradients;
        run_.geometry_dot = geometry_dot;
        run_.factors_dot = factors_dot;
        run_.logs_dot = at::where(run_.input.factors > MIN_CUTOFF_FACTOR,
                                  factors_dot / run_.input.factors, at::zeros_like(factors_dot));
        forward_dot();
        backward_dot(grad_energies);
        run_.gradients = nullptr;
    }

  private:
    // streams hold how values change
    void forward_dot() {
        run_.message.zero_();
        run_.node.zero_();
        for (size_t g = 0; g < layers_.size(); g++) {
            if (!network_.is_feedforward) run_.node.zero_();
            layers_[g].embedding.forward_dot(run_);
            for (Transformer<M> &transformer : layers_[g].transformers)
                transformer.forward_dot(run_);
            if (network_.is_feedforward) {
                layers_[g].combination.forward_dot(run_, run_.edge, run_.edge_rows, run_.message);
                this->add_edges_to_message();
            } else {
                readouts_[g].forward_dot(run_, run_.edge);
                this->average_message();
            }
        }
        if (network_.is_feedforward) readouts_[0].forward_dot(run_, run_.message);
    }

    // streams hold how gradients change, with what comes from the energies
    void backward_dot(const Tensor &grad_energies) {
        Gradients &gradients = *run_.gradients;
        const bool has_trunk = gradients.has_trunk();
        Tensor grad_nodes_dot = grad_energies * run_.input.scale;
        Tensor grad_edges_dot = differentiate_edge_values(grad_energies);
        run_.node.zero_();
        run_.message.zero_();
        if (network_.is_feedforward)
            readouts_[0].backward_dot(run_, grad_nodes_dot, grad_edges_dot, run_.message);
        for (int64_t g = layers_.size() - 1; g >= 0; g--) {
            if (network_.is_feedforward) {
                if (!has_trunk) return;
                run_.edge.copy_(run_.message);
                layers_[g].combination.backward_dot(run_, run_.message, run_.edge);
            } else {
                this->average_message_backward();
                run_.node.zero_();
                readouts_[g].backward_dot(run_, grad_nodes_dot, grad_edges_dot, run_.edge);
                if (!has_trunk) continue;
            }
            if (run_.input.addition.has_value())
                if (Tensor *sum = gradients.find(*run_.input.addition)) sum->add_(run_.node);
            const bool is_end = g == 0 && !gradients.has_inputs();
            for (int64_t k = layers_[g].transformers.size() - 1; k >= 0; k--)
                layers_[g].transformers[k].backward_dot(run_, is_end && k == 0);
            if (is_end) return;
            layers_[g].embedding.backward_dot(run_);
            if (!network_.is_feedforward)
                gradients.add_to_rows(network_.node_tables[g], run_.input.species, run_.node);
        }
        if (!has_trunk) return;
        if (network_.is_feedforward)
            gradients.add_to_rows(network_.node_tables[0], run_.input.species, run_.node);
        gradients.add_to_rows(network_.message_table, run_.input.kinds, run_.message);
    }

    // [n_edges]: how the gradient in the edges' values changes, and a at the energies
    Tensor differentiate_edge_values(const Tensor &grad_energies) const {
        Tensor result = at::empty({run_.n_edges}, run_.input.factors.options());
        const A *grad_energy = data<A>(grad_energies), *factor_dot = data<A>(run_.factors_dot);
        A *out = data<A>(result);
        for (int64_t i = 0; i < run_.n_atoms; i++)
            for (int64_t k = run_.first_edge[i]; k < run_.first_edge[i + 1]; k++)
                out[k] = run_.scale[i] * (grad_energy[i] * run_.factors[k] + factor_dot[k]);
        return result;
    }
};

}  // namespace pet_calc::engine
