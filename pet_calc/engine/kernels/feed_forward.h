// target += out(activation(in(norm(stream)))), of nodes, of edges, and of edges next to
// their reverses.

#pragma once

#include "activation.h"
#include "run.h"

namespace pet_calc::engine {

// What a norm leaves for its derivatives.
struct NormTape {
    Twin out;
    Tensor inverse, along;
    Tensor grad_out;
};

template <typename M>
class FeedForward {
    using A = typename M::A;
    using S = typename M::S;

  public:
    // `is_pair`: the norm is that of an edge next to its reverse
    FeedForward(const Linear &in, const Linear &out, bool is_gated, bool is_pair)
        : in_(in), out_(out), is_gated_(is_gated), is_pair_(is_pair) {}

    // `rows` is for what the last product leaves
    void forward(Run<M> &run, const Tensor &stream, const Tensor &rows, const Tensor &target) {
        const int64_t n = stream.size(0), d = stream.size(1);
        norm_.out = run.take_twin(n, in_.n_in());
        norm_.inverse = run.take_real(n, 1);
        if (M::IS_TRAINING) norm_.along = run.take_real(n, 1);
        hidden_ = run.take_twin(n, in_.n_out());
        active_ = run.take_input(out_, n);
        with_norm(run, [&](const auto &norm) {
            norm.forward(data<A>(stream), data<S>(norm_.out.value), data<A>(norm_.inverse), n, d);
        });
        multiply(norm_.out.value, in_, hidden_.value);
        with_activation([&](auto activation) {
            activation.forward(data<S>(hidden_.value), data<A>(in_.bias), data<S>(active_.value), n,
                               out_.n_in());
        });
        multiply(active_.value, out_, rows);
        add_update<A, S>(data<A>(target), data<S>(rows), data<A>(out_.bias), n, target.size(1));
    }

    // stream += its gradient, for a gradient of the target; both may be the same
    void backward(Run<M> &run, const Tensor &target, const Tensor &stream) {
        const int64_t n = stream.size(0), d = stream.size(1);
        grad_update_ = run.keep_gradient(out_, target);
        grad_active_ = run.take_gradient(n, out_.n_in());
        multiply_backward(grad_update_, out_, grad_active_);
        Tensor grad_hidden = run.find_place(hidden_.value);
        with_activation([&](auto activation) {
            activation.backward(data<S>(grad_active_), data<S>(hidden_.value), data<A>(in_.bias),
                                data<S>(grad_hidden), n, out_.n_in());
        });
        norm_.grad_out = run.take_gradient(n, in_.n_in());
        multiply_backward(grad_hidden, in_, norm_.grad_out);
        with_norm(run, [&](const auto &norm) {
            norm.backward(data<S>(norm_.grad_out), data<S>(norm_.out.value), data<A>(norm_.inverse),
                          data<A>(stream), n, d);
        });
    }

    void forward_dot(Run<M> &run, const Tensor &stream, const Tensor &rows, const Tensor &target) {
        const int64_t n = stream.size(0), d = stream.size(1);
        with_norm(run, [&](const auto &norm) {
            norm.forward_dot(data<A>(stream), data<A>(norm_.out.value), data<A>(norm_.inverse),
                             data<A>(norm_.out.dot), data<A>(norm_.along), n, d);
        });
        multiply(norm_.out.dot, in_, hidden_.dot);
        with_activation([&](auto activation) {
            activation.forward_dot(data<A>(hidden_.value), data<A>(in_.bias), data<A>(hidden_.dot),
                                   data<A>(active_.dot), n, out_.n_in());
        });
        multiply(active_.dot, out_, rows);
        add_rows<A, A>(data<A>(target), data<A>(rows), n, target.size(1));
    }

    void backward_dot(Run<M> &run, const Tensor &target, const Tensor &stream) {
        const int64_t n = stream.size(0), d = stream.size(1);
        run.add_gradient(out_, active_, grad_update_, target);
        Tensor grad_active_dot = run.borrow(ACTIVE, n, out_.n_in());
        multiply_backward(target, out_, grad_active_dot);
        Tensor grad_hidden = run.borrow(HIDDEN, n, in_.n_out());
        Tensor grad_hidden_dot = run.borrow(HIDDEN_DOT, n, in_.n_out());
        with_activation([&](auto activation) {
            activation.backward_dot(data<A>(hidden_.value), data<A>(in_.bias), data<A>(hidden_.dot),
                                    data<A>(grad_active_), data<A>(grad_active_dot),
                                    data<A>(grad_hidden), data<A>(grad_hidden_dot), n, out_.n_in());
        });
        run.add_gradient(in_, norm_.out, grad_hidden, grad_hidden_dot);
        Tensor grad_norm_dot = run.borrow(ACTIVE, n, in_.n_in());
        multiply_backward(grad_hidden_dot, in_, grad_norm_dot);
        with_norm(run, [&](const auto &norm) {
            norm.backward_dot(data<A>(norm_.grad_out), data<A>(grad_norm_dot),
                              data<A>(norm_.out.value), data<A>(norm_.out.dot),
                              data<A>(norm_.inverse), data<A>(norm_.along), data<A>(stream), n, d);
        });
    }

  private:
    template <typename F>
    void with_activation(F work) const {
        if (is_gated_)
            work(Gate<A, S>());
        else
            work(Silu<A, S>());
    }

    template <typename F>
    void with_norm(const Run<M> &run, F work) const {
        if (is_pair_)
            work(run.pair_norm);
        else
            work(run.norm);
    }

    const Linear &in_, &out_;
    const bool is_gated_, is_pair_;
    NormTape norm_;
    Twin hidden_, active_;
    Tensor grad_update_, grad_active_;
};

}  // namespace pet_calc::engine
