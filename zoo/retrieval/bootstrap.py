"""How sure a mean over queries is: intervals by resampling queries in pairs, and comparison with a limit."""

from __future__ import annotations

import numpy as np


def at_least(value: float, limit: float) -> bool:
    """Return whether a mean over queries reaches a limit; in its last digits it is what rounding made of it."""
    return value >= limit - 1e-9


def retention_interval(
    model: np.ndarray, teacher: np.ndarray, resamples: int, seed: int = 0, confidence: float = 0.95
) -> tuple[float, float]:
    """Return the percentile interval of mean(model) / mean(teacher), queries resampled in pairs.

    Resamples in which the teacher's mean is 0 have no ratio and are left out; where all are, both ends are 0.

    Args:
        model: ``(Q,)``, of each query hit or miss (bool), or a score of 0 or more (float).
        teacher: ``(Q,)``, of the same queries.
        resamples: number of bootstrap samples.
        seed: of the resampling.
        confidence: coverage of the interval, in (0, 1).
    """
    draw = _resampled_hits if model.dtype == bool else _resampled_scores
    kept, reference = draw(model, teacher, resamples, np.random.default_rng(seed))
    ratios = kept[reference > 0] / reference[reference > 0]  # no ratio to a teacher who finds nothing
    if not len(ratios):
        return 0.0, 0.0
    low, high = np.quantile(ratios, [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low), float(high)


def drop_interval(
    model: np.ndarray, reference: np.ndarray, resamples: int, seed: int = 0, confidence: float = 0.95
) -> tuple[float, float]:
    """Return the percentile interval of mean(reference) - mean(model), queries resampled in pairs.

    Args:
        model: ``(Q,)``, of each query hit or miss (bool), or a score (float).
        reference: ``(Q,)``, of the same queries.
        resamples: number of bootstrap samples.
        seed: of the resampling.
        confidence: coverage of the interval, in (0, 1).
    """
    draw = _resampled_hits if model.dtype == bool else _resampled_scores
    kept, expected = draw(model, reference, resamples, np.random.default_rng(seed))
    low, high = np.quantile((expected - kept) / len(model), [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low), float(high)


def _resampled_hits(
    model: np.ndarray, teacher: np.ndarray, resamples: int, generator: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Return how many hits both have in each sample of the queries, ``(resamples,)``."""
    # A query has one of four outcomes, so drawing queries with replacement is a multinomial over four counts.
    both, only_model = (model & teacher).sum(), (model & ~teacher).sum()
    only_teacher = (~model & teacher).sum()
    counts = np.array([both, only_model, only_teacher, len(model) - both - only_model - only_teacher])
    drawn = generator.multinomial(len(model), counts / len(model), size=resamples)
    return drawn[:, 0] + drawn[:, 1], drawn[:, 0] + drawn[:, 2]


def _resampled_scores(
    model: np.ndarray, teacher: np.ndarray, resamples: int, generator: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Return the sums of both scores over each sample of the queries, ``(resamples,)``."""
    sums = np.empty((2, resamples))
    for sample in range(resamples):  # one at a time: all the samples' queries together may be many
        times = np.bincount(generator.integers(len(model), size=len(model)), minlength=len(model))
        sums[:, sample] = times @ model, times @ teacher
    return sums[0], sums[1]
