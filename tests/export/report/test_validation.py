from __future__ import annotations

import json
import math
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from export import export_model, to_onnx, validate
from export.embedding.cache import EmbeddingCache
from export.report.measured_models import latencies, open_models
from zoo import DataError, ModelError, OptionError, load_data, load_model, measure
from zoo.models.embedding import embed
from zoo.models.folder import save_model
from zoo.retrieval.bootstrap import retention_interval
from zoo.retrieval.label_measures import measure_by_labels
from zoo.retrieval.measures import neighbour_overlap
from zoo.teachers.opening import open_teacher


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
    gate = {"min_retention": 0.95, "min_gain": None, "gain_by": "mean", "passed": True, "reasons": [], "narrow": []}
    assert content["gate"] == gate
    assert content["data"]["name"] == f"folder:{photos.name}"  # and not where it lies on this machine
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
    report = validate([artefact], artefact, f"folder:{photos}", tmp_path / "t", **options | {"latency_runs": 2})
    teacher, model = report.content["stages"]  # an ONNX file is known and timed as a teacher too
    assert teacher["latency_ms"]["median"] > 0 and teacher["runtime"] == "onnxruntime"
    assert (teacher["parameters"], teacher["bytes"]) == (model["parameters"], model["bytes"])


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


def test_interval_of_scores_agrees_with_that_of_hits_and_with_resampling() -> None:
    random = np.random.default_rng(0)
    teacher = random.random(300) < 0.8
    model = np.where(random.random(300) < 0.9, teacher, random.random(300) < 0.3)
    of_hits = retention_interval(model, teacher, 20000)
    np.testing.assert_allclose(
        retention_interval(model.astype(float), teacher.astype(float), 20000), of_hits, atol=0.004
    )
    scores = random.uniform(0.5, 1, 200)
    worse = scores * random.uniform(0.8, 1.02, 200)
    draws = random.integers(200, size=(20000, 200))
    expected = np.quantile(worse[draws].mean(axis=1) / scores[draws].mean(axis=1), [0.025, 0.975])
    low, high = retention_interval(worse, scores, 20000)
    np.testing.assert_allclose([low, high], expected, atol=5e-4)
    assert low < worse.mean() / scores.mean() < high
    assert retention_interval(scores, scores, 50) == (1, 1)


def test_overlap_by_hand() -> None:
    teacher = np.array([[1, 2, 3], [4, 5, -1]])
    model = np.array([[3, 9, 1], [7, 8, -1]])
    assert math.isclose(neighbour_overlap(model, teacher), (2 / 3 + 0) / 2)


# --- continuous labels ---


