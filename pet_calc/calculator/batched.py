"""Evaluate many systems, as many at once as a batch may hold."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple, TypeVar

from ase import Atoms
from ase.calculators.calculator import PropertyNotImplementedError
from tqdm import tqdm

from pet_calc.calculator.at_once import AtOnce, count_batch_tokens
from pet_calc.calculator.evaluator import Evaluator
from pet_calc.calculator.from_checkpoint import CheckpointBackend
from pet_calc.calculator.supported import check_known_elements, has_stress
from pet_calc.errors import PetCalcError
from pet_calc.model.batch import Batch

# a bar is for those who wait this long, s
_PATIENCE = 2.0

Result = TypeVar("Result")


class _Frame(NamedTuple):
    """A system among others."""

    number: int
    atoms: Atoms
    is_bulk: bool


class _Prepared(NamedTuple):
    frame: _Frame
    batch: Batch


def compute_many(
    evaluator: Evaluator,
    systems: Sequence[Atoms],
    properties: Sequence[str] | None,
    *,
    batch_tokens: int,
    show_progress: bool | None,
) -> list[dict[str, Any]]:
    """Return what ``PETCalculator.evaluate`` does."""
    asked = ["energy", "forces"] if properties is None else list(properties)
    known = evaluator.backend.known
    frames = []
    for i, atoms in enumerate(systems):
        with_number = _named(i, check_known_elements)
        with_number(atoms, known)
        frames.append(_Frame(i, atoms, _named(i, has_stress)(atoms, asked)))
    if properties is None and evaluator.backend.chosen.has_stress:
        asked.append("stress")
    bar = tqdm(
        total=len(frames),
        unit="frame",
        # tqdm's None: hidden where standard error is no terminal
        disable=None if show_progress is None else not show_progress,
        delay=_PATIENCE if show_progress is None else 0.0,
        leave=False,
    )
    found = []
    with bar:
        for frame, results in _run(evaluator, frames, asked, batch_tokens):
            evaluator.look(frame.atoms, results)
            found.append(results)
            bar.update()
    return found


def _run(
    evaluator: Evaluator, frames: list[_Frame], asked: list[str], batch_tokens: int
) -> Iterator[tuple[_Frame, dict[str, Any]]]:
    backend = evaluator.backend

    def compute_alone(frame: _Frame) -> dict[str, Any]:
        with backend.apart():
            compute = _named(frame.number, evaluator.compute)
            return compute(frame.atoms, asked, frame.is_bulk)

    # orientations are batches already, and exported files take one system at a time
    if evaluator.average is not None or not isinstance(backend, CheckpointBackend):
        for frame in frames:
            yield frame, compute_alone(frame)
        return

    def compute(run: Sequence[_Prepared]) -> list[tuple[_Frame, dict[str, Any]]]:
        own = [each.frame for each in run]
        if len(run) == 1:
            return [(own[0], compute_alone(own[0]))]
        results = backend.compute_batches(
            [each.batch for each in run],
            evaluator.extend(asked),
            [frame.is_bulk for frame in own],
        )
        return list(zip(own, results, strict=True))

    prepared = (
        _Prepared(frame, _named(frame.number, backend.prepare)(frame.atoms))
        for frame in frames
    )
    at_once = AtOnce[_Prepared](
        batch_tokens, lambda each: count_batch_tokens(each.batch)
    )
    for results in at_once.run(prepared, compute):
        yield from results


def _named(number: int, function: Callable[..., Result]) -> Callable[..., Result]:
    """Return the function with the number of a frame in the errors it raises."""

    def call(*arguments: Any) -> Result:
        try:
            return function(*arguments)
        except (PetCalcError, PropertyNotImplementedError) as error:
            raise type(error)(f"frame {number}: {error}") from error

    return call
