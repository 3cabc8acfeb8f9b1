"""The verdict on a model compared with its baselines, and the gates."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from export.report.verdict import gate, implausible, judge
from zoo.retrieval.bootstrap import drop_interval

Content = dict[str, Any]


def row(stage: str, dim: int = 64, retention: float = 0.9, spread: float = 0.05, **more: Any) -> Content:
    interval = [retention - spread, retention + spread]
    return {"stage": stage, "dim": dim, "recall": {}, "retention": retention, "retention_interval": interval} | more


TEACHER = row("teacher", 128, 1.0, 0.0, architecture="big")
STUDENT = row("student", architecture="net")
OWN = row("net as it comes, PCA to 64", baseline="student", architecture="net", retention=3.0)
PROJECTED = row("teacher, PCA to 64", baseline="teacher-pca", architecture="big")
AS_IT_COMES = row("big as it comes", 1280, baseline="teacher", architecture="big")


def hits(share: float, queries: int = 1000) -> np.ndarray:
    """Return as many hits, spread in the same order for every share: of two, one's hits hold the other's."""
    return np.random.default_rng(0).permutation(queries) < share * queries


def judged(stages: list[Content], recall: dict[str, float], map_at_r: dict[str, float] | None = None) -> Content:
    precisions = map_at_r or dict.fromkeys(recall, 0.5)
    scores = {
        "recall_at_1": {name: hits(share) for name, share in recall.items()},
        "map_at_r": {name: np.full(1000, value) for name, value in precisions.items()},
    }
    return judge({"stages": stages}, scores, ["left out"], 200, 0)


def test_a_student_below_its_network_as_it_comes_is_not_to_be_shipped() -> None:
    found = judged(
        [TEACHER, STUDENT, OWN],
        {"teacher": 0.9, "student": 0.8, OWN["stage"]: 0.849},
        {"teacher": 0.7, "student": 0.4, OWN["stage"]: 0.6},
    )
    low, high = drop_interval(hits(0.8), hits(0.849), 200, 0)
    assert found["outcome"] == "worse"
    assert found["sentence"] == (
        "net as it comes, with PCA to 64 dimensions, is 4.9 points of Recall@1 better than this student "
        f"[{100 * low:.1f}, {100 * high:.1f}] and 20.0 of MAP@R [20.0, 20.0]: do not ship it."
    )
    (entry,) = found["comparisons"]
    assert (entry["stage"], entry["baseline"], entry["kind"]) == ("student", OWN["stage"], "student")
    assert entry["recall_at_1"] == {"difference": pytest.approx(-0.049), "interval": [-high, -low]}
    assert entry["map_at_r"]["difference"] == pytest.approx(-0.2)
    assert found["remarks"] == [] and found["notes"] == ["left out"]


def test_one_measure_lost_is_enough_and_the_other_is_told() -> None:
    recall = {"teacher": 0.9, "student": 0.9, OWN["stage"]: 0.8}
    found = judged([TEACHER, STUDENT, OWN], recall, {"teacher": 0.7, "student": 0.4, OWN["stage"]: 0.45})
    assert found["outcome"] == "worse"
    assert found["sentence"].startswith(
        "net as it comes, with PCA to 64 dimensions, is 5.0 points of MAP@R better than this student [5.0, 5.0]: do not"
    )
    assert "In Recall@1 this student is 10.0 points better [" in found["sentence"]


def test_a_gain_that_chance_can_make_is_no_gain() -> None:
    found = judged([TEACHER, STUDENT, OWN], {"teacher": 0.9, "student": 0.801, OWN["stage"]: 0.8})
    assert found["outcome"] == "undecided" and "shows no gain" in found["sentence"]
    assert "do not ship" not in found["sentence"]


def test_being_below_the_projected_teacher_is_said_and_no_reason_against() -> None:
    recall = {"teacher": 0.9, "student": 0.85, OWN["stage"]: 0.8, PROJECTED["stage"]: 0.89}
    found = judged([TEACHER, STUDENT, OWN, PROJECTED], recall)
    assert found["outcome"] == "better"
    assert found["sentence"].startswith("This student gains +5.0 points of Recall@1 [")
    assert found["sentence"].endswith("over net as it comes, with PCA to 64 dimensions.")
    assert "do not ship" not in str(found)
    (remark,) = found["remarks"]
    assert remark.startswith(
        "This student is below the teacher, with PCA to 64 dimensions, which needs the teacher's network: −4.0 points"
    )


def test_a_teacher_below_its_network_as_it_comes_is_told() -> None:
    recall = {"teacher": 0.85, "student": 0.8, AS_IT_COMES["stage"]: 0.9}
    found = judged([TEACHER, STUDENT, AS_IT_COMES], recall)
    assert found["outcome"] == "unknown" and found["sentence"] == ""
    assert found["remarks"][0].startswith(
        "The teacher is worse than its network as it comes: −5.0 points of Recall@1 ["
    )
    better = judged([TEACHER, STUDENT, AS_IT_COMES], recall | {"teacher": 0.95})
    assert better["remarks"] == [] and better["comparisons"][0]["recall_at_1"]["difference"] == pytest.approx(0.05)


def test_each_model_is_compared_with_baselines_of_its_own_network_and_size() -> None:
    large = row("student-2", 256, architecture="net")
    other = row("student-3", 64, architecture="other")
    wide = row("net as it comes, PCA to 256", 256, baseline="student", architecture="net")
    stages = [TEACHER, STUDENT, large, other, OWN, wide, PROJECTED]
    found = judged(stages, {stage["stage"]: 0.8 for stage in stages})
    assert [(entry["stage"], entry["baseline"]) for entry in found["comparisons"]] == [
        ("student", OWN["stage"]),
        ("student", PROJECTED["stage"]),
        ("student-2", wide["stage"]),
        ("student-3", PROJECTED["stage"]),
    ]
    assert found["outcome"] == "unknown"  # the last model's network is another one


def gated(stages: list[Content], fault: str = "", verdict: Content | None = None, **options: Any) -> Content:
    asked: Content = {"min_retention": None, "min_gain": None, "gain_by": "mean"} | options
    return gate({"stages": stages}, verdict, {"student": "an .onnx file says nothing."}, fault, **asked)


def test_retention_is_asked_of_models_and_not_of_baselines() -> None:
    found = gated([TEACHER, STUDENT, row("net as it comes", retention=0.1, baseline="student")], min_retention=0.8)
    assert found["passed"] and found["reasons"] == [] and found["narrow"] == []
    found = gated([TEACHER, STUDENT], min_retention=0.97)
    assert not found["passed"]
    assert found["reasons"] == ["97\u00a0% of the teacher's Recall@1 was asked for; student keeps 90.00\u00a0%."]


@pytest.mark.parametrize("limit", [0.88, 0.94])
def test_a_gate_inside_the_interval_is_narrow_either_way(limit: float) -> None:
    found = gated([TEACHER, STUDENT], min_retention=limit)
    assert found["passed"] == (limit < 0.9)
    said = f"student keeps 90.0\u00a0% [85.0, 95.0], an interval that includes {100 * limit:g}\u00a0%"
    assert found["narrow"] == [said]


def test_nothing_passes_on_a_teacher_that_knows_nothing() -> None:
    found = gated([TEACHER, STUDENT], "The teacher (x) is no better than chance", min_retention=0.5)
    assert not found["passed"] and found["reasons"] == ["The teacher (x) is no better than chance."]
    assert gated([TEACHER, STUDENT], "The teacher (x) is no better than chance")["passed"]


def test_more_than_a_student_learns_is_doubted() -> None:
    content = {"stages": [TEACHER, row("student", retention=1.34), row("x", retention=1.34, baseline="student")]}
    (doubt,) = implausible(content)
    assert doubt.startswith("student keeps 134\u00a0% of the teacher's Recall@1, more than a student learns")
    assert implausible({"stages": [TEACHER, row("student", retention=1.24)]}) == []  # 1.19 at its lower end
    assert not gated(content["stages"], min_retention=0.9)["passed"]
    assert gated(content["stages"], min_retention=1.2)["passed"]  # he who asks for more expects more


def test_gain_by_the_mean_and_by_the_interval() -> None:
    stages = [TEACHER, STUDENT, OWN]
    precise = {"teacher": 0.5, "student": 0.51, OWN["stage"]: 0.5}
    verdict = judged(stages, {"teacher": 0.9, "student": 0.803, OWN["stage"]: 0.8}, precise)
    assert verdict["comparisons"][0]["recall_at_1"]["interval"][0] == 0.0  # one's hits hold the other's
    assert gated(stages, verdict=verdict, min_gain=0.0, gain_by="interval")["passed"]
    found = gated(stages, verdict=verdict, min_gain=0.002, gain_by="interval")
    assert not found["passed"] and found["narrow"] == []
    assert found["reasons"][0].startswith("student is at +0.3 points of Recall@1 [0.0, +")
    assert found["reasons"][0].endswith("at least 0.2 points were asked for by the lower end of the interval.")
    found = gated(stages, verdict=verdict, min_gain=0.002)
    assert found["passed"] and "an interval that includes 0.2 points" in found["narrow"][0]
    found = gated(stages, verdict=verdict, min_gain=0.02)
    assert "+0.3 points of Recall@1" in found["reasons"][0] and "+1.0 points of MAP@R" in found["reasons"][0]


def test_a_gain_over_nothing_fails_with_the_reason() -> None:
    verdict = judged([TEACHER, STUDENT], {"teacher": 0.9, "student": 0.8})
    found = gated([TEACHER, STUDENT], verdict=verdict, min_gain=-1.0)
    assert not found["passed"]
    assert found["reasons"] == ["student has no network as it comes to be compared with: an .onnx file says nothing."]