def test_without_classes_label_distance_is_measured(spots: Path, spot_teacher: Path, tmp_path: Path) -> None:
    data, labels = f"csv:{spots / 'images.csv'}", spots / "positions.csv"
    onnx = to_onnx(spot_teacher, tmp_path / "model.onnx")
    blurred = load_model(spot_teacher)
    with torch.no_grad():
        for parameter in blurred.parameters():
            parameter.mul_(1 + 0.3 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(0)))
    save_model(blurred, tmp_path / "worse")
    models = [onnx, tmp_path / "worse"]
    options: dict[str, Any] = {"continuous_labels": labels, "bootstrap": 200, "latency_runs": 1}
    report = validate(models, spot_teacher, data, tmp_path / "r", min_retention=0.9999, **options)
    content = json.loads((report.folder / "report.json").read_text())
    assert content == json.loads(json.dumps(report.content))

    test = load_data(data, continuous_labels=labels).test
    results = [
        measure_by_labels(embed(model, test), test, "euclidean") for model in (load_model(spot_teacher), blurred)
    ]
    ratio = results[1].ndcg_at(10) / results[0].ndcg_at(10)
    assert ratio < 0.999
    teacher, same, worse = content["stages"]
    for stage, result in ((teacher, results[0]), (same, results[0]), (worse, results[1])):
        assert list(stage["ndcg"]) == list(stage["mean_label_distance"]) == [str(k) for k in range(1, 11)]
        assert not {"recall", "r_precision", "map_at_r"} & set(stage)
        for k in (1, 5, 10):
            assert stage["ndcg"][str(k)] == pytest.approx(result.ndcg_at(k), abs=1e-4)
            assert stage["mean_label_distance"][str(k)] == pytest.approx(result.label_distance_at(k), abs=1e-3)
        assert stage["metric"] == "euclidean"
    assert same["retention"] == pytest.approx(1, abs=1e-4)
    assert worse["retention"] == pytest.approx(ratio, abs=1e-4)
    low, high = worse["retention_interval"]
    assert low < worse["retention"] < high < low + 0.1
    assert not report.passed and content["gate"]["passed"] is False
    assert "99.99\u00a0% of the teacher's nDCG@10 was asked for; student keeps" in content["gate"]["reasons"][0]
    described = content["data"]
    assert described["queries"] == described["gallery"] == 60 and described["left_out"] == 0
    assert described["label_distance"] == "euclidean distance of 2 numbers"
    assert described["chance"] == described["random_order"]["ndcg"]["10"] == pytest.approx(0.807, abs=0.01)
    assert described["best_order"]["ndcg"]["10"] == 1
    assert described["best_order"]["mean_label_distance"]["1"] < teacher["mean_label_distance"]["1"]


