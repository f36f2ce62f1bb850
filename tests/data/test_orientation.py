"""How frames are turned: uniformly, by (seed, epoch, frame) alone, labels and all."""

from dataclasses import replace
from itertools import chain

import numpy as np
import pytest
import torch
from scipy.stats import kstest

from pet_calc.data.dataset import SystemDataset
from pet_calc.data.frames import LabeledFrame
from pet_calc.data.systems import build_system, collate, collate_labels
from pet_calc.data.loader import BatchLoader
from pet_calc.data.orientation import (
    AS_JUDGED,
    REPLAY,
    Orientation,
    turn_batch,
    turn_frame,
    turn_labels,
)
from pet_calc.errors import ConfigError
from pet_calc.model.edges import compute_edge_vectors

CUTOFF = 4.5
N_DRAWS = 20_000


@pytest.fixture
def frames(structures):
    rng = np.random.default_rng(0)
    made = []
    for atoms in structures.values():
        frame = LabeledFrame.from_atoms(atoms)
        n_atoms = frame.n_atoms
        made.append(
            replace(
                frame,
                energy=1.0,
                forces=rng.normal(size=(n_atoms, 3)),
                stress=rng.normal(size=(3, 3)),
                direct_forces=rng.normal(size=(n_atoms, 3)),
                direct_stress=rng.normal(size=(3, 3)),
            )
        )
    return made


def angles_of(matrices):
    """Rotation angles, from the proper part of orthogonal matrices."""
    proper = matrices * np.linalg.det(matrices)[:, None, None]
    traces = np.trace(proper, axis1=1, axis2=2)
    return np.arccos(np.clip((traces - 1) / 2, -1, 1))


@pytest.mark.parametrize("kind", ["O3", "rotations"])
def test_draws_are_uniform_over_rotations(kind):
    matrices = Orientation(kind, seed=5).draw(2, range(N_DRAWS))
    identity = matrices @ matrices.transpose(0, 2, 1)
    np.testing.assert_allclose(
        identity, np.broadcast_to(np.eye(3), identity.shape), atol=1e-14
    )
    # Haar measure: the angle has density (1 - cos a) / pi on [0, pi]
    result = kstest(angles_of(matrices), lambda a: (a - np.sin(a)) / np.pi)
    assert result.pvalue > 1e-3
    # and any fixed direction goes anywhere: each coordinate is uniform on [-1, 1]
    for direction in np.eye(3):
        for coordinate in (matrices @ direction).T:
            assert kstest(coordinate, "uniform", (-1, 2)).pvalue > 1e-4


def test_half_of_the_draws_have_an_inversion():
    for kind in ("O3", "inversions"):
        signs = np.linalg.det(Orientation(kind).draw(0, range(N_DRAWS)))
        # five standard deviations of the mean of N coins
        assert abs(signs.mean()) < 5 / N_DRAWS**0.5
    assert (np.linalg.det(Orientation("rotations").draw(0, range(100))) > 0).all()
    mirrored = Orientation("inversions").draw(0, range(100))
    assert {round(m[0, 0]) for m in mirrored} == {-1, 1}
    np.testing.assert_array_equal(np.abs(mirrored), np.tile(np.eye(3), (100, 1, 1)))


def test_a_draw_depends_on_seed_epoch_stream_and_frame_alone():
    orientation = Orientation(seed=3)
    whole = orientation.draw(4, range(10))
    np.testing.assert_array_equal(orientation.draw(4, [7, 2]), whole[[7, 2]])
    for other in (
        orientation.draw(5, range(10)),
        Orientation(seed=4).draw(4, range(10)),
        Orientation(seed=3, stream=REPLAY).draw(4, range(10)),
        AS_JUDGED.draw(4, range(10)),
    ):
        assert np.abs(other - whole).max(axis=(1, 2)).min() > 1e-3
    np.testing.assert_array_equal(
        AS_JUDGED.draw(4, range(10)), AS_JUDGED.draw(9, range(10))
    )


def test_an_unknown_kind_is_refused():
    with pytest.raises(ConfigError, match="expected one of O3, rotations"):
        Orientation("so3")


def test_batches_and_labels_turn_as_their_frames_do(frames):
    matrices = Orientation().draw(0, range(len(frames)))
    systems = [build_system(frame, CUTOFF) for frame in frames]
    batch = collate(systems, dtype=torch.float64)
    labels = collate_labels(systems, dtype=torch.float64)
    turns = torch.from_numpy(matrices)
    turned = turn_batch(batch, turns)
    vectors = compute_edge_vectors(batch)
    of_pair = turns[batch.system_of_atom[batch.centers]]
    torch.testing.assert_close(
        compute_edge_vectors(turned),
        torch.bmm(of_pair, vectors.unsqueeze(2)).squeeze(2),
        rtol=0,
        atol=1e-12,
    )
    others = [turn_frame(*pair) for pair in zip(frames, matrices, strict=True)]
    expected = collate_labels(
        [build_system(f, CUTOFF) for f in others], dtype=torch.float64
    )
    for one, other in zip(
        turn_labels(labels, turns, batch.system_of_atom), expected, strict=True
    ):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-12)


@pytest.mark.parametrize("n_workers", [0, 2])
def test_a_loader_turns_frames_the_same_in_parts_ranks_and_workers(frames, n_workers):
    dataset = SystemDataset(frames, CUTOFF)
    matrices = Orientation(seed=2).draw(3, range(len(frames)))
    expected = [turn_frame(*pair) for pair in zip(frames, matrices, strict=True)]

    def load(**settings):
        loader = BatchLoader(
            dataset,
            4,
            shuffle=True,
            seed=2,
            dtype=torch.float64,
            orientation=Orientation(seed=2),
            n_workers=n_workers,
            **settings,
        )
        return list(chain.from_iterable(s.parts for s in loader.iterate_steps(3)))

    seen = []
    for parts in (
        load(),
        load(most_tokens=1),
        load(ranks=Ranks(0, 2)),
        load(ranks=Ranks(1, 2)),
    ):
        for part in parts:
            seen += part.indices
            chosen = [expected[i] for i in part.indices]
            np.testing.assert_allclose(
                part.batch.positions,
                np.concatenate([frame.positions for frame in chosen]),
                atol=1e-12,
            )
            np.testing.assert_allclose(
                part.labels.forces,
                np.concatenate([f.forces for f in chosen]),
                atol=1e-12,
            )
            np.testing.assert_allclose(
                part.direct.stress, [f.direct_stress for f in chosen], atol=1e-12
            )
    assert sorted(seen) == sorted(3 * list(range(len(frames))))
