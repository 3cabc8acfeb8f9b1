"""LiteRT files: embeddings, metadata, and when they are refused. Most of it runs in make test-litert."""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from compressor import ship
from compressor.cli import main
from export import export_model, validate
from export.int8.budget import Budget
from export.litert.mediapipe import embedder_metadata
from export.litert.shipping import _require_recall
from zoo import ModelError, OptionError, load_data, load_model
from zoo.errors import MissingExtraError, RefusedError
from zoo.models.embedding import embed
from zoo.teachers.opening import open_teacher

DATA: dict[str, Any] = {"validation": 0.34, "judged_images": 40, "calibration_images": 24}


def test_without_the_extra_it_is_named(
    tiny_teacher: Path, without: Callable[..., AbstractContextManager[None]], tmp_path: Path
) -> None:
    with without("litert_torch"), pytest.raises(MissingExtraError, match=r"embedding-compressor\[litert\]"):
        export_model(tiny_teacher, tmp_path / "model.tflite")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"precision": "auto", "data": "folder:x"}, "in fp32 or int8; precision is auto"),
        ({"precision": "fp32,int8", "data": "folder:x"}, "precision is fp32,int8"),
        ({"precision": "int8"}, "Precision int8 needs data"),
        ({"input": "tensor"}, "Leave input out"),
        ({"parity": True}, "Leave parity, layout, teacher, loss and qat_epochs out"),
        ({"layout": "hub"}, "Leave parity, layout, teacher, loss and qat_epochs out"),
        ({"teacher": "t.npz"}, "a file alone, of the student as it is. Leave parity, layout, teacher"),
        ({"loss": "pkt"}, "a file alone, of the student as it is. Leave parity, layout, teacher"),
    ],
)
def test_options_that_a_litert_file_does_not_have(
    options: dict[str, Any], message: str, tiny_teacher: Path, tmp_path: Path
) -> None:
    with pytest.raises(OptionError, match=message):
        ship(tiny_teacher, tmp_path / "model.tflite", **options)
    assert list(tmp_path.iterdir()) == []


