"""Counting random teachers that pass as better than chance."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.robustness.random_teachers import OUTCOMES, PASSED, REFUSED, TOO_FEW, Setting, trials
from zoo.teachers.proof import Proof


@pytest.mark.parametrize("kind", [8, "normal", "heavy", "few values"])
def test_hardly_any_passes(kind: int | str) -> None:
    found = trials(Setting(64, kind), np.random.default_rng(0), 200)
    assert found.total() == 200 and found[PASSED] <= 3 and set(found) <= set(OUTCOMES)


def test_where_chance_is_the_bound_about_half_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    def lenient(proof: Proof) -> float:
        return proof.chance

    monkeypatch.setattr(Proof, "bound", property(lenient, lambda proof, value: None), raising=False)
    for kind in (8, "normal"):
        found = trials(Setting(64, kind), np.random.default_rng(0), 400)
        assert 140 < found[PASSED] < 260 and found[REFUSED] == 400 - found[PASSED]


def test_too_few_images_are_counted_for_themselves(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Proof, "sure", False)
    assert trials(Setting(4, 2), np.random.default_rng(0), 5) == {TOO_FEW: 5}
