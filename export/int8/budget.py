"""The budget: how far int8 may fall below fp32, and how many judged images are needed to confirm it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, sqrt

import numpy as np

from zoo.retrieval.bootstrap import at_least, drop_interval

MEAN, INTERVAL = BUDGET_BY = ("mean", "interval")
"""What must be within the budget: the mean drop, or the upper end of its 95 % interval."""
_RESAMPLES = 2000
_CONFIDENT = 1.96  # standard errors on either side of a mean for a 95 % interval


@dataclass(frozen=True)
class Budget:
    """How far the measure may drop.

    Training images are easier than validation classes and may be far more. So the drop must be within the budget twice:
    on the validation classes alone, which the others would outweigh, and on all judged images, because validation
    images may be too few to decide. If the interval's end must be within, it is that of all images; on the validation
    classes the mean must be.

    Attributes:
        max_drop: largest drop, as a fraction; None for no limit.
        by: one of ``BUDGET_BY``.
    """

    max_drop: float | None
    by: str = MEAN

    def allows(self, drop: float) -> bool:
        """Return whether a drop is within the limit."""
        return self.max_drop is None or at_least(self.max_drop, drop)

    def holds(self, parts: Sequence[Drop], pooled: Drop) -> bool:
        """Return whether a candidate is within, by its drop on each part (validation classes first) and on all."""
        end = pooled.interval[1] if self.by == INTERVAL else pooled.mean
        return self.allows(parts[0].mean) and self.allows(pooled.mean) and self.allows(end)


@dataclass(frozen=True)
class Drop:
    """How far a network's scores are below fp32's on the same queries.

    Attributes:
        queries: number of queries.
        score: the network's mean score.
        mean: fp32's mean score minus ``score``.
        interval: 95 % interval of the mean drop, by a paired bootstrap over queries.
        standard_error: standard error of the mean drop, never below that of a single changed query: if none changed,
            the next might.
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
            scores: ``(Q,)``, the network's score of each query: hit or miss (bool), or float.
            expected: ``(Q,)``, fp32's scores of the same queries.
            seed: seed of the bootstrap.
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
        """Return the number of queries at which half the width of the drop's interval is at most the budget.

        Args:
            max_drop: the budget, above 0.
        """
        return ceil(self.queries * (_CONFIDENT * self.standard_error / max_drop) ** 2)

    @property
    def uncertainty(self) -> float:
        """Half the width of the 95 % interval, from the standard error."""
        return _CONFIDENT * self.standard_error


def told_apart(worse: np.ndarray, better: np.ndarray, seed: int) -> bool:
    """Return whether one network scores significantly less than another: the interval of the difference is above 0.

    Args:
        worse: ``(Q,)``, scores of the network that may be worse.
        better: ``(Q,)``, scores of the other on the same queries.
        seed: seed of the bootstrap.
    """
    return drop_interval(worse, better, _RESAMPLES, seed)[0] > 0
