"""Choose frames that are far from each other, by farthest point sampling."""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from pet_calc.errors import ConfigError
from pet_calc.select.features import Vector

HOW_TO_INSTALL = "pip install 'pet-calc[select]'"


class FarthestPoints(NamedTuple):
    """Points in the order in which they were chosen."""

    indices: npt.NDArray[np.int64]
    distances: Vector
    """Of each to the nearest of the seeds and those before it; infinite for a first
    one without seeds."""


def require_library() -> None:
    """Raise ``ConfigError`` if skmatter is not installed."""
    try:
        import skmatter.sample_selection  # noqa: F401
    except ImportError as error:
        raise ConfigError(
            f"choosing frames needs the package skmatter ({error}); {HOW_TO_INSTALL}"
        ) from error


def choose_farthest(
    points: Vector, n_points: int, *, seeds: Vector | None = None, start: int = 0
) -> FarthestPoints:
    """Return the points that are farthest from the seeds and from each other.

    Args:
        points: [n, n_features], all different from each other and from the seeds.
        n_points: how many; all points if there are fewer.
        seeds: [m, n_features], which are there already.
        start: index of the point that comes first, where there are no seeds.

    Raises:
        ConfigError: if skmatter is not installed.
    """
    require_library()
    from skmatter.sample_selection import FPS

    n_points = min(n_points, len(points))
    if seeds is None or not len(seeds):
        seeds = points[:0]
    # it computes distances from products: of large vectors little would be left
    both = np.concatenate([seeds, points])
    both = both - both.mean(axis=0)
    if len(both) == 1:
        return FarthestPoints(np.zeros(1, dtype=np.int64), np.array([np.inf]))
    initialize = list(range(len(seeds))) or start
    selector = FPS(initialize=initialize, n_to_select=len(seeds) + n_points).fit(both)
    chosen = np.asarray(selector.selected_idx_[len(seeds) :], dtype=np.int64)
    squares = selector.hausdorff_at_select_[chosen]
    return FarthestPoints(chosen - len(seeds), np.sqrt(np.maximum(squares, 0.0)))
