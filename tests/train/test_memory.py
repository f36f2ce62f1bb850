"""Steps that do not fit in memory are cut, and nothing else changes."""

import pytest
import torch
from support.runs import build_options, check_resume

from pet_calc.config import replace
from pet_calc.errors import DataError
from pet_calc.model.memory import read_free_memory
from pet_calc.train import memory, step_runner
from pet_calc.train.memory import choose_bound
from pet_calc.train.run import run_training

MESSAGES = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB"),
    RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to"),
    MemoryError(),
]


def catch_gradients(monkeypatch):
    """Let the first steps' gradients, before clipping, be looked at."""
    gradients = []
    sum_gradients = step_runner.Ranks.sum_gradients

    def note(self, parameters):
        sum_gradients(self, parameters)
        gradients.append([p.grad.clone() for p in parameters if p.grad is not None])

    monkeypatch.setattr(step_runner.Ranks, "sum_gradients", note)
    return gradients


def run(options, monkeypatch):
    gradients = catch_gradients(monkeypatch)
    report = run_training(options, show_progress=False)
    monkeypatch.undo()
    return report, gradients


def assert_close(one, other):
    assert len(one) == len(other)
    for gradients, others in zip(one, other, strict=True):
        for a, b in zip(gradients, others, strict=True):
            # relative to the largest: sums in another order, in float64
            assert (a - b).abs().max() <= 1e-10 * max(float(a.abs().max()), 1e-6)


@pytest.mark.parametrize("most", [1, 150])
def test_a_bound_on_pairs_changes_no_gradient(tmp_path, monkeypatch, most):
    options = build_options(tmp_path, epochs=2, batch_size=4)
    whole, gradients = run(options, monkeypatch)
    cut = replace(options, output=str(tmp_path / "cut"))
    cut = replace(cut, train=replace(cut.train, max_pairs_per_batch=most))
    parts, others = run(cut, monkeypatch)
    assert_close(gradients, others)
    assert parts.validation == pytest.approx(whole.validation, rel=1e-9)
    assert parts.zero_step == pytest.approx(whole.zero_step, rel=1e-9)


@pytest.mark.parametrize("error", MESSAGES, ids=["cuda", "cpu", "python"])
def test_running_out_of_memory_splits_and_changes_no_gradient(
    tmp_path, monkeypatch, caplog, error
):
    # not the engine: it is tried first, for its time, where it is not compiled yet
    options = build_options(tmp_path, epochs=1, batch_size=6, train={"compile": False})
    _, gradients = run(options, monkeypatch)
    n_frames = []
    add_gradient = step_runner.add_gradient

    def add_or_fail(loss, parameters):
        if n_frames[-1] > 2:
            raise error
        add_gradient(loss, parameters)

    compute = step_runner.StepRunner._compute

    def note(self, model, part, *args, **kwargs):
        n_frames.append(len(part.indices))
        return compute(self, model, part, *args, **kwargs)

    monkeypatch.setattr(step_runner, "add_gradient", add_or_fail)
    monkeypatch.setattr(step_runner.StepRunner, "_compute", note)
    small = replace(options, output=str(tmp_path / "small"))
    with caplog.at_level("WARNING", "pet_calc"):
        _, others = run(small, monkeypatch)
    assert_close(gradients, others)
    assert "out of memory with 6 frames" in caplog.text
    # the bound sinks, so that not every step fails first
    assert n_frames.count(6) == 1


def test_memory_that_runs_out_in_the_backward_pass_leaves_no_half_gradient():
    first, second = (torch.nn.Parameter(torch.ones(2)) for _ in range(2))

    class Fail(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x.clone()

        @staticmethod
        def backward(ctx, gradient):
            raise torch.OutOfMemoryError("out of memory")

    # second's gradient comes before the failure on the way to first's
    loss = (Fail.apply(first) * second).sum()
    with pytest.raises(torch.OutOfMemoryError):
        memory.add_gradient(loss, [first, second])
    assert first.grad is None
    assert second.grad is None


def test_a_frame_that_does_not_fit_alone_is_named(tmp_path, monkeypatch):
    def fail(loss, parameters):
        raise torch.OutOfMemoryError("out of memory")

    monkeypatch.setattr(step_runner, "add_gradient", fail)
    with pytest.raises(DataError, match=r"train\.xyz, frame \d+: does not fit"):
        run_training(build_options(tmp_path), show_progress=False)


def test_other_errors_are_not_taken_for_a_lack_of_memory(tmp_path, monkeypatch):
    def fail(loss, parameters):
        raise RuntimeError("shapes do not match")

    monkeypatch.setattr(step_runner, "add_gradient", fail)
    with pytest.raises(RuntimeError, match="shapes"):
        run_training(build_options(tmp_path), show_progress=False)


def test_the_bound_follows_what_a_step_took(tmp_path, monkeypatch, caplog):
    """With little memory free, the run cuts its steps by itself, and says so."""
    options = build_options(tmp_path, epochs=1, batch_size=6, train={"compile": False})
    _, gradients = run(options, monkeypatch)
    monkeypatch.setattr("pet_calc.model.memory.read_free_memory", lambda device: 2e6)
    seen = []
    compute = step_runner.StepRunner._compute

    def note(self, model, part, *args, **kwargs):
        seen.append((self.bound.most_tokens, part.n_tokens, len(part.indices)))
        return compute(self, model, part, *args, **kwargs)

    monkeypatch.setattr(step_runner.StepRunner, "_compute", note)
    small = replace(options, output=str(tmp_path / "small"))
    with caplog.at_level("INFO", "pet_calc"):
        _, others = run(small, monkeypatch)
    assert "kB per pair in a training step" in caplog.text
    bounds = {bound for bound, _, _ in seen[1:]}
    (bound,) = bounds
    assert seen[0][1] > bound
    assert all(n_tokens <= bound or n == 1 for _, n_tokens, n in seen[1:])
    assert_close(gradients, others)


def test_a_bound_is_memory_over_what_a_pair_takes():
    device = torch.device("cpu")
    free = read_free_memory(device)
    bound = choose_bound(1e6, 100, device)
    # other processes come and go between the two readings
    assert bound == pytest.approx(0.5 * free / 1e4, rel=0.3)
    assert choose_bound(1e6, 100, device, n_ranks=4) == pytest.approx(
        bound / 4, rel=0.3
    )
    assert choose_bound(0.0, 0, device) is None


@pytest.mark.parametrize(
    "train", [{"batch_size": "auto"}, {"pairs_per_batch": 300}], ids=["auto", "pairs"]
)
def test_steps_by_pairs_train_and_resume_exactly(tmp_path, train, caplog):
    options = build_options(tmp_path, train=train)
    with caplog.at_level("INFO", "pet_calc"):
        check_resume(options, tmp_path)
    assert "frames on average" in caplog.text
