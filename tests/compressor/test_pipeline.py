"""A run reuses finished work only if it is unchanged and made from exactly the same models."""

from __future__ import annotations

import json
from functools import wraps
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from torch import nn

from compressor import pipeline
from compressor.pipeline import read_record
from export.report.validation import Report
from export.shipping import Exported
from zoo import create_model, save_model
from zoo.errors import DataError, OptionError
from zoo.files import write_json
from zoo.teachers.base import Teacher


@pytest.fixture
def student(tmp_path: Path) -> Path:
    folder = tmp_path / "student"
    folder.mkdir()
    (folder / "model.safetensors").write_bytes(b"weights")
    (folder / "config.json").write_text('{"crop_pct": 0.9}')
    return folder


def test_export_is_reused_until_weights_configuration_or_files_change(
    student: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    made: list[Path] = []

    def ship(model: Path, folder: Path, **options: Any) -> Exported:
        folder.mkdir(exist_ok=True)
        (folder / "model.onnx").write_bytes(b"graph")
        made.append(folder)
        return Exported({"fp32": folder / "model.onnx"})

    def times() -> int:
        pipeline._export(
            student,
            "teacher",
            SimpleNamespace(digest="d"),
            tmp_path / "export",
            {},
            {"precision": "fp32", "input": "pixels"},
        )  # type: ignore[arg-type]
        return len(made)

    monkeypatch.setattr(pipeline, "ship", ship)
    assert (times(), times()) == (1, 1)
    (tmp_path / "export" / "model.onnx").write_bytes(b"grapi")
    assert (times(), times()) == (2, 2) and "model.onnx was changed or removed" in caplog.text
    (student / "config.json").write_text('{"crop_pct": 0.8}')
    assert (times(), times()) == (3, 3)
    (student / "model.safetensors").write_bytes(b"other")
    assert (times(), times()) == (4, 4)
    record = json.loads((tmp_path / "export" / "inputs.json").read_text())
    del record["made"]  # of an earlier version
    write_json(tmp_path / "export" / "inputs.json", record)
    assert times() == 4


def test_a_report_is_reused_until_a_teachers_weights_beside_it_or_the_report_change(
    student: Path, tiny_onnx: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import onnx

    made: list[Path] = []
    teacher = tmp_path / "teacher.onnx"
    onnx.save(
        onnx.load(tiny_onnx(tmp_path / "tiny.onnx")),
        teacher,
        save_as_external_data=True,
        location="teacher.onnx.data",
        size_threshold=50,
    )

    def validate(models: list[Path], given: Path, splits: Any, folder: Path, **options: Any) -> Report:
        content: dict[str, Any] = {"gate": {"passed": True}, "stages": [], "data": {}}
        write_json(folder / "report.json", content)
        made.append(folder)
        return Report(folder, content, True)

    def times() -> int:
        options = {"query_encoder": None, "gallery_encoder": None}
        assert pipeline._report([student], teacher, SimpleNamespace(digest="d"), tmp_path / "report", options).passed  # type: ignore[arg-type]
        return len(made)

    monkeypatch.setattr(pipeline, "validate", validate)
    assert (times(), times()) == (1, 1)
    weights = tmp_path / "teacher.onnx.data"
    weights.write_bytes(weights.read_bytes()[::-1])
    assert (times(), times()) == (2, 2)
    report = tmp_path / "report" / "report.json"
    report.write_text(report.read_text().replace("true", "false"))
    assert (times(), times()) == (3, 3)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("inputs.json", "[]"),
        ("inputs.json", '{"files": 5}'),
        ("inputs.json", '{"files": [5]}'),
        ("inputs.json", '{"files": ["../../x.onnx"]}'),
        ("inputs.json", '{"made": {"/etc/hostname": "x"}}'),
        ("inputs.json", '{"refused": {"found": "x"}}'),
        ("inputs.json", "[" * 100_000),
        ("report.json", "{}"),
        ("report.json", '{"gate": {"passed": 1}, "stages": [], "data": {}}'),
        ("candidates.json", '{"candidates": {}}'),
    ],
)
def test_records_of_the_wrong_kind_are_named(name: str, content: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(OptionError, match=rf"{name} is not valid JSON of a run .*Delete its folder"):
        read_record(tmp_path / name)


def test_a_teacher_that_is_no_path_is_opened_once_for_all_stages(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[Any] = []

    def stage(*arguments: Any, **options: Any) -> Path:
        given.extend(each for each in arguments if isinstance(each, Teacher))
        return tmp_path

    monkeypatch.setattr(pipeline, "distill", wraps(pipeline.distill)(stage))
    monkeypatch.setattr(pipeline, "_export", lambda *arguments: ([stage(*arguments)], None))
    monkeypatch.setattr(pipeline, "_report", stage)
    student = {"arch": "test_resnet", "image_size": 32}
    save_model(create_model("test_resnet", 8, image_size=32), tmp_path / "model")
    network = nn.Sequential(nn.AvgPool2d(32), nn.Flatten())
    for number, teacher in enumerate((network, f"timm:{tmp_path / 'model'}", {"no": np.ones(8)})):
        given.clear()
        out = tmp_path / f"run{number}"
        if isinstance(teacher, dict):
            with pytest.raises(DataError, match="has no embedding for image"):
                pipeline.run(photos, out, given_teacher=teacher, student=student)
            continue
        pipeline.run(photos, out, given_teacher=teacher, student=student)
        assert len(given) == 3 and given[0] is given[1] is given[2]
        assert (
            f"given_teacher: {teacher if isinstance(teacher, str) else 'Sequential'}\n"
            in (out / "config.yaml").read_text()
        )