def test_with_classes_too_retention_stays_that_of_recall(
    photos: Path, tiny_teacher: Path, artefact: Path, tmp_path: Path
) -> None:
    data = load_data(f"folder:{photos}", "all-test")
    assert data.test.labels is not None
    np.savez(tmp_path / "l.npz", ids=np.array(data.test.ids), vectors=(data.test.labels[:, None] // 3).astype(float))
    options: dict[str, Any] = {"split": "all-test", "bootstrap": 50, "latency_runs": 0}
    plain = validate([artefact], tiny_teacher, f"folder:{photos}", tmp_path / "a", **options)
    both = validate(
        [artefact], tiny_teacher, f"folder:{photos}", tmp_path / "b", continuous_labels=tmp_path / "l.npz", **options
    )
    added = {"ndcg", "mean_label_distance"}
    for before, after in zip(plain.content["stages"], both.content["stages"], strict=True):
        assert set(after) - set(before) == added
        assert {key: value for key, value in after.items() if key not in added} == before
    of_data = {"label_distance", "random_order", "best_order"}
    assert {key: value for key, value in both.content["data"].items() if key not in of_data} == plain.content["data"]
    assert plain.content["schema"] == both.content["schema"] == 1


def test_neither_classes_nor_continuous_labels(spots: Path, spot_teacher: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot be measured on images without labels"):
        validate([spot_teacher], spot_teacher, f"csv:{spots / 'images.csv'}", tmp_path / "r")


def test_a_model_that_may_have_seen_the_test_classes_is_warned_of(
    photos: Path, tiny_teacher: Path, artefact: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    quick: dict[str, Any] = {"bootstrap": 10, "latency_runs": 0, "validation": 0.34}
    report = validate([artefact], tiny_teacher, photos, tmp_path / "a", split="even-odd", **quick)
    expected = [
        f"{stage} was trained on folder:{photos.name} divided by split first-half, and is measured on it divided by "
        "even-odd: it may have been trained on what it is measured on."
        for stage in ("teacher", "onnx-fp32")
    ]
    assert report.content["warnings"] == expected
    assert all(warning in caplog.text for warning in expected)
    assert "divided by split first-half, and is measured" in (tmp_path / "a" / "report.html").read_text()
    report = validate([artefact], tiny_teacher, photos, tmp_path / "b", split="first-half", **quick)
    assert report.content["warnings"] == [] and report.content["data"]["unreadable"] == 0


def test_test_images_that_were_seen_are_warned_of_once(
    photos: Path, tiny_teacher: Path, artefact: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Three images of a training class lie in a test class too, byte for byte."""
    folder = tmp_path / "photos"
    shutil.copytree(photos, folder)
    classes = sorted(path for path in folder.iterdir() if path.is_dir())
    for number, file in enumerate(sorted(classes[0].iterdir())[:3]):
        shutil.copy(file, classes[-1] / f"copy{number}{file.suffix}")
    report = validate([artefact], tiny_teacher, f"folder:{folder}", tmp_path / "r", latency_runs=0, baselines=False)
    tested = len(load_data(f"folder:{folder}").test)
    expected = f"3 of {tested} test images are, byte for byte, among the training or validation images"
    assert [warning for warning in report.content["warnings"] if expected in warning]
    assert expected in (report.folder / "report.html").read_text()
    assert report.content["data"]["test_images_seen"] == 3
    said = [record.message for record in caplog.records if "byte for byte" in record.message]
    assert len(said) == 2 and all("3 of" in message for message in said)  # by each of the two divisions made here


def test_one_test_class_proves_nothing(photos: Path, tiny_teacher: Path, artefact: Path, tmp_path: Path) -> None:
    data = load_data(photos, validation=0.34)
    single = replace(data, test=data.test.subset(np.flatnonzero(data.test.labels == data.test.labels[0])))
    with pytest.raises(DataError, match="fewer than two classes"):
        validate([artefact], tiny_teacher, single, tmp_path, latency_runs=0)
    assert not list(tmp_path.iterdir())


def test_each_row_is_compared_with_the_one_it_comes_from(photos: Path, tiny_teacher: Path, tmp_path: Path) -> None:
    data = f"folder:{photos}"
    quick: dict[str, Any] = {"validation": 0.34, "calibration_images": 16, "latency_runs": 0, "max_drop": None}
    files = export_model(tiny_teacher, tmp_path / "e", precision="fp32,fp16,int8", data=data, **quick).files
    models = [tiny_teacher, *files.values()]
    report = validate(models, tiny_teacher, data, tmp_path / "r", latency_runs=0, bootstrap=500, index="flat")
    rows = {row["stage"]: row for row in report.content["stages"]}
    assert {name: (row["step"] or {}).get("from") for name, row in rows.items()} == {
        "teacher": None,
        "student": "teacher",
        "onnx-fp32": "student",
        "onnx-fp16": "onnx-fp32",
        "onnx-int8": "onnx-fp32",
        "onnx-int8 + flat": "onnx-int8",
    }
    step = rows["onnx-int8"]["step"]
    assert step["difference"] == pytest.approx(rows["onnx-int8"]["recall"]["1"] - rows["onnx-fp32"]["recall"]["1"])
    assert step["interval"][0] <= step["difference"] <= step["interval"][1]
    assert rows["student"]["step"] == {"from": "teacher", "difference": 0.0, "interval": [0.0, 0.0]}


def test_a_teacher_in_half_precision_is_timed_too(photos: Path, tiny_teacher: Path) -> None:
    teacher = load_model(tiny_teacher).bfloat16()
    models = open_models(open_teacher(teacher), teacher, [], EmbeddingCache(None))
    times = latencies(models, load_data(f"folder:{photos}").test, runs=1)
    assert times["teacher"][0]["median"] > 0


def test_files_of_onnx_are_validated_without_timm(tiny_onnx: Callable[..., Path], photos: Path, tmp_path: Path) -> None:
    model, teacher = tiny_onnx(tmp_path / "model.onnx"), tiny_onnx(tmp_path / "teacher.onnx")
    code = (
        "import sys; from export import validate\n"
        f"validate([{str(model)!r}], {str(teacher)!r}, 'folder:{photos}', {str(tmp_path / 'report')!r}, "
        "latency_runs=0, bootstrap=50)\n"
        "print(*sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=Path(__file__).parents[3]
    )
    assert not {"timm", "torchvision", "lightning", "transformers"} & set(done.stdout.split())
