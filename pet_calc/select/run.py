"""Choose the frames of trajectories that are worth labelling next."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from pet_calc.checkpoint.open import (
    choose_device,
    load_merged_model,
    load_record,
    load_uncertainties,
)
from pet_calc.checkpoint.uncertainty import describe_missing
from pet_calc.config.data_options import DatasetOptions
from pet_calc.data.frames import (
    NO_NAME,
    Indices,
    LabeledFrame,
    Progress,
    iterate_frames,
)
from pet_calc.data.label_options import build_label_source
from pet_calc.data.labels import NO_LABELS, LabelSource
from pet_calc.errors import DataError, ModelError
from pet_calc.evaluate.predict import DEFAULT_BATCH_TOKENS
from pet_calc.model.hypers import choose_energy_target
from pet_calc.select.farthest import choose_farthest, require_library
from pet_calc.select.features import (
    Candidate,
    Measure,
    Nearest,
    Vector,
    compute_distances,
)
from pet_calc.select.physical import BROKEN, CLOSEST, LONELIEST, find_fault
from pet_calc.select.pool import Pool
from pet_calc.select.result import Chosen, Selection, Tally

By = Literal["uncertainty", "atoms", "diversity"]

IN_TRAINING = "near copies of frames that are to be excluded"
COPIES = "near copies of others"
CERTAIN = "less uncertain than others"
CROWDED = "nearer to others than those taken"

# in units of the length of the features of one frame: 0.006 A of random displacement of
# every atom, or half a femtosecond of dynamics at 300 K
NEAR = 0.006
# frames in the pool for each that is asked for
POOL_RANKED, POOL_DIVERSE = 4, 20


@dataclass(frozen=True)
class SelectOptions:
    """From which frames, by which model, and how many."""

    model: str
    """Path of a checkpoint, or a model's name."""
    dataset: DatasetOptions
    """The trajectories; their labels are not read."""
    n_frames: int = 50
    """That are taken, or fewer if there are not as many."""
    by: By = "uncertainty"
    """Of the energy per atom, or of the most uncertain atom; or distance alone."""
    every: int = 1
    """Read only each such frame of a file; those named ``file@0:10`` by that."""
    exclude: DatasetOptions | None = None
    """What is labelled already."""
    elements: tuple[str, ...] = ()
    """Of the atom types in dumps of LAMMPS, in order."""
    adapter: str | None = None
    """Path of an adapter to put on the model; it then has no uncertainty."""
    target: str | None = None
    """Energy target; None where there is only one."""
    pool: int | None = None
    """How many of the most uncertain frames are compared by distance; None is four
    times ``n_frames``, by diversity twenty times."""
    near: float = NEAR
    """Distance below which one is a copy of the other: of the means of their features
    over the atoms, over the length of such a mean, times the root of the number of
    atoms, so that it is that of an atom's displacement whatever the size."""
    closest: float = CLOSEST
    """Of the sum of covalent radii, below which atoms overlap."""
    loneliest: float = LONELIEST
    """Å, above which an atom has left the others."""
    device: str = "auto"
    """Where the model runs."""
    batch_tokens: int = DEFAULT_BATCH_TOKENS
    """Pairs and atoms evaluated at once."""


def select_frames(
    options: SelectOptions, *, progress: Progress | None = None
) -> Selection:
    """Return the frames that are uncertain and far from each other.

    Frames are read as they come; memory grows with the pool and the excluded frames.
    The most uncertain ones get into the pool, near copies once; from it those are
    taken, one by one, that are farthest from the excluded frames and those before.

    Raises:
        ConfigError: if skmatter is missing.
        PetCalcError: for files that cannot be used, naming them, and for a model
            without an uncertainty where that is asked for.
    """
    require_library()
    measure, is_ranked = _load_measure(options)
    excluded = _read_excluded(options, measure, progress)
    size = options.pool or options.n_frames * (
        POOL_RANKED if is_ranked else POOL_DIVERSE
    )
    pool = Pool(max(size, options.n_frames), is_ranked=is_ranked)
    tallies: dict[str, Tally] = {}
    reader = _Reader(options, tallies)
    scale = excluded.scale
    for candidate in measure.evaluate(reader.read(progress)):
        scale = scale or float(np.linalg.norm(candidate.features)) or 1.0
        near = options.near * scale / math.sqrt(candidate.frame.n_atoms)
        found = excluded.find(candidate.features)
        if found is not None and found.distance < near:
            tallies.setdefault(IN_TRAINING, Tally()).add(
                f"{candidate.frame.source}, near {excluded.sources[found.number]}"
            )
        else:
            pool.add(candidate._replace(nearest=found), near)
    pool.close()
    if not pool.candidates:
        raise DataError(_explain_nothing(reader.n_frames, tallies))
    chosen = _choose(options, pool, excluded, scale or 1.0)
    tallies[COPIES] = Tally(pool.n_copies)
    n_near = len(pool.candidates) - len(chosen)
    tallies[CERTAIN] = Tally(pool.n_dropped if is_ranked else 0)
    tallies[CROWDED] = Tally(n_near + (0 if is_ranked else pool.n_dropped))
    what = {"uncertainty": "meV/atom", "atoms": "meV (atom)"}.get(options.by, "")
    return Selection(chosen, reader.n_frames, what, tallies)


