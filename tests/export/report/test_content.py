"""A report as an object: attributes in addition to the JSON, and its display in notebooks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from export import Exported, Report
from export.report.content import Retention


def stage(name: str, recall: float, **more: Any) -> dict[str, Any]:
    return {
        "stage": name,
        "recall": {"1": recall, "10": 1.0},
        "map_at_r": recall / 2,
        "retention": recall / 0.8,
        "retention_interval": [recall / 0.8 - 0.01, recall / 0.8 + 0.01],
        "dim": 64,
        "parameters": 2_580_000,
        "bytes": 10_400_000,
        "latency_ms": {"median": 3.25, "p95": 4.0},
    } | more


@pytest.fixture
def report() -> Report:
    stages = [stage("teacher", 0.8, latency_ms=None), stage("onnx-int8", 0.76)]
    gate = {"min_retention": 0.9, "min_gain": None, "passed": True, "narrow": [], "reasons": []}
    return Report(Path("runs/<x>"), {"stages": stages, "gate": gate, "verdict": None}, True)


def test_results_are_attributes(report: Report) -> None:
    found = report.stages["onnx-int8"]
    assert found.retention == Retention(pytest.approx(0.95), pytest.approx(0.94), pytest.approx(0.96))
    assert (found.recall, found.map_at_r, found.ndcg) == ({1: 0.76, 10: 1.0}, 0.38, {})
    assert (found.latency_ms, report.stages["teacher"].latency_ms) == (3.25, None)
    assert found.content is report.content["stages"][1]
    assert list(report.stages) == ["teacher", "onnx-int8"]


def test_results_by_label_distance_are_attributes() -> None:
    by_labels = {"ndcg": {"1": 0.5, "10": 0.7}, "mean_label_distance": {"1": 3.0, "10": 4.0}}
    entry = {key: value for key, value in stage("teacher", 0.8).items() if key not in ("recall", "map_at_r")}
    found = Report(Path(), {"stages": [entry | by_labels]}, True).stages["teacher"]
    assert (found.ndcg, found.mean_label_distance) == ({1: 0.5, 10: 0.7}, {1: 3.0, 10: 4.0})
    assert (found.recall, found.map_at_r) == ({}, None)
    assert "nDCG@10 70.00 %" in repr(found)


def test_short_reprs(report: Report) -> None:
    assert repr(report) == "Report('runs/<x>', passed, stages: teacher, onnx-int8)"
    assert repr(report.stages["onnx-int8"]) == (
        "StageResult('onnx-int8': Recall@1 76.00 %, retention 95.00 % [94.00, 96.00], 64 dimensions)"
    )
    assert repr(Exported({"fp32": Path("m.onnx")}, {"much": "more"})) == "Exported(fp32: m.onnx)"


def test_without_a_teacher_nothing_is_retained(report: Report) -> None:
    alone = stage("onnx-int8", 0.76, retention=None, retention_interval=None)
    gate = report.content["gate"] | {"min_retention": None}
    found = Report(Path("runs"), {"stages": [alone], "gate": gate, "verdict": None}, True)
    assert found.stages["onnx-int8"].retention is None
    assert repr(found) == "Report('runs', passed, stages: onnx-int8)"
    assert repr(found.stages["onnx-int8"]) == "StageResult('onnx-int8': Recall@1 76.00 %, 64 dimensions)"
    assert "<tr><th>onnx-int8</th><td>76.00</td><td>–</td><td>2,580,000</td>" in found._repr_html_()


def test_what_a_notebook_shows_is_escaped(report: Report) -> None:
    shown = report._repr_html_()
    assert "<x>" not in shown and "runs/&lt;x&gt;/report.html" in shown
    assert "<tr><th>onnx-int8</th><td>76.00</td><td>95.00 [94.00, 96.00]</td><td>2,580,000</td>" in shown
    assert "Gate passed: every model keeps at least 90" in shown
