from itertools import chain

import numpy as np
import pytest
import torch

from pet_calc.data.dataset import SystemDataset
from pet_calc.data.frames import LabeledFrame, read_frames
from pet_calc.data.loader import BatchLoader, cut_evenly, pack
from pet_calc.errors import ConfigError, DataError
from pet_calc.model.edges import compute_edge_vectors

CUTOFF = 4.5


def to_lists(plan):
    return [indices.tolist() for indices in plan]


@pytest.fixture
def dataset(structures):
    frames = [LabeledFrame.from_atoms(atoms) for atoms in structures.values()]
    return SystemDataset(frames, CUTOFF)


def test_every_frame_occurs_once_per_epoch(dataset):
    for by, size in (("frames", 2), ("tokens", 300)):
        plan = BatchLoader(dataset, size, by=by, shuffle=True, seed=3).plan(5)
        assert sorted(chain.from_iterable(plan)) == list(range(len(dataset)))


def test_the_order_depends_on_seed_and_epoch_only(dataset):
    def plan(seed, epoch):
        return to_lists(BatchLoader(dataset, 2, shuffle=True, seed=seed).plan(epoch))

    loader = BatchLoader(dataset, 2, shuffle=True, seed=1)
    for epoch in range(3):
        list(loader.iterate(epoch))
    assert to_lists(loader.plan(3)) == plan(1, 3)
    assert plan(1, 3) != plan(1, 4)
    assert plan(1, 3) != plan(2, 3)


def test_an_unshuffled_loader_keeps_the_order(dataset):
    plan = BatchLoader(dataset, 4).plan(7)
    assert to_lists(plan) == [[0, 1, 2, 3], [4, 5, 6, 7], [8]]


def test_resuming_within_an_epoch_sees_the_same_batches(dataset):
    loader = BatchLoader(dataset, 2, shuffle=True, seed=1, dtype=torch.float64)
    complete = list(loader.iterate(2))
    resumed = list(loader.iterate(2, start=3))
    assert len(complete) == 5
    assert len(resumed) == 2
    for (batch, labels), (other, other_labels) in zip(
        complete[3:], resumed, strict=True
    ):
        assert torch.equal(batch.positions, other.positions)
        assert torch.equal(batch.reverse, other.reverse)
        assert torch.equal(labels.n_atoms, other_labels.n_atoms)


