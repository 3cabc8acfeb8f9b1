"""The budget for the drop, and how many judged images it takes to verify it."""

from __future__ import annotations

import numpy as np
import pytest

from export.int8.budget import Budget, Drop, told_apart


def scores(queries: int, lost: int, won: int = 0) -> Drop:
    """Return the drop of a network that loses and wins some of the queries, of which fp32 finds all but those won."""
    expected, found = np.ones(queries, dtype=bool), np.ones(queries, dtype=bool)
    expected[:won] = False
    found[won : won + lost] = False
    return Drop.of(found, expected, seed=0)


def test_a_drop_by_hand() -> None:
    drop = scores(1000, lost=30, won=10)
    assert (drop.queries, drop.score, drop.mean) == (1000, pytest.approx(0.97), pytest.approx(0.02))
    # Differences are 1 for 30, -1 for 10: variance 40 / 1000 - 0.02 ** 2.
    assert drop.standard_error == pytest.approx(((0.04 - 0.0004) / 1000) ** 0.5)
    assert drop.uncertainty == pytest.approx(1.96 * drop.standard_error)
    assert drop.interval[0] == pytest.approx(0.02 - drop.uncertainty, abs=0.002)
    assert drop.interval[1] == pytest.approx(0.02 + drop.uncertainty, abs=0.002)
    assert drop.images_needed(0.005) == pytest.approx(1.96**2 * 0.0396 / 0.005**2, abs=1)


def test_what_training_images_keep_does_not_drown_what_validation_classes_lose() -> None:
    lost, kept = scores(500, lost=5), scores(5500, lost=0)  # a point of the first is 0.08 of all
    pooled = scores(6000, lost=5)
    assert not Budget(0.005).holds([lost, kept], pooled)
    # Nor the other way round.
    assert not Budget(0.005).holds([scores(500, 0), scores(5500, 60)], scores(6000, 60))
    assert Budget(0.005).holds([scores(400, 2), scores(5600, 20)], scores(6000, 22))
    assert Budget(None).holds([lost, kept], pooled)


def test_the_stricter_choice_asks_for_the_intervals_end() -> None:
    few, many = scores(400, lost=1), scores(6000, lost=3)
    assert Budget(0.005, "mean").holds([few], few)
    assert not Budget(0.005, "interval").holds([few], few)  # 0.25 points, but up to 0.75
    assert Budget(0.005, "interval").holds([few, many], many)


def test_networks_are_told_apart_beyond_chance() -> None:
    best = np.ones(1000, dtype=bool)
    for lost, expected in ((1, False), (3, False), (12, True)):
        worse = best.copy()
        worse[:lost] = False
        assert told_apart(worse, best, seed=0) is expected
        assert not told_apart(best, worse, seed=0)
    swapped = best.copy()
    swapped[:40] = False
    assert not told_apart(swapped, np.roll(swapped, 40), seed=0)  # 40 each, of other queries
