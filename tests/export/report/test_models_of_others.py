"""Models made by other tools in a report, and models measured without a teacher."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
from PIL import Image

from compressor.cli import main
from export import bench, build_index, search_index, to_onnx, validate
from tests.zoo.teachers.test_onnx_outputs import PLAIN, write
from zoo import ModelError, OptionError, load_data, load_model, measure
from zoo.models.embedding import embed
from zoo.teachers.opening import open_teacher

FAST: dict[str, Any] = {"latency_runs": 0, "bootstrap": 20, "validation": 0.34}


@pytest.fixture(scope="module")
def theirs(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A file of another make that gives mean colours, with what it must be told."""
    return f"{write(tmp_path_factory.mktemp('theirs') / 'theirs.onnx', text=True)}#pooler_output,{PLAIN}"


def test_whatever_may_be_a_teacher_may_be_a_model(
    photos: Path, tiny_teacher: Path, theirs: str, tmp_path: Path
) -> None:
    data = load_data(f"folder:{photos}", validation=0.34)
    ready = tmp_path / "ready.npz"
    vectors = np.random.default_rng(0).normal(size=(len(data.test), 4))
    np.savez(ready, ids=np.array(data.test.ids), embeddings=vectors)
    timm.models.save_for_hf(timm.create_model("test_resnet"), tmp_path / "timm", safe_serialization=True)
    named = f"timm:{tmp_path / 'timm'}"
    models = [tiny_teacher, ready, theirs, named, load_model(tiny_teacher)]
    found = validate(models, tiny_teacher, data, tmp_path / "r", min_retention=0.9, **FAST | {"latency_runs": 1})
    rows = found.content["stages"]
    trained = [row for row in rows if "baseline" not in row]
    names = ["teacher", "ready.npz", "theirs.onnx#pooler_output", "timm:timm", "ResNet", "student"]
    assert [row["stage"] for row in trained][:4] == names[:4]
    assert trained[-1]["stage"] == "student"  # what ships comes last, wherever it was named
    assert [row.get("foreign", False) for row in trained] == [False, *[True] * 4, False]
    by_name = {row["stage"]: row for row in trained}
    expected = measure(open_teacher(theirs).embed_images(data.test), data.test)
    assert by_name["theirs.onnx#pooler_output"]["recall"]["1"] == pytest.approx(expected.recall_at(1))
    assert by_name["theirs.onnx#pooler_output"]["latency_ms"]["median"] > 0
    assert by_name["ready.npz"]["latency_ms"] is None
    assert by_name["student"]["step"]["from"] == "teacher"
    assert by_name["timm:timm"]["step"] is None
    assert by_name["ResNet"]["retention"] == by_name["student"]["retention"] == pytest.approx(1)
    assert by_name["ready.npz"]["retention"] < 0.9
    assert found.passed  # gates hold for what was made here
    assert any("timm:timm: its classifier of 1,000 classes" in warning for warning in found.content["warnings"])


def test_gates_hold_for_models_of_others_where_there_are_no_ours(
    photos: Path, tiny_teacher: Path, theirs: str, tmp_path: Path
) -> None:
    found = validate([theirs], tiny_teacher, f"folder:{photos}", tmp_path, min_retention=1.5, **FAST)
    assert not found.passed
    assert "theirs.onnx#pooler_output keeps" in found.content["gate"]["reasons"][0]


