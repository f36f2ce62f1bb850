from itertools import chain

import numpy as np
import pytest
import torch

from pet_calc.data.frames import LabeledFrame, read_frames
from pet_calc.data.loader import BatchLoader, GraphDataset, pack_batches
from pet_calc.errors import ConfigError

CUTOFF = 4.5


@pytest.fixture
def dataset(structures):
    frames = [LabeledFrame.from_atoms(atoms) for atoms in structures.values()]
    return GraphDataset(frames, CUTOFF)


def test_every_frame_occurs_once_per_epoch(dataset):
    for by, size in (("frames", 2), ("tokens", 300)):
        plan = BatchLoader(dataset, size, by=by, shuffle=True, seed=3).plan(5)
        assert sorted(chain.from_iterable(plan)) == list(range(len(dataset)))


def test_the_order_depends_on_seed_and_epoch_only(dataset):
    def plan(seed, epoch):
        return BatchLoader(dataset, 2, shuffle=True, seed=seed).plan(epoch)

    loader = BatchLoader(dataset, 2, shuffle=True, seed=1)
    for epoch in range(3):
        list(loader.iterate(epoch))
    assert loader.plan(3) == plan(1, 3)
    assert plan(1, 3) != plan(1, 4)
    assert plan(1, 3) != plan(2, 3)


def test_an_unshuffled_loader_keeps_the_order(dataset):
    plan = BatchLoader(dataset, 4).plan(7)
    assert plan == [[0, 1, 2, 3], [4, 5, 6, 7], [8]]


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


def test_batches_by_tokens_stay_below_the_limit(dataset):
    sizes = dataset.count_tokens()
    limit = int(np.sort(sizes)[-2])  # one frame alone is larger
    plan = BatchLoader(dataset, limit, by="tokens", shuffle=True).plan()
    for indices in plan:
        assert sizes[indices].sum() <= limit or len(indices) == 1
    assert [int(sizes.argmax())] in plan


def test_packing_fills_up_to_the_limit():
    sizes = np.array([3, 3, 3, 10, 1, 1])
    assert pack_batches(range(6), sizes, 6) == [[0, 1], [2], [3], [4, 5]]
    assert pack_batches([], sizes, 6) == []


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
    loader = BatchLoader(GraphDataset(frames, CUTOFF), 8000, by="tokens")
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
