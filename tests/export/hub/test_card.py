"""The card: metadata that hubs read, measured figures, and the text for unknown facts."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import ModelCard

import export.shipping
from export import validate
from export.hub.folder import write_hub
from export.hub.measured import find_report
from zoo.errors import OptionError
from zoo.models.facts import ModelFacts, set_facts
from zoo.models.folder import load_model, save_model
from zoo.models.making import create_model

pytestmark = pytest.mark.usefixtures("quick_export")


def stage(name: str, source: Path | str, recall: float, **fields: Any) -> dict[str, Any]:
    measured = {"recall": {"1": recall, "10": 1.0}, "map_at_r": 0.5, "retention": recall / 0.8}
    measured |= {"retention_interval": [0.9, 1.1], "metric": "cosine", "dim": 8, "architecture": "test_resnet"}
    measured |= {"parameters": 1, "bytes": 2_000_000, "latency_ms": {"median": 1.25, "p95": 2.0, "threads": 1}}
    return {"stage": name, "source": str(source)} | measured | fields


@pytest.fixture
def run_folder(tmp_path: Path) -> Path:
    """A run: a student and a report on it."""
    model = create_model("test_resnet", 8, image_size=32).eval()
    facts = ModelFacts(loss="relaxed_contrastive", data={"name": "folder:photos", "train": {"images": 1200}})
    facts.options = {"arch": "resnet18.a1_in1k", "pretrained": True}
    facts.teacher = {"name": "hf:facebook/dinov2-small#cls", "digest": "0123abcd"}
    set_facts(model, facts)
    save_model(model, tmp_path / "student")
    content = {
        "data": {"name": "folder:/home/me/photos", "split": "first-half", "queries": 40, "gallery": 40},
        "machine": {"processor": "A <b>Processor</b> | 9"},
        "stages": [
            stage("teacher", tmp_path / "teacher", 0.8, dim=384),
            stage("student", tmp_path / "student", 0.75),
            stage("student, other", tmp_path / "elsewhere", 0.1),
        ],
    }
    (tmp_path / "report").mkdir()
    (tmp_path / "report" / "report.json").write_text(json.dumps(content))
    return tmp_path


def card_of(folder: Path) -> ModelCard:
    return ModelCard.load(folder / "README.md", ignore_metadata_errors=False)


def test_the_metadata_are_what_huggingface_hub_parses(run_folder: Path) -> None:
    write_hub(run_folder / "student", run_folder / "out", license="apache-2.0")
    data = card_of(run_folder / "out").data
    assert (data.pipeline_tag, data.library_name, data.license) == ("image-feature-extraction", "timm", "apache-2.0")
    assert data.base_model == ["timm/resnet18.a1_in1k", "facebook/dinov2-small"]
    found = {result.metric_name: result for result in data.eval_results}
    assert found["Recall@1 (student)"].metric_value == 0.75
    assert found["Recall@1 (student)"].dataset_name == "folder:photos"  # without places of the machine
    assert found["share of the teacher's first measure (student)"].metric_args == {"interval_95": [0.9, 1.1]}
    assert len(found) == 4  # of this model alone: Recall@1 and @10, MAP@R, the share


def test_the_figures_of_the_run_are_in_the_text(run_folder: Path) -> None:
    write_hub(run_folder / "student", run_folder / "out", license="apache-2.0")
    text = card_of(run_folder / "out").text
    assert "| student | 75.00 | 50.00 | 93.75 [90.00, 110.00] | 2.00 | 1.25 |" in text
    assert "(40 queries, 40 gallery)" in text and "elsewhere" not in text and "other" not in text.split("## Use")[0]
    assert "apache-2.0 according to timm" in text and "hf:facebook/dinov2-small" in text and "| 1,200 |" in text


@pytest.mark.parametrize("named", [True, False])
def test_a_report_without_a_teacher_gives_its_other_figures(named: bool, run_folder: Path) -> None:
    report = run_folder / "report" / "report.json"
    content = json.loads(report.read_text())
    content["stages"] = [
        each | {"retention": None, "retention_interval": None, "neighbour_overlap": None}
        for each in content["stages"][1:]
    ]
    report.write_text(json.dumps(content))
    write_hub(run_folder / "student", run_folder / "out", report=report if named else None)
    card = card_of(run_folder / "out")
    assert "| student | 75.00 | 50.00 | – | 2.00 | 1.25 |" in card.text
    names = {result.metric_name for result in card.data.eval_results}
    assert {"Recall@1 (student)", "MAP@R (student)"} <= names and not any("share" in name for name in names)


def test_without_a_report_nothing_is_claimed(run_folder: Path) -> None:
    save = run_folder / "alone" / "student"
    (run_folder / "student").rename(run_folder / "moved")
    save.parent.mkdir()
    (run_folder / "moved").rename(save)
    write_hub(save, run_folder / "out", license="mit")
    card = card_of(run_folder / "out")
    assert card.data.eval_results is None and "No report was given" in card.text


def test_a_licence_that_is_not_known_is_said_to_be(run_folder: Path) -> None:
    write_hub(run_folder / "student", run_folder / "out")
    card = card_of(run_folder / "out")
    assert card.data.license == "unknown" and "**The licence is not known.**" in card.text


def test_a_report_on_another_model_is_refused(run_folder: Path) -> None:
    report = run_folder / "report" / "report.json"
    content = json.loads(report.read_text())
    content["stages"] = [stage("student", "x", 0.5, dim=64), stage("teacher", "y", 0.8)]
    report.write_text(json.dumps(content))
    with pytest.raises(OptionError, match="measured no test_resnet with 8 dimensions, but test_resnet with 64"):
        write_hub(run_folder / "student", run_folder / "out", report=report)
    with pytest.raises(OptionError, match=r"is not a report\.json"):
        write_hub(run_folder / "student", run_folder / "out", report=run_folder / "nowhere.json")


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"recall": {"1": "x"}}, r"recall is \{'1': 'x'\}; it must be numbers by K"),
        ({"retention": None, "retention_interval": [0.5]}, r"retention_interval is \[0.5\]"),
        ({"retention": None, "retention_interval": None}, r"retention_interval is None"),  # beside a teacher
        ({"latency_ms": {"median": []}}, r"median is \[\]"),
        ({"stage": 3}, "stage is 3; it must be text"),
    ],
)
def test_a_report_with_other_values_than_figures_is_refused(
    changed: dict[str, Any], message: str, run_folder: Path
) -> None:
    report = run_folder / "report" / "report.json"
    content = json.loads(report.read_text())
    content["stages"][1] |= changed
    report.write_text(json.dumps(content))
    network = load_model(run_folder / "student")
    with pytest.raises(OptionError, match=rf"is not a report\.json \({message}"):
        find_report(report, run_folder / "student", network)
    assert find_report(None, run_folder / "student", network) is None


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
def test_fastembed_is_named_only_where_it_can_be_right(metric: str, tmp_path: Path) -> None:
    save_model(create_model("test_resnet", 8, image_size=32, metric=metric).eval(), tmp_path / "student")
    write_hub(tmp_path / "student", tmp_path / "out")
    text = (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    assert ("from fastembed import" in text) == (metric == "cosine")
    assert ("it cannot be used there" in text) == (metric == "euclidean")
    assert ("normalize(embedding)" in text) == (metric == "cosine")


def test_a_report_that_names_no_absolute_paths_is_found(photos: Path, tiny_teacher: Path, tmp_path: Path) -> None:
    student = tmp_path / "student"
    shutil.copytree(tiny_teacher, student)
    file = export.shipping.export_model(student, tmp_path / "export").files["fp32"]
    quick: dict[str, Any] = {"latency_runs": 0, "baselines": False, "bootstrap": 50}
    report = validate([student, file], tiny_teacher, f"folder:{photos}", tmp_path / "report", **quick)
    assert str(tmp_path) not in json.dumps(report.content)
    found = find_report(None, student, load_model(student))
    assert found is not None
    assert [stage["stage"] for stage in found.stages] == ["student", "onnx-fp32"]
    shutil.copytree(tmp_path, tmp_path.with_name("other"))
    trained = load_model(tmp_path.with_name("other") / "student")
    next(trained.parameters()).data += 1
    save_model(trained, tmp_path.with_name("other") / "student")  # since the report
    assert find_report(None, tmp_path.with_name("other") / "student", trained) is None