def _load_measure(options: SelectOptions) -> tuple[Measure, bool]:
    """Return the model as a measure, and whether uncertainty decides."""
    record = load_record(options.model)
    device = choose_device(options.device)
    model = load_merged_model(record, adapter=options.adapter, device=device)
    target = choose_energy_target(model.targets, options.target)
    found = load_uncertainties(record, adapter=options.adapter, device=device)
    uncertainty = found.get(target)
    is_ranked = options.by != "diversity"
    if is_ranked and uncertainty is None:
        name = options.adapter or options.model
        raise ModelError(
            f"{describe_missing(name, target)}; or select by diversity (--by "
            "diversity), which needs none"
        )
    measure = Measure(
        model,
        target,
        uncertainty=uncertainty,
        of_atoms=options.by == "atoms",
        batch_tokens=options.batch_tokens,
    )
    return measure, is_ranked


class _Excluded:
    """The features of the frames that are labelled already."""

    def __init__(self, candidates: list[Candidate]) -> None:
        self.sources = [c.frame.source for c in candidates]
        empty = np.zeros((0, 0))
        self.features: Vector = (
            np.stack([c.features for c in candidates]) if candidates else empty
        )
        norm = float(np.linalg.norm(self.features[0])) if candidates else 0.0
        self.scale = norm or None

    def find(self, features: Vector) -> Nearest | None:
        """Return the nearest one; None if there are none."""
        if not self.sources:
            return None
        distances = compute_distances(features, self.features)
        index = int(distances.argmin())
        return Nearest(index, float(distances[index]))


def _read_excluded(
    options: SelectOptions, measure: Measure, progress: Progress | None
) -> _Excluded:
    if options.exclude is None:
        return _Excluded([])
    frames = iterate_frames(
        list(options.exclude.read_from),
        {NO_NAME: _name_keys(options.exclude)},
        index=options.exclude.index,
        elements=options.elements,
    )
    shown = progress(frames) if progress else frames
    return _Excluded(list(measure.evaluate(shown)))


class _Reader:
    """Reads trajectories, and counts what no model should see."""

    def __init__(self, options: SelectOptions, tallies: dict[str, Tally]) -> None:
        self._options = options
        self._tallies = tallies
        self.n_frames = 0

    def read(self, progress: Progress | None) -> Iterator[LabeledFrame]:
        """Yield the frames without a fault."""
        options = self._options
        frames = iterate_frames(
            list(options.dataset.read_from),
            {NO_NAME: _name_keys(options.dataset)},
            index=f"::{options.every}",
            elements=options.elements,
            on_broken=self._count_broken,
        )
        for frame in progress(frames) if progress else frames:
            self.n_frames += 1
            fault = find_fault(
                frame, closest=options.closest, loneliest=options.loneliest
            )
            if fault is None:
                yield frame
            else:
                kind, values = fault
                self._count(kind, f"{frame.source}: {values}")

    def _count_broken(self, frame: LabeledFrame, error: DataError) -> None:
        self.n_frames += 1
        self._count(BROKEN, str(error))

    def _count(self, reason: str, example: str) -> None:
        self._tallies.setdefault(reason, Tally()).add(example)


def _name_keys(dataset: DatasetOptions) -> LabelSource:
    """Return where charge and spin are, and the unit of length; no labels."""
    source = build_label_source(dataset)
    keys = replace(
        NO_LABELS,
        charge=source.keys.charge,
        spin_multiplicity=source.keys.spin_multiplicity,
    )
    return LabelSource(keys, source.units)


def _choose(
    options: SelectOptions, pool: Pool, excluded: _Excluded, scale: float
) -> list[Chosen]:
    """Return frames of the pool, the farthest first."""
    nearest = [c.nearest for c in pool.candidates]
    # those that are nearest to some frame of the pool have its distance to all
    seeds = sorted({found.number for found in nearest if found is not None})
    order = choose_farthest(
        pool.features,
        options.n_frames,
        seeds=excluded.features[seeds] if seeds else None,
        start=_find_start(pool),
    )
    return [
        _explain(order.indices[: k + 1], pool, excluded, scale)
        for k in range(len(order.indices))
    ]


def _explain(order: Indices, pool: Pool, excluded: _Excluded, scale: float) -> Chosen:
    """Return the last frame of an order, with what is nearest to it."""
    *before, last = order.tolist()
    candidate = pool.candidates[last]
    distance, name = math.inf, ""
    if candidate.nearest is not None:
        distance = candidate.nearest.distance
        name = excluded.sources[candidate.nearest.number]
    if before:
        distances = compute_distances(candidate.features, pool.features[before])
        if distances.min() < distance:
            distance = float(distances.min())
            name = f"number {int(distances.argmin()) + 1}"
    shown = distance / scale * math.sqrt(candidate.frame.n_atoms)
    return Chosen(candidate.frame, candidate.uncertainty, shown, name)


def _find_start(pool: Pool) -> int:
    """Return which frame is first where nothing is excluded."""
    if pool.is_ranked:
        return int(np.argmax([c.uncertainty or 0.0 for c in pool.candidates]))
    centre = pool.features.mean(axis=0)
    return int(compute_distances(centre, pool.features).argmax())


def _explain_nothing(n_frames: int, tallies: dict[str, Tally]) -> str:
    reasons = "; ".join(
        f"{tally.count} {reason}" + (f" (such as {tally.example})")
        for reason, tally in tallies.items()
    )
    return f"none of {n_frames} frames is worth labelling: {reasons}"
