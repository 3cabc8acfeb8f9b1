"""Baselines are computed as defined, and one that cannot be made is reported."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
from safetensors.torch import save_file

from export import to_onnx, validate
from zoo import ModelError, OptionError, load_data, measure
from zoo.data.image_set import DataSplits, ImageSet
from zoo.files import digest, write_json
from zoo.models.embedding import embed_pooled
from zoo.models.facts import ModelFacts, set_facts
from zoo.models.folder import save_model
from zoo.models.making import create_model

QUICK: dict[str, Any] = {"bootstrap": 50, "latency_runs": 0}
NETWORK: dict[str, Any] = {"image_size": 32, "crop_pct": 1.0}
OWN, PROJECTED = "test_resnet as it comes, PCA to 8", "teacher, PCA to 8"


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "w.safetensors"
    save_file(timm.create_model("test_resnet").state_dict(), path)
    return path


def student(folder: Path, weights: Path | str | bool, dim: int = 8, **facts: Any) -> Path:
    """Save a student that says what it was made from, and has learned nothing."""
    model = create_model("test_resnet", dim, **NETWORK)
    options = {"arch": "test_resnet", "dim": dim, **NETWORK}
    options["pretrained"] = str(weights) if isinstance(weights, Path) else weights
    if isinstance(weights, Path):
        options["pretrained_digest"] = digest(weights)[:16]
    set_facts(model, ModelFacts(options=options, **facts))
    save_model(model, folder)
    write_json(folder / "options.json", options)
    return folder


@pytest.fixture(scope="module")
def small(weights: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return student(tmp_path_factory.mktemp("student") / "student", weights)


@pytest.fixture(scope="module")
def data(photos: Path) -> DataSplits:
    return load_data(f"folder:{photos}")


def teacher_of(*parts: ImageSet) -> dict[str, np.ndarray]:
    """Return embeddings of 12 dimensions that know the class, on another scale each."""
    random = np.random.default_rng(0)
    rows = {}
    for part in parts:
        assert part.labels is not None
        for name, label in zip(part.ids, part.labels, strict=True):
            rows[name] = (np.eye(12)[label] + random.normal(0, 0.35, 12)) * np.linspace(2, 0.5, 12)
    return rows


@pytest.fixture(scope="module")
def teacher(data: DataSplits) -> dict[str, np.ndarray]:
    return teacher_of(data.train, data.validation, data.test)


def by_pca(fitted: np.ndarray, vectors: np.ndarray, dim: int) -> np.ndarray:
    """Project by the textbook: principal axes of the centred, normalised rows, from their singular vectors."""
    rows = fitted / np.linalg.norm(fitted, axis=1, keepdims=True)
    axes = np.linalg.svd(rows - rows.mean(axis=0), full_matrices=False)[2][:dim]
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True) @ axes.T


def stages_of(content: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {stage["stage"]: stage for stage in content["stages"]}


def test_baselines_are_what_their_names_say(
    data: DataSplits, teacher: dict[str, np.ndarray], small: Path, weights: Path, tmp_path: Path
) -> None:
    report = validate(small, teacher, data, tmp_path / "r", **QUICK)
    rows = stages_of(report.content)
    assert list(rows) == ["teacher", PROJECTED, OWN, "student"]
    assert [stage.get("baseline") for stage in rows.values()] == [None, "teacher-pca", "student", None]
    network = create_model("test_resnet", 8, weights, None, 32, 1.0)
    untested = [*data.train.ids, *data.validation.ids]
    expected = {
        PROJECTED: by_pca(*(np.stack([teacher[i] for i in ids]) for ids in (untested, data.test.ids)), 8),
        OWN: by_pca(
            np.concatenate([embed_pooled(network, part) for part in (data.train, data.validation)]),
            embed_pooled(network, data.test),
            8,
        ),
    }
    for name, vectors in expected.items():
        result = measure(vectors, data.test)
        assert rows[name]["recall"]["1"] == pytest.approx(result.recall_at(1), abs=1e-9)
        assert rows[name]["map_at_r"] == pytest.approx(float(result.average_precision.mean()), abs=1e-5)
        assert rows[name]["retention"] == pytest.approx(rows[name]["recall"]["1"] / rows["teacher"]["recall"]["1"])
        assert rows[name]["dim"] == 8 and rows[name]["step"] is None and rows[name]["latency_ms"] is None
    assert rows["student"]["step"]["from"] == "teacher"
    verdict = report.content["verdict"]
    entry = verdict["comparisons"][0]
    assert (entry["stage"], entry["baseline"]) == ("student", OWN)
    difference = rows["student"]["map_at_r"] - rows[OWN]["map_at_r"]
    assert entry["map_at_r"]["difference"] == pytest.approx(difference)
    page = (tmp_path / "r" / "report.html").read_text()
    assert page.index(verdict["sentence"][:40]) < page.index("student keeps")
    assert f"{OWN} (baseline)" in page and "Retrieval report: student on" in page


def test_baselines_can_be_left_out_but_not_where_they_are_asked_for(
    data: DataSplits, teacher: dict[str, np.ndarray], small: Path, tmp_path: Path
) -> None:
    report = validate(small, teacher, data, tmp_path / "r", baselines=False, **QUICK)
    assert list(stages_of(report.content)) == ["teacher", "student"] and report.content["verdict"] is None
    with pytest.raises(OptionError, match="min_gain compares with a baseline, and baselines is false"):
        validate(small, teacher, data, tmp_path / "r", baselines=False, min_gain=0.0)
    with pytest.raises(OptionError, match="min_gain is 2"):
        validate(small, teacher, data, tmp_path / "r", min_gain=2)
    with pytest.raises(OptionError, match="Unknown gain_by 'median'"):
        validate(small, teacher, data, tmp_path / "r", min_gain=0, gain_by="median")


@pytest.mark.parametrize(
    ("how", "why"),
    [
        ("gone", "the weights it began with, w.safetensors, are not found, or are others now"),
        ("others", "the weights it began with, w.safetensors, are not found, or are others now"),
        ("moved", "the weights it began with, w.safetensors, are not found, or are others now"),
        ("broken", "options.json is not valid JSON"),
    ],
)
def test_weights_that_are_not_found_cost_a_row_and_a_gate_but_no_report(
    how: str, why: str, data: DataSplits, teacher: dict[str, np.ndarray], weights: Path, tmp_path: Path
) -> None:
    file = tmp_path / "w.safetensors"
    shutil.copy(weights, file)
    folder = student(tmp_path / "student", file)
    if how == "gone":
        file.unlink()
    elif how == "others":
        file.write_bytes(b"others")
    elif how == "moved":
        folder = folder.rename(tmp_path / "moved")
        (folder / "options.json").unlink()
    else:
        (folder / "options.json").write_text("{")
    report = validate(folder, teacher, data, tmp_path / "r", min_gain=0.0, **QUICK)
    assert list(stages_of(report.content)) == ["teacher", PROJECTED, "student"]
    (note,) = report.content["verdict"]["notes"]
    assert note.startswith("No baseline of the network as it comes for student: ") and why in note
    assert not report.passed and report.content["verdict"]["outcome"] == "unknown"
    (reason,) = report.content["gate"]["reasons"]
    assert "student has no network as it comes to be compared with" in reason and why in reason


def test_weights_that_cannot_be_downloaded_are_warned_of(
    data: DataSplits,
    teacher: dict[str, np.ndarray],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def offline(arch: str) -> dict[str, Any]:
        raise ModelError(f"The published weights of {arch} cannot be downloaded.")

    monkeypatch.setattr("zoo.models.making._published_weights", offline)
    report = validate(student(tmp_path / "student", True), teacher, data, tmp_path / "r", min_gain=0.0, **QUICK)
    (warning,) = [text for text in report.content["warnings"] if "cannot be downloaded" in text]
    assert warning.startswith("No baseline test_resnet as it comes: The published") and warning in caplog.text
    (reason,) = report.content["gate"]["reasons"]
    assert "student has no network as it comes to be compared with" in reason and "cannot be downloaded" in reason


def test_a_moved_student_with_its_options_and_a_teacher_in_memory_keep_their_baselines(
    data: DataSplits, weights: Path, tmp_path: Path
) -> None:
    folder = student(tmp_path / "student", weights).rename(tmp_path / "moved")
    in_memory = create_model("test_resnet", 16, **NETWORK)
    set_facts(in_memory, ModelFacts(options={"arch": "test_resnet", "pretrained": str(weights), **NETWORK}))
    rows = stages_of(validate(folder, in_memory, data, tmp_path / "r", **QUICK).content)
    assert list(rows) == ["teacher", PROJECTED, OWN, "test_resnet as it comes", "student"]
    assert rows[OWN]["source"] == weights.name


def test_an_onnx_file_has_its_folders_baseline_or_none(
    data: DataSplits, teacher: dict[str, np.ndarray], small: Path, tmp_path: Path
) -> None:
    file = to_onnx(small, tmp_path / "model.onnx")
    alone = validate(file, teacher, data, tmp_path / "a", **QUICK).content
    assert list(stages_of(alone)) == ["teacher", PROJECTED, "onnx-fp32"]
    assert alone["verdict"]["notes"] == [
        "No baseline of the network as it comes for onnx-fp32: an .onnx file does not say which weights its network "
        "began with; give its model folder too."
    ]
    both = validate([small, file], teacher, data, tmp_path / "b", **QUICK).content["verdict"]
    assert [entry["stage"] for entry in both["comparisons"] if entry["kind"] == "student"] == ["student", "onnx-fp32"]
    assert both["notes"] == [] and "(onnx-fp32)" in both["sentence"]


@pytest.mark.parametrize("pretrained", [False, ["a"], 3, ""])
def test_a_student_of_random_weights_has_no_network_to_go_back_to(
    pretrained: Any, data: DataSplits, teacher: dict[str, np.ndarray], tmp_path: Path
) -> None:
    folder = student(tmp_path / "student", pretrained)
    verdict = validate(folder, teacher, data, tmp_path / "r", **QUICK).content["verdict"]
    assert [entry["kind"] for entry in verdict["comparisons"]] == ["teacher-pca"]
    assert "for student: it was not made from pretrained weights." in verdict["notes"][0]


def test_without_training_images_nothing_is_projected(photos: Path, small: Path, weights: Path, tmp_path: Path) -> None:
    data = load_data(f"folder:{photos}", "all-test")
    teacher = teacher_of(data.test)
    content = validate(small, teacher, data, tmp_path / "r", **QUICK).content
    assert list(stages_of(content)) == ["teacher", "student"]
    assert all("has no training images that PCA could be fitted on" in note for note in content["verdict"]["notes"])
    assert len(content["verdict"]["notes"]) == 2
    wide = student(tmp_path / "wide", weights, dim=256)  # its features need no projection
    content = validate(wide, teacher, data, tmp_path / "w", **QUICK).content
    name = "test_resnet as it comes"
    assert list(stages_of(content)) == ["teacher", name, "student"]
    vectors = embed_pooled(create_model("test_resnet", 8, weights, None, 32, 1.0), data.test)
    assert stages_of(content)[name]["map_at_r"] == pytest.approx(
        float(measure(vectors, data.test).average_precision.mean()), abs=1e-6
    )
    assert stages_of(content)[name]["dim"] == vectors.shape[1] < 256


def test_ready_embeddings_of_some_training_images_are_fitted_on_those(
    data: DataSplits, teacher: dict[str, np.ndarray], small: Path, tmp_path: Path
) -> None:
    held = data.train.ids[::2]
    some = {name: row for name, row in teacher.items() if name in {*held, *data.test.ids}}
    rows = stages_of(validate(small, some, data, tmp_path / "s", **QUICK).content)
    vectors = by_pca(*(np.stack([teacher[i] for i in ids]) for ids in (held, data.test.ids)), 8)
    expected = float(measure(vectors, data.test).average_precision.mean())
    assert rows[PROJECTED]["map_at_r"] == pytest.approx(expected, abs=1e-5)
    content = validate(small, teacher_of(data.test), data, tmp_path / "n", **QUICK).content
    assert PROJECTED not in stages_of(content) and OWN in stages_of(content)
    assert content["verdict"]["notes"] == [
        "No baseline teacher, PCA to 8: embeddings has embeddings of 0 training images, and PCA needs two."
    ]


def test_the_teachers_network_as_it_comes_stands_beside_it(
    data: DataSplits, small: Path, weights: Path, tmp_path: Path
) -> None:
    teacher = student(tmp_path / "teacher", weights, dim=16)
    rows = stages_of(validate(small, teacher, data, tmp_path / "r", **QUICK).content)
    name = "test_resnet as it comes"
    assert list(rows) == ["teacher", PROJECTED, OWN, name, "student"] and rows[name]["baseline"] == "teacher"
    vectors = embed_pooled(create_model("test_resnet", 8, weights, None, 32, 1.0), data.test)
    assert rows[name]["recall"]["1"] == pytest.approx(measure(vectors, data.test).recall_at(1))
    assert rows[name]["dim"] == vectors.shape[1]
    (teacher / "options.json").unlink()
    set_aside = weights.rename(weights.with_name("aside.safetensors"))
    try:
        content = validate(small, teacher, data, tmp_path / "m", **QUICK).content
    finally:
        set_aside.rename(weights)
    assert name not in stages_of(content)
    note = content["verdict"]["notes"][-1]
    assert "as it comes for teacher: the weights it began with, w.safetensors, are not found" in note


def test_a_gate_on_constant_embeddings_fails(data: DataSplits, small: Path, tmp_path: Path) -> None:
    constant = {name: np.ones(4) for name in (*data.train.ids, *data.test.ids)}
    report = validate(small, constant, data, tmp_path / "g", min_retention=0.9, **QUICK)
    assert not report.passed
    assert "The teacher (embeddings) is no better than chance: Recall@1" in report.content["gate"]["reasons"][-1]
    report = validate(small, constant, data, tmp_path / "n", **QUICK)
    assert report.passed and "is no better than chance" in report.content["warnings"][0]
    assert json.loads((tmp_path / "n" / "report.json").read_text())["warnings"] == report.content["warnings"]


def test_another_teacher_than_the_one_it_learned_from_is_told(
    data: DataSplits, teacher: dict[str, np.ndarray], tmp_path: Path
) -> None:
    folder = student(tmp_path / "student", False, teacher={"name": "big", "digest": "0123"})
    file = to_onnx(folder, tmp_path / "model.onnx")
    warnings = validate([folder, file], teacher, data, tmp_path / "r", **QUICK).content["warnings"]
    told = [text for text in warnings if "distilled from" in text]
    assert [text.split()[0] for text in told] == ["student", "onnx-fp32"]
    assert "was distilled from teacher big (digest 0123) and is compared with embeddings (digest " in told[0]
