"""Paired bootstrap intervals of means over queries, and comparison of a mean with a limit."""

from __future__ import annotations

import numpy as np


def at_least(value: float, limit: float) -> bool:
    """Return whether a mean over queries reaches a limit, with a tolerance of 1e-9 for rounding."""
    return value >= limit - 1e-9


def retention_interval(
    model: np.ndarray, teacher: np.ndarray, resamples: int, seed: int = 0, confidence: float = 0.95
) -> tuple[float, float]:
    """Return the percentile interval of mean(model) / mean(teacher) by paired bootstrap over queries.

    Resamples in which the teacher's mean is 0 have no ratio and are left out; if all are, both ends are 0.

    Args:
        model: ``(Q,)``, for each query hit or miss (bool), or a score of 0 or more (float).
        teacher: ``(Q,)``, for the same queries.
        resamples: number of bootstrap samples.
        seed: seed of the resampling.
        confidence: coverage of the interval, in (0, 1).
    """
    draw = _resampled_hits if model.dtype == bool else _resampled_scores
    kept, reference = draw(model, teacher, resamples, np.random.default_rng(seed))
    ratios = kept[reference > 0] / reference[reference > 0]
    if not len(ratios):
        return 0.0, 0.0
    low, high = np.quantile(ratios, [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low), float(high)


def drop_interval(
    model: np.ndarray, reference: np.ndarray, resamples: int, seed: int = 0, confidence: float = 0.95
) -> tuple[float, float]:
    """Return the percentile interval of mean(reference) - mean(model) by paired bootstrap over queries.

    Args:
        model: ``(Q,)``, for each query hit or miss (bool), or a score (float).
        reference: ``(Q,)``, for the same queries.
        resamples: number of bootstrap samples.
        seed: seed of the resampling.
        confidence: coverage of the interval, in (0, 1).
    """
    draw = _resampled_hits if model.dtype == bool else _resampled_scores
    kept, expected = draw(model, reference, resamples, np.random.default_rng(seed))
    low, high = np.quantile((expected - kept) / len(model), [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low), float(high)


def _resampled_hits(
    model: np.ndarray, teacher: np.ndarray, resamples: int, generator: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Return the number of hits of each in every bootstrap sample, two ``(resamples,)``."""
    # A query has one of four outcomes, so drawing queries with replacement is a multinomial draw of four counts.
    both, only_model = (model & teacher).sum(), (model & ~teacher).sum()
    only_teacher = (~model & teacher).sum()
    counts = np.array([both, only_model, only_teacher, len(model) - both - only_model - only_teacher])
    drawn = generator.multinomial(len(model), counts / len(model), size=resamples)
    return drawn[:, 0] + drawn[:, 1], drawn[:, 0] + drawn[:, 2]


def _resampled_scores(
    model: np.ndarray, teacher: np.ndarray, resamples: int, generator: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Return the sum of each one's scores in every bootstrap sample, two ``(resamples,)``."""
    sums = np.empty((2, resamples))
    for sample in range(resamples):  # one at a time, to bound memory
        times = np.bincount(generator.integers(len(model), size=len(model)), minlength=len(model))
        sums[:, sample] = times @ model, times @ teacher
    return sums[0], sums[1]
