"""Intervals when the denominator is zero."""

from __future__ import annotations

import numpy as np

from zoo.retrieval.bootstrap import retention_interval


def test_resamples_in_which_the_teacher_finds_nothing_have_no_ratio() -> None:
    student, teacher = np.ones(20, dtype=bool), np.zeros(20, dtype=bool)
    assert retention_interval(student, teacher, 100) == (0.0, 0.0)
    teacher[0] = True
    low, high = retention_interval(student, teacher, 2000)
    # The ratio is 20 / k with the teacher's hits k = 1, 2 ... in a resample, never a count of the student's own.
    assert high == 20.0 and low in {20 / k for k in range(1, 6)}