@pytest.fixture(scope="module")
def exported(tiny_teacher: Path, photos: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The files "fp32" and "int8", judged."""
    pytest.importorskip("litert_torch")
    folder = tmp_path_factory.mktemp("litert")
    data: dict[str, Any] = {"data": f"folder:{photos}", "max_drop": 0.1, **DATA}
    found = {}
    for precision in ("fp32", "int8"):
        files = export_model(tiny_teacher, folder / f"{precision}.tflite", precision=precision, **data).files
        assert files == {precision: folder / f"{precision}.tflite"}
        found |= files
    return found


def test_fp32_gives_what_the_network_gives(exported: dict[str, Path], tiny_teacher: Path, photos: Path) -> None:
    images = load_data(f"folder:{photos}", validation=0.34).test
    model = open_teacher(exported["fp32"])
    expected = embed(load_model(tiny_teacher), images)
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    assert (model.metric, model.ships, model.input_size) == ("cosine", True, (32, 32))
    np.testing.assert_allclose(model.embed_images(images), expected, atol=1e-5)


def test_int8_is_smaller_and_near(exported: dict[str, Path], photos: Path) -> None:
    images = load_data(f"folder:{photos}", validation=0.34).test
    full, small = (open_teacher(exported[precision]).embed_images(images) for precision in ("fp32", "int8"))
    assert exported["int8"].stat().st_size < 0.6 * exported["fp32"].stat().st_size
    assert (full * small).sum(axis=1).min() > 0.9
    np.testing.assert_allclose(np.linalg.norm(small, axis=1), 1, atol=1e-5)


def test_the_gate_of_validate_holds(
    exported: dict[str, Path], tiny_teacher: Path, photos: Path, tmp_path: Path
) -> None:
    options: dict[str, Any] = {"latency_runs": 1, "bootstrap": 20, "baselines": False, "validation": 0.34}
    models = list(exported.values())
    report = validate(models, tiny_teacher, f"folder:{photos}", tmp_path, min_retention=1.5, **options)
    _, full, small = report.content["stages"]
    assert (full["runtime"], full["architecture"], full["retention"]) == ("litert", "test_resnet", pytest.approx(1))
    assert full["bytes"] == exported["fp32"].stat().st_size > small["bytes"]
    (reason,) = report.content["gate"]["reasons"]
    assert "fp32.tflite keeps" in reason and "int8.tflite keeps" in reason


def test_a_file_that_loses_recall_is_refused(
    exported: dict[str, Path],
    tiny_teacher: Path,
    photos: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Converted from weights of chance, as by a converter with a fault; the torch model is not asked in int8."""
    from export.litert import shipping

    converted = exported["fp32"].read_bytes()
    broken = np.random.default_rng(0)
    monkeypatch.setattr(shipping, "convert", lambda *given: converted)
    monkeypatch.setattr(shipping, "quantize", lambda *given: converted)
    monkeypatch.setattr(
        shipping.LiteRtTeacher, "embed_resized", lambda self, pixels: broken.normal(size=(1, 32)).astype(np.float32)
    )
    out = tmp_path / "model.tflite"
    out.write_bytes(b"an older one")
    with pytest.raises(RefusedError, match=r"int8 for LiteRT: Recall@1 .* points below fp32's .* the budget is 0\.5"):
        export_model(tiny_teacher, out, precision="int8", data=f"folder:{photos}", **DATA)
    assert not out.exists()
    words = [str(tiny_teacher), str(out), "--precision", "int8", "--data", f"folder:{photos}", "--validation", "0.34"]
    assert main(["export", *words, "--judged_images", "40"]) == 3
    assert "Refused: int8 for LiteRT" in capsys.readouterr().err and not out.exists()
    with pytest.raises(ModelError, match="differs from the model by"):
        export_model(tiny_teacher, out)


@pytest.mark.parametrize(("precision", "remedy"), [("int8", "Ship fp32, or raise"), ("fp32", "Export to .onnx, or")])
def test_a_refusal_offers_another_file_than_the_refused(precision: str, remedy: str) -> None:
    scores = iter([np.ones(4), np.zeros(4)])
    judge = SimpleNamespace(tensors=[np.zeros((4, 3, 2, 2), np.float32)], name="Recall@1", seed=0)
    judge.embed, judge.measure = (lambda *args, **options: None), (lambda *args: (next(scores), None))
    normalize = SimpleNamespace(std=1.0, mean=0.0)
    traced = SimpleNamespace(
        graphs=SimpleNamespace(network=None), whole=SimpleNamespace(preprocess=SimpleNamespace(normalize=normalize))
    )
    written = SimpleNamespace(embed_resized=lambda pixels: np.zeros((1, 2), np.float32))
    with pytest.raises(RefusedError, match=f"^{precision} for LiteRT: .* not written\\. {remedy}"):
        _require_recall(judge, traced, written, Budget(0.005, "mean"), precision)  # type: ignore[arg-type]


def test_a_file_of_another_make_says_which_options_follow_its_name(exported: dict[str, Path], tmp_path: Path) -> None:
    content = exported["fp32"].read_bytes()
    with zipfile.ZipFile(exported["fp32"]) as archive:
        (tmp_path / "other.tflite").write_bytes(content[: min(each.header_offset for each in archive.infolist())])
    (note,) = open_teacher(tmp_path / "other.tflite").notes
    assert "add what is right to the name, such as other.tflite#mean=0.5,std=0.5,resize=squash." in note
    assert open_teacher(f"{tmp_path / 'other.tflite'}#mean=0,std=1").notes == ()


def test_mediapipe_opens_the_file_and_finds_what_it_needs(exported: dict[str, Path]) -> None:
    """An image of the input's size needs no resize, so nothing may differ."""
    mediapipe = pytest.importorskip("mediapipe")
    from mediapipe.tasks.metadata import metadata_schema_py_generated as schema
    from mediapipe.tasks.python import BaseOptions, vision

    said = schema.ModelMetadataT.InitFromPackedBuf(embedder_metadata("a name", "What it does."), 0)
    assert (said.name, said.description) == (b"a name", b"What it does.")
    (image,), (embedding,) = said.subgraphMetadata[0].inputTensorMetadata, said.subgraphMetadata[0].outputTensorMetadata
    assert (image.name, embedding.name) == (b"image", b"embedding")
    assert image.content.contentProperties.colorSpace == schema.ColorSpaceType.RGB
    normalized = image.processUnits[0].options
    assert (list(normalized.mean), list(normalized.std)) == ([0], [1])
    assert embedding.content.contentPropertiesType == schema.ContentProperties.FeatureProperties
    pixels = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    options = vision.ImageEmbedderOptions(BaseOptions(model_asset_path=str(exported["fp32"])))
    with vision.ImageEmbedder.create_from_options(options) as embedder:
        found = embedder.embed(mediapipe.Image(image_format=mediapipe.ImageFormat.SRGB, data=pixels))
    expected = open_teacher(exported["fp32"]).embed_pixels(pixels)[0]
    np.testing.assert_allclose(found.embeddings[0].embedding, expected, atol=1e-5)
