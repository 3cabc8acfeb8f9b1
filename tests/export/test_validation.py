from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from export import to_onnx, validate
from zoo import DataError, ModelError, OptionError, load_data, load_model, measure
from zoo.embedding import embed
from zoo.retrieval import neighbour_overlap, retention_interval


@pytest.fixture(scope="module")
def artefact(tiny_teacher: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return to_onnx(tiny_teacher, tmp_path_factory.mktemp("onnx") / "model.onnx")


@pytest.fixture(scope="module")
def report(photos: Path, tiny_teacher: Path, artefact: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    return validate(
        [tiny_teacher, artefact],
        tiny_teacher,
        f"folder:{photos}",
        tmp_path_factory.mktemp("report"),
        validation=0.34,
        min_retention=0.95,
        bootstrap=200,
        latency_runs=3,
    )


def test_report_says_what_was_measured(report: Any, photos: Path, tiny_teacher: Path, artefact: Path) -> None:
    content = json.loads((report.folder / "report.json").read_text())
    assert content == json.loads(json.dumps(report.content))
    assert content["schema"] == 1
    assert content["gate"] == {"min_retention": 0.95, "passed": True}
    assert content["data"]["queries"] == content["data"]["gallery"] == 48
    assert [stage["stage"] for stage in content["stages"]] == ["teacher", "student", "onnx-fp32"]
    test = load_data(f"folder:{photos}", validation=0.34).test
    expected = measure(embed(load_model(tiny_teacher), test), test)
    for stage in content["stages"]:
        assert list(stage["recall"]) == ["1", "2", "4", "8", "10"]
        assert stage["recall"]["1"] == pytest.approx(expected.recall_at(1))
        assert stage["map_at_r"] == pytest.approx(float(expected.average_precision.mean()), abs=1e-6)
        assert stage["r_precision"] == pytest.approx(float(expected.r_precision.mean()), abs=1e-6)
        assert stage["retention"] == pytest.approx(1)
        assert stage["retention_interval"] == [1, 1]
        assert stage["neighbour_overlap"] == pytest.approx(1, abs=1e-3)
        assert stage["dim"] == 32
        assert stage["parameters"] == sum(p.numel() for p in load_model(tiny_teacher).parameters())
        assert stage["latency_ms"]["threads"] == 1
        assert 0 < stage["latency_ms"]["median"] <= stage["latency_ms"]["p95"]
    assert content["stages"][1]["bytes"] == (tiny_teacher / "model.safetensors").stat().st_size
    assert content["stages"][2]["bytes"] == artefact.stat().st_size
    assert "<html" in (report.folder / "report.html").read_text()


def test_gate_fails_on_a_model_that_lost_it(photos: Path, tiny_teacher: Path, tmp_path: Path) -> None:
    broken = load_model(tiny_teacher)
    with torch.no_grad():
        for parameter in broken.parameters():
            parameter.zero_()
    onnx = to_onnx(broken, tmp_path / "broken.onnx")
    report = validate([onnx], tiny_teacher, f"folder:{photos}", tmp_path / "r", min_retention=0.5, latency_runs=0)
    assert not report.passed
    assert report.content["gate"]["passed"] is False
    assert report.content["stages"][1]["retention"] < 0.5
    assert report.content["stages"][1]["latency_ms"] is None


def test_teachers_of_other_kinds(photos: Path, tiny_teacher: Path, artefact: Path, tmp_path: Path) -> None:
    options: dict[str, Any] = {"latency_runs": 0, "bootstrap": 10}
    module: nn.Module = load_model(tiny_teacher)
    for number, teacher in enumerate((module, artefact)):
        report = validate([artefact], teacher, f"folder:{photos}", tmp_path / str(number), **options)
        assert report.content["stages"][1]["retention"] == pytest.approx(1)


def test_mistakes_are_named(photos: Path, tiny_teacher: Path, artefact: Path, tmp_path: Path) -> None:
    data = f"folder:{photos}"
    with pytest.raises(ModelError, match=r"gone\.onnx"):
        validate([tmp_path / "gone.onnx"], tiny_teacher, data, tmp_path)
    with pytest.raises(ModelError, match="gone"):
        validate([artefact], tmp_path / "gone", data, tmp_path)
    with pytest.raises(OptionError, match="No model"):
        validate([], tiny_teacher, data, tmp_path)
    with pytest.raises(OptionError, match="Recall@1"):
        validate([artefact], tiny_teacher, data, tmp_path, ks=(2, 4))
    with pytest.raises(OptionError, match="min_retention"):
        validate([artefact], tiny_teacher, data, tmp_path, min_retention=-1)
    with pytest.raises(DataError, match="no test images"):
        validate([artefact], tiny_teacher, f"folder:{photos / 'class00'}", tmp_path)


def test_interval_agrees_with_resampling_queries_one_by_one() -> None:
    random = np.random.default_rng(0)
    teacher = random.random(300) < 0.8
    model = np.where(random.random(300) < 0.9, teacher, random.random(300) < 0.3)
    low, high = retention_interval(model, teacher, 20000)
    draws = random.integers(300, size=(20000, 300))
    ratios = model[draws].mean(axis=1) / teacher[draws].mean(axis=1)
    expected = np.quantile(ratios, [0.025, 0.975])
    np.testing.assert_allclose([low, high], expected, atol=0.004)
    assert low < model.mean() / teacher.mean() < high


def test_interval_covers_the_truth_as_often_as_it_says() -> None:
    random = np.random.default_rng(1)
    covered = 0
    for trial in range(300):
        teacher = random.random(400) < 0.8
        model = np.where(teacher, random.random(400) < 0.9, random.random(400) < 0.2)
        truth = (0.8 * 0.9 + 0.2 * 0.2) / 0.8
        low, high = retention_interval(model, teacher, 500, seed=trial)
        covered += low <= truth <= high
    assert 0.91 <= covered / 300 <= 0.985


def test_overlap_by_hand() -> None:
    teacher = np.array([[1, 2, 3], [4, 5, -1]])
    model = np.array([[3, 9, 1], [7, 8, -1]])
    assert math.isclose(neighbour_overlap(model, teacher), (2 / 3 + 0) / 2)
