"""Ratios of speed where a repeat failed."""

from __future__ import annotations

from benchmarks.speed.run import _ratio


def test_repeats_that_failed_are_left_out_of_the_ratio() -> None:
    own = {0: {"seconds": 1.0}, 1: {"seconds": 2.0}, 2: {"seconds": 4.0}}
    assert _ratio({0: {"seconds": 3.0}, 2: {"seconds": 4.0}}, own) == 2.0  # of 3 and 1
    assert _ratio({0: {"seconds": 3.0}}, {1: {"seconds": 2.0}}) is None
