"""Files meant for others contain no path of the machine they were made on."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from compressor import run
from export import build_index, embed_data, export_model, search_index, validate
from export.report.validation import Report
from zoo import create_model, save_model

RECORDS = {"config.yaml", "options.json"}  # what a run is repeated and resumed from; see docs/formats.md


def test_no_artefact_names_the_place_it_was_made_in(
    photos: Path, distil_options: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "Pecul1ar" / "Und3r"
    shutil.copytree(photos, root / "photos")
    data, out = f"folder:{root}/photos", root / "run"
    save_model(create_model("test_resnet", 8, image_size=32), root / "weights")
    trained = distil_options | {"arch": "test_resnet", "pretrained": f"{root}/weights/model.safetensors", "epochs": 1}
    del trained["validation"]
    quick: dict[str, Any] = {"bootstrap": 10, "latency_runs": 1}

    def again() -> Report:
        return run(
            data,
            out,
            validation=0.34,
            teacher=trained | {"dim": 16, "images_per_class": 4},
            student=trained | {"dim": 8},
            export={"precision": "fp32,int8", "max_drop": 1.0},
            report=quick
            | {"query_encoder": f"{out}/export/model-int8.onnx", "gallery_encoder": f"{out}/export/model.onnx"},
        )

    content = again().content
    assert [row["source"] for row in content["stages"] if row["stage"] == "onnx-int8"] == ["model-int8.onnx"]
    exported = export_model(out / "student", root / "shipped" / "model.onnx").files["fp32"]
    models = [out / "student", out / "export" / "model.onnx", exported]
    sources = [
        row["source"]
        for row in validate(models, str(out / "teacher"), data, root / "report", **quick).content["stages"]
    ]
    assert {"export/model.onnx", "shipped/model.onnx"} <= set(sources)
    index = build_index(exported, root / "photos", root / "index")
    embed_data(exported, data, root / "e.npz")

    made = {file.relative_to(root): file.read_bytes() for file in root.rglob("*") if file.is_file()}
    naming = {path for path, content in made.items() if b"Pecul1ar" in content or b"Und3r" in content}
    assert {path.name for path in naming} == RECORDS
    for name in ("report.html", "report.json", "inputs.json", "candidates.json", "index.json", "README.md", "e.npz"):
        assert any(path.name == name for path in made), name

    finished = (out / "report" / "report.json").stat().st_mtime_ns
    again()
    assert (out / "report" / "report.json").stat().st_mtime_ns == finished  # no path is needed to know it again
    query = next((root / "photos").rglob("*.png"))
    assert search_index(index, [query], k=1)[0][0].score == pytest.approx(1, abs=1e-5)
    (tmp_path / "Pecul1ar").rename(tmp_path / "elsewhere")
    moved = tmp_path / "elsewhere" / "Und3r"
    monkeypatch.chdir("/")
    assert search_index(moved / "index", [moved / query.relative_to(root)], k=1)[0][0].id == str(
        query.relative_to(root / "photos")
    )
