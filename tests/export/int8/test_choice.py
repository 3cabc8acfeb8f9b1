"""The choice of the candidate to ship, and the warnings about it."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import export.int8.choice
from export.int8.budget import Drop
from export.int8.choice import choose, gain_of, resolution_of, warn

QUERIES = 1000


def entry(
    name: str, milliseconds: float | None, lost: int, inside: bool = True, overlap: float = 0.9, **scheme: Any
) -> dict[str, Any]:
    times = None if milliseconds is None else {"tensor": {"median": milliseconds}}
    plain = {"kind": "static", "per_channel": True, "reduce_range": False}
    known = {"name": name, "precision": "int8", "latency_ms": times, "drop": lost / QUERIES, "inside_budget": inside}
    return known | {"error": None, "scheme": plain | scheme, "neighbour_overlap": overlap}


def chosen(target: str, *entries: dict[str, Any]) -> str:
    scores = {}
    for each in entries:
        scores[each["name"]] = np.ones(QUERIES, dtype=bool)
        scores[each["name"]][: round(each["drop"] * QUERIES)] = False
    trial: Any = SimpleNamespace(
        inside=lambda: [each for each in entries if each["inside_budget"]],
        content={},
        scores=scores,
        judge=SimpleNamespace(seed=0),
    )
    found = choose(trial, target)
    assert found is not None and trial.content["chosen"] == found["name"]
    return f"{found['name']}: {trial.content['chosen_by']}"


@pytest.fixture(autouse=True)
def x86(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platform.machine", lambda: "x86_64")


def test_the_fastest_of_equally_safe_ones() -> None:
    timed = (entry("slow", 9.0, 0), entry("fast", 4.0, 2), entry("as fast", 4.1, 1, overlap=0.95))
    outside = entry("fastest", 1.0, 200, inside=False)
    by = "of the safest inside the budget, "
    assert chosen("x86", *timed, outside) == f"as fast: {by}the fastest here"
    assert chosen("arm64", *timed, outside) == f"as fast: {by}nearest to fp32; latency here says nothing of arm64"
    untimed = (entry("a", None, 2, overlap=0.91), entry("b", None, 3))
    assert chosen("x86", *untimed) == f"a: {by}nearest to fp32; nothing was timed"


@pytest.mark.parametrize("vnni", [True, False])
def test_times_count_where_this_machine_is_the_target(vnni: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(export.int8.choice, "has_vnni", lambda: vnni)
    both = (entry("slow", 9.0, 0, overlap=0.99), entry("fast", 4.0, 0))
    assert chosen("x86-vnni", *both).startswith("fast" if vnni else "slow")


@pytest.mark.parametrize("risk", [{"per_channel": False}, {"reduce_range": True}, {"kind": "dynamic"}])
def test_the_safer_one_where_recall_cannot_tell(risk: dict[str, Any]) -> None:
    safe = entry("safe", 5.0, 3)
    # 0 or 1 lost of 1000 is no better than 3 beyond chance, and speed is no reason.
    assert chosen("x86", safe, entry("risky", 4.0, 1, overlap=0.99, **risk)).startswith("safe")
    # 30 lost are more than none, by an interval that leaves 0 out.
    bad = entry("safe", 5.0, 30)
    assert chosen("x86", bad, entry("risky", 5.0, 0, **risk)).startswith("risky")
    # But not if what retrieves more is slower: inside the budget is inside.
    assert chosen("x86", bad, entry("risky", 9.0, 0, **risk)).startswith("safe")


def test_dynamic_is_as_safe_where_it_is_usual() -> None:
    dynamic, static = entry("dynamic", 4.0, 2, kind="dynamic"), entry("static", 9.0, 0)
    assert chosen("x86", dynamic, static).startswith("dynamic")


def test_nothing_inside_is_nothing_chosen() -> None:
    trial: Any = SimpleNamespace(inside=list, content={})
    assert choose(trial, "x86") is None


@pytest.mark.parametrize(
    ("size", "milliseconds", "target", "words", "speedup"),
    [
        (30, 5.0, "x86", "smaller and faster", 2.2),
        (30, 10.0, "x86", "smaller and faster", 1.1),
        (30, 10.1, "x86", "smaller only", 11 / 10.1),
        (100, 10.1, "x86", "neither smaller nor faster", 11 / 10.1),
        (100, 5.0, "x86", "faster only", 2.2),
        (30, 5.0, "arm64", "smaller; not timed on the target", None),
        (30, None, "x86", "smaller; not timed on the target", None),
    ],
)
def test_what_is_gained(size: int, milliseconds: float | None, target: str, words: str, speedup: float | None) -> None:
    def timed(value: float | None) -> dict[str, Any] | None:
        return None if value is None else {"pixels": {"median": value}, "tensor": {"median": 1.0}}

    fp32 = {"bytes": 100, "latency_ms": timed(None if milliseconds is None else 11.0)}
    found = gain_of({"bytes": size, "latency_ms": timed(milliseconds)}, fp32, target)
    assert found == {"is": words, "speedup": None if speedup is None else pytest.approx(speedup), "size": size / 100}


def test_too_few_images_and_no_gain_are_said(caplog: pytest.LogCaptureFixture) -> None:
    expected = np.ones(200, dtype=bool)
    drop = Drop.of(expected, expected, seed=0)
    seen = resolution_of(drop, 0.005)
    # Not one of 200 changed. One that did would be half a point, ±0.98; for ±0.5 it takes 200 * 1.96 ** 2 images.
    assert seen == {"images": 200, "standard_error": pytest.approx(0.005), "images_needed": 769, "enough": False}
    content: dict[str, Any] = {
        "measure": "Recall@1",
        "budget": {"max_drop": 0.005, "by": "mean"},
        "gain": {"is": "smaller only", "speedup": 1.03, "size": 0.27},
        "resolution": seen,
        "candidates": [{"parts": [{"score": 0.9}]}],
    }
    warn(content, {"drop": 0.0})
    assert "int8 is smaller only: 27 % of fp32's size, 1.03 times as fast, preprocessing included." in caplog.text
    assert (
        "200 judged images are too few for a budget of 0.5 points: the drop of 0.00 is known only to ±0.98"
        in caplog.text
    )
    assert "About 769 are needed." in caplog.text
    caplog.clear()
    content |= {"resolution": resolution_of(Drop.of(np.ones(1000, bool), np.ones(1000, bool), 0), 0.005)}
    content |= {"gain": {"is": "smaller and faster", "speedup": 2.0, "size": 0.27}}
    warn(content, {"drop": 0.0})
    assert not caplog.text
    for nothing in (None, 0.0):
        assert resolution_of(drop, nothing)["enough"] is None