def test_models_are_measured_without_a_teacher(photos: Path, tiny_teacher: Path, theirs: str, tmp_path: Path) -> None:
    data = load_data(f"folder:{photos}", validation=0.34)
    artefact = to_onnx(tiny_teacher, tmp_path / "model.onnx")
    found = validate([theirs, tiny_teacher, artefact], None, data, tmp_path / "r", index=["sq8"], **FAST)
    rows = found.content["stages"]
    assert [row["stage"] for row in rows] == ["theirs.onnx#pooler_output", "student", "onnx-fp32", "onnx-fp32 + sq8"]
    for row in rows:
        assert row["retention"] is row["retention_interval"] is row["neighbour_overlap"] is None
    expected = measure(embed(load_model(tiny_teacher), data.test), data.test)
    assert rows[1]["recall"]["1"] == pytest.approx(expected.recall_at(1))
    assert found.content["data"]["chance"] == pytest.approx(expected.chance)
    assert [row["step"] and row["step"]["from"] for row in rows] == [None, None, "student", "onnx-fp32"]
    page = (tmp_path / "r" / "report.html").read_text()
    assert "measured without a teacher" in page
    assert "Retention<br>" not in page
    with pytest.raises(OptionError, match="min_retention compares with a teacher, and teacher is null"):
        validate([artefact], None, data, tmp_path / "s", min_retention=0.9, **FAST)


def test_the_shell_measures_without_a_teacher(
    photos: Path, tiny_teacher: Path, theirs: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [str(tiny_teacher), theirs, "--data", f"folder:{photos}", "--out", str(tmp_path / "r")]
    assert main(["validate", *words, "--latency_runs=0", "--bootstrap=10"]) == 0
    printed = capsys.readouterr().out
    assert "theirs.onnx#pooler_output" in printed
    config = tmp_path / "config.yaml"
    config.write_text(f"models: ['{theirs}']\nteacher: {tiny_teacher}\ndata: 'folder:{photos}'\nbootstrap: 10\n")
    assert main(["validate", "--config", str(config), "--out", str(tmp_path / "s"), "--latency_runs=0"]) == 0
    stages = json.loads((tmp_path / "s" / "report.json").read_text())["stages"]
    assert [row["stage"] for row in stages if "baseline" not in row] == ["teacher", "theirs.onnx#pooler_output"]


def test_models_without_labels_of_classes_are_measured_without_a_teacher(spots: Path, tmp_path: Path) -> None:
    file = f"{write(tmp_path / 'theirs.onnx')}#{PLAIN}"
    options = FAST | {"continuous_labels": spots / "positions.csv"}
    found = validate([file], None, f"csv:{spots / 'images.csv'}", tmp_path / "r", **options)
    assert found.content["stages"][0]["ndcg"]["10"] > 0
    assert found.content["stages"][0]["retention"] is None


def test_bench_times_files_of_others(theirs: str, tiny_teacher: Path, tmp_path: Path) -> None:
    ours = to_onnx(tiny_teacher, tmp_path / "model.onnx")
    found = bench([ours, theirs], batch_sizes=[1, 3], threads=[1], runs=2)
    assert [entry["input"] for entry in found["files"]] == ["pixels", "tensor"]
    assert found["files"][1]["dim"] == 3
    assert found["files"][1]["bytes"] == Path(theirs.partition("#")[0]).stat().st_size
    assert [(row["file"], row["batch"]) for row in found["rows"]] == [
        (str(file), batch) for batch in (1, 3) for file in (ours, theirs)
    ]
    assert all(row["latency_ms"]["median"] > 0 for row in found["rows"])
    with pytest.raises(ModelError, match="is not an ONNX file, and bench times no other"):
        bench([f"timm:{tiny_teacher}"])


def test_indexes_are_built_with_files_of_others(photos: Path, theirs: str, tmp_path: Path) -> None:
    index = build_index(theirs, str(photos), tmp_path / "index")
    query = sorted(photos.rglob("*.png"))[5]
    (hits,) = search_index(index, [query], k=1)
    assert hits[0].id == str(query.relative_to(photos))
    other = theirs.replace("pooler_output", "last_hidden_state:cls")
    with pytest.raises(ModelError, match="was built with"):
        search_index(index, [query], model=other)
    ready = tmp_path / "ready.npz"
    np.savez(ready, ids=np.array(["a"]), embeddings=np.ones((1, 3), np.float32))
    with pytest.raises(ModelError, match="holds embeddings and embeds no images"):
        build_index(ready, str(photos), tmp_path / "other")
    assert Image.open(query).size
