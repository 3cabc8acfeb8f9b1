"""How far int8 may fall below fp32, and how many judged images it takes to know that it does not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, sqrt

import numpy as np

from zoo.retrieval.bootstrap import at_least, drop_interval

MEAN, INTERVAL = BUDGET_BY = ("mean", "interval")
"""What must be inside the budget: the mean drop, or the upper end of its 95 % interval."""
_RESAMPLES = 2000
_CONFIDENT = 1.96  # standard errors to either side of a mean are its 95 % interval


@dataclass(frozen=True)
class Budget:
    """How far the measure may fall.

    Training images are easier than validation classes and may be many more. So the drop must be inside on the
    validation classes alone and on all judged images together: the first is not drowned by the second, and the second
    tells what too few validation images cannot. Where the interval's end is asked for, it is that of all images; on the
    validation classes the mean must be inside.

    Attributes:
        max_drop: as a fraction; None for no limit.
        by: one of ``BUDGET_BY``.
    """

    max_drop: float | None
    by: str = MEAN

    def allows(self, drop: float) -> bool:
        """Return whether a mean drop is inside."""
        return self.max_drop is None or at_least(self.max_drop, drop)

    def holds(self, parts: Sequence[Drop], pooled: Drop) -> bool:
        """Return whether a candidate is inside, by its drop on each part, validation classes first, and on all."""
        end = pooled.interval[1] if self.by == INTERVAL else pooled.mean
        return self.allows(parts[0].mean) and self.allows(pooled.mean) and self.allows(end)


@dataclass(frozen=True)
class Drop:
    """How far the scores of a network lie below fp32's on the same queries.

    Attributes:
        queries: how many.
        score: the network's mean.
        mean: fp32's mean less that.
        interval: the 95 % interval of the mean drop, queries resampled in pairs.
        standard_error: of the mean drop. Never less than that of one query in all that changed: where none did, the
            next might.
    """

    queries: int
    score: float
    mean: float
    interval: tuple[float, float]
    standard_error: float

    @classmethod
    def of(cls, scores: np.ndarray, expected: np.ndarray, seed: int) -> Drop:
        """Measure the drop.

        Args:
            scores: ``(Q,)`` of the network, of each query hit or miss (bool), or a score (float).
            expected: ``(Q,)``, fp32's of the same queries.
            seed: of the resampling.
        """
        differences = expected.astype(np.float64) - scores
        count = len(differences)
        return cls(
            queries=count,
            score=float(scores.mean()),
            mean=float(expected.mean() - scores.mean()),
            interval=drop_interval(scores, expected, _RESAMPLES, seed),
            standard_error=sqrt(max(float(differences.var()), 1 / count) / count),
        )

    def images_needed(self, max_drop: float) -> int:
        """Return how many queries it takes until the interval of the drop is no wider than the budget to either side.

        Args:
            max_drop: the budget, above 0.
        """
        return ceil(self.queries * (_CONFIDENT * self.standard_error / max_drop) ** 2)

    @property
    def uncertainty(self) -> float:
        """Return half the width of the 95 % interval, by the standard error."""
        return _CONFIDENT * self.standard_error


def told_apart(worse: np.ndarray, better: np.ndarray, seed: int) -> bool:
    """Return whether one network scores less than another beyond chance: 0 lies below the interval of the difference.

    Args:
        worse: ``(Q,)`` scores of the one that may be worse.
        better: ``(Q,)``, of the same queries, of the other.
        seed: of the resampling.
    """
    return drop_interval(worse, better, _RESAMPLES, seed)[0] > 0