def test_steps_by_tokens_cost_the_same_and_are_as_many_in_each_epoch(dataset):
    sizes = dataset.count_tokens()
    loader = BatchLoader(dataset, 200, by="tokens", shuffle=True)
    assert loader.n_steps == -(-sizes.sum() // 200)
    for epoch in range(5):
        plan = loader.plan(epoch)
        assert len(plan) == loader.n_steps
        assert sorted(chain.from_iterable(plan)) == list(range(len(dataset)))
        # a step may have one frame too many, and has at least one
        mean = sizes.sum() / loader.n_steps
        for indices in plan:
            assert len(indices) > 0
            assert sizes[indices].sum() <= mean + sizes.max()


def test_cutting_evenly_leaves_no_step_empty():
    order = np.arange(6)
    assert to_lists(cut_evenly(order, np.array([1, 1, 1, 1, 1, 1]), 3)) == [
        [0, 1],
        [2, 3],
        [4, 5],
    ]
    assert to_lists(cut_evenly(order, np.array([90, 1, 1, 1, 1, 1]), 3)) == [
        [0],
        [1],
        [2, 3, 4, 5],
    ]
    assert to_lists(cut_evenly(order, np.array([1, 1, 1, 1, 1, 90]), 6)) == [
        [i] for i in range(6)
    ]
    assert cut_evenly(order[:0], np.array([], dtype=int), 0) == []


def test_packing_fills_up_to_the_limit():
    sizes = np.array([3, 3, 3, 10, 1, 1])
    runs = [list(range(6))[run] for run in pack(sizes, 6)]
    assert runs == [[0, 1], [2], [3], [4, 5]]
    assert pack(sizes[:0], 6) == []


def test_a_step_comes_in_parts_that_fit(dataset):
    sizes = dataset.count_tokens()
    limit = int(np.sort(sizes)[-2])  # one frame alone is larger
    loader = BatchLoader(dataset, 9, most_tokens=limit)
    (step,) = loader.iterate_steps()
    assert len(step.parts) > 1
    assert [i for part in step.parts for i in part.indices] == list(range(9))
    for part in step.parts:
        assert part.n_tokens == sizes[list(part.indices)].sum()
        assert part.n_tokens <= limit or len(part.indices) == 1


def test_ranks_share_each_step(dataset):
    whole = list(BatchLoader(dataset, 4, shuffle=True).iterate_steps())
    shares = [
        list(
            BatchLoader(dataset, 4, shuffle=True, ranks=Ranks(rank, 2)).iterate_steps()
        )
        for rank in range(2)
    ]
    for step, *parts in zip(whole, *shares, strict=True):
        found = [i for share in parts for part in share.parts for i in part.indices]
        assert sorted(found) == sorted(step.parts[0].indices)
        assert all(share.totals == step.totals for share in parts)
    # the last step has one frame, and the second process none of it
    assert shares[1][-1].parts == []


@pytest.mark.parametrize("n_workers", [1, 2])
def test_workers_make_the_same_steps_in_the_same_order(dataset, n_workers):
    here = BatchLoader(dataset, 2, shuffle=True, dtype=torch.float64)
    there = BatchLoader(
        dataset, 2, shuffle=True, dtype=torch.float64, n_workers=n_workers
    )
    next(there.iterate_steps(7))  # a step that is not gone on with
    for epoch, start in ((0, 0), (1, 2)):
        steps = zip(
            here.iterate_steps(epoch, start=start),
            there.iterate_steps(epoch, start=start),
            strict=True,
        )
        for one, other in steps:
            assert one.totals == other.totals
            for part, found in zip(one.parts, other.parts, strict=True):
                assert part.indices == found.indices
                for a, b in zip(part.batch, found.batch, strict=True):
                    assert torch.equal(a, b)
                for a, b in zip(part.labels, found.labels, strict=True):
                    assert torch.equal(a, b)


def test_an_error_in_a_worker_is_that_of_the_frame(dataset):
    dataset.frames[3].cell[:] = 0.0
    dataset.frames[3].pbc[:] = True
    dataset.frames[3].source = "bad.xyz, frame 3"
    loader = BatchLoader(dataset, 2, n_workers=1)
    with pytest.raises(DataError, match=r"^bad\.xyz, frame 3: the periodic cell"):
        list(loader.iterate_steps())


def test_frames_of_several_targets_are_parts_of_their_own(dataset):
    for i, frame in enumerate(dataset.frames):
        frame.target = "" if i % 2 else "energy/b"
    (step,) = BatchLoader(dataset, 9).iterate_steps()
    assert {part.target: part.indices for part in step.parts} == {
        "energy/b": (0, 2, 4, 6, 8),
        "": (1, 3, 5, 7),
    }


def test_neighbor_lists_from_workers_are_those_made_here(dataset, monkeypatch):
    monkeypatch.setattr("pet_calc.data.dataset._FEW", 1)
    other = SystemDataset(dataset.frames, CUTOFF)
    other.prepare(n_workers=2)
    for i in range(len(dataset)):
        one, two = dataset[i], other[i]
        assert two.frame is one.frame
        for name in ("centers", "neighbors", "cell_shifts", "reverse"):
            np.testing.assert_array_equal(getattr(one, name), getattr(two, name))


def test_neighbor_lists_are_computed_once(dataset):
    seen = []

    def progress(indices):
        for index in indices:
            seen.append(index)
            yield index

    dataset.prepare(progress)
    assert seen == list(range(len(dataset)))
    assert dataset[0] is dataset[0]


def test_a_real_file_loads_with_its_labels(shared_file):
    frames = read_frames(shared_file("MAD-sample_test.xyz"))
    loader = BatchLoader(SystemDataset(frames, CUTOFF), 8000, by="tokens")
    n_stress = n_atoms = 0
    for batch, labels in loader:
        n_stress += int(labels.has_stress.sum())
        n_atoms += len(batch.species)
        assert len(labels.forces) == len(batch.species)
        assert len(labels.energy) == len(batch.cells)
    assert n_stress == 20
    assert n_atoms == 1867


def test_a_batch_size_without_sense_is_refused(dataset):
    with pytest.raises(ConfigError, match="at least 1"):
        BatchLoader(dataset, 0)
    with pytest.raises(ConfigError, match="by 'frames' or 'tokens'"):
        BatchLoader(dataset, 1, by="edges")


def test_frames_far_from_the_origin_train_as_those_near_it(structures):
    atoms = structures["bulk"]
    far = atoms.copy()
    far.positions += 1e6
    vectors = []
    for one in (atoms, far):
        frames = [LabeledFrame.from_atoms(one)]
        loader = BatchLoader(SystemDataset(frames, CUTOFF), 1, dtype=torch.float32)
        ((batch, labels),) = loader.iterate(0)
        assert labels.forces.dtype == torch.float32
        vectors.append(compute_edge_vectors(batch))
    # what is left of 1e6 Å in float64; in float32 it would be 0.06 Å
    torch.testing.assert_close(vectors[0], vectors[1], rtol=0, atol=1e-9)
