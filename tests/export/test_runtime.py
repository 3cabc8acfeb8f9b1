from __future__ import annotations

import io
import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from PIL import Image, features

from export import Embedder
from export.onnx.tracing import smooth_images
from export.report.measured_models import _onnx, latencies
from export.runtime import preprocessing_in_words
from zoo import DataError, ModelError, OptionError, load_data
from zoo.models.preprocessing import Preprocess, Preprocessing
from zoo.teachers.onnx_file import OnnxTeacher


def prepared(file: Path, images: np.ndarray) -> np.ndarray:
    preprocessing = Preprocessing.of(json.loads(Embedder(file).metadata["preprocessing"]))
    return Preprocess(preprocessing)(torch.from_numpy(images)).numpy()


@pytest.mark.parametrize(
    ("name", "precision", "least_cosine"),
    [("fp32", "fp32", 1 - 1e-6), ("fp16", "fp16", 0.9999), ("int8", "int8", 0.99), ("dynamic", "int8", 0.99)],
)
def test_every_precision(files: dict[str, Path], name: str, precision: str, least_cosine: float) -> None:
    embedder, images = Embedder(files[name]), np.stack(smooth_images())
    assert (embedder.precision, embedder.input, embedder.dim) == (precision, "pixels", 8)
    found, expected = embedder(images), Embedder(files["fp32"])(images)
    assert found.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-3)
    assert (found * expected).sum(axis=1).min() > least_cosine


def test_a_prepared_tensor_has_the_embedding_of_its_pixels(files: dict[str, Path]) -> None:
    embedder, pixels = Embedder(files["tensor"]), np.stack(smooth_images())
    assert (embedder.input, embedder.input_size) == ("tensor", (32, 32))
    tensors = prepared(files["tensor"], pixels)
    expected = Embedder(files["fp32"])(pixels)
    np.testing.assert_allclose(embedder(tensors, batch_size=2), expected, atol=1e-5)
    np.testing.assert_allclose(embedder(tensor for tensor in tensors), expected, atol=1e-5)
    np.testing.assert_allclose(embedder(tensors[3]), expected[3], atol=1e-5)
    assert embedder([]).shape == (0, 8)


@pytest.mark.parametrize(
    ("given", "found"),
    [
        ("cat.png", "found str"),
        (Image.new("RGB", (32, 32)), "found Image"),
        (np.zeros((32, 32, 3), np.uint8), "found uint8 (32, 32, 3)"),
        (np.zeros((2, 32, 32, 3), np.uint8), "found uint8 (32, 32, 3)"),
        (np.zeros((3, 32, 32)), "found float64 (3, 32, 32)"),
        (np.zeros((3, 40, 32), np.float32), "found float32 (3, 40, 32)"),
        (np.zeros((32, 32), np.float32), "found float32 (32, 32)"),
        ([np.zeros((1, 3, 32, 32), np.float32)], "found float32 (1, 3, 32, 32)"),
    ],
)
def test_what_a_tensor_file_refuses(files: dict[str, Path], given: object, found: str) -> None:
    with pytest.raises(DataError) as raised:
        Embedder(files["tensor"])(given)  # type: ignore[arg-type]
    text = str(raised.value)
    assert found in text and str(files["tensor"]) in text and "float32 arrays (3, 32, 32)" in text
    assert "cropped at the centre to 32 x 32" in text and "mean (0.5, 0.5, 0.5)" in text and "input pixels" in text


def test_preprocessing_in_words() -> None:
    squash = Preprocessing((200, 100), 0.8, "bicubic", "squash", (0.5, 0.25, 0.1), (1, 1, 1)).as_pretrained_cfg()
    assert preprocessing_in_words(squash) == (
        "squashed to 250 x 125 pixels (bicubic, antialiased), cropped at the centre to 200 x 100, scaled to [0, 1] and "
        "normalised with mean (0.5, 0.25, 0.1) and deviation (1, 1, 1)"
    )


def test_another_input_is_refused(files: dict[str, Path], tmp_path: Path) -> None:
    proto = onnx.load(files["tensor"])
    for node in proto.graph.node:  # float32 under the name of pixels
        node.input[:] = ["image" if name == "tensor" else name for name in node.input]
    proto.graph.input[0].name = "image"
    proto.metadata_props.remove(next(entry for entry in proto.metadata_props if entry.key == "content_digest"))
    onnx.save(proto, tmp_path / "other.onnx")
    with pytest.raises(ModelError, match="not made by to_onnx"):
        Embedder(tmp_path / "other.onnx")


def test_validate_prepares_images_for_a_tensor_file(files: dict[str, Path], photos: Path) -> None:
    images = load_data(f"folder:{photos}", "even-odd").test
    candidate = _onnx(files["tensor"])
    np.testing.assert_allclose(candidate.embed(images), _onnx(files["fp32"]).embed(images), atol=1e-5)
    entries = latencies([candidate], images, runs=2)["onnx-fp32"]
    assert entries[0]["threads"] == 1 and 0 < entries[0]["median"] <= entries[0]["p95"]


def with_metadata(source: Path, path: Path, **entries: str) -> Path:
    """Copy a file with entries of its metadata changed; empty ones are removed."""
    proto = onnx.load(source)
    known = {entry.key: entry.value for entry in proto.metadata_props} | entries
    del proto.metadata_props[:]
    known.pop("content_digest", None)
    onnx.helper.set_model_props(proto, {key: value for key, value in known.items() if value})
    onnx.save(proto, path)
    return path


def test_embeddings_of_a_dynamic_file_do_not_depend_on_their_neighbours(files: dict[str, Path], tmp_path: Path) -> None:
    images = np.stack(smooth_images(6))
    images[1] //= 8  # one with ranges of its own
    path = with_metadata(files["dynamic"], tmp_path / "d.onnx", quantization='{"kind": "dynamic"}')
    alone = np.stack([Embedder(path)(image) for image in images])
    np.testing.assert_array_equal(Embedder(path)(images), alone)
    np.testing.assert_array_equal(Embedder(path)(images[::-1], batch_size=4), alone[::-1])
    assert np.abs(Embedder(files["dynamic"])(images) - alone).max() > 1e-4  # what sharing a batch would do


@pytest.mark.parametrize(
    "entries",
    [
        {"dim": ""},
        {"dim": "many"},
        {"precision": ""},
        {"preprocessing": ""},
        {"preprocessing": "{"},
        {"preprocessing": "[]"},
        {"preprocessing": '{"input_size": [3]}'},
        {"quantization": "[]"},
    ],
)
def test_broken_metadata_are_named(entries: dict[str, str], files: dict[str, Path], tmp_path: Path) -> None:
    path = with_metadata(files["fp32"], tmp_path / "broken.onnx", **entries)
    with pytest.raises(ModelError, match=r"The metadata of .*broken\.onnx are broken \(.*Export it again"):
        Embedder(path)


def test_another_output_is_refused(files: dict[str, Path], tmp_path: Path) -> None:
    proto = onnx.load(with_metadata(files["fp32"], tmp_path / "without-digest.onnx"))
    proto.graph.node.append(onnx.helper.make_node("Identity", ["embedding"], ["result"]))
    proto.graph.output[0].name = "result"
    del proto.metadata_props[:]  # of which one is a digest of the file as it was
    onnx.save(proto, tmp_path / "other.onnx")
    with pytest.raises(ModelError, match="not made by to_onnx"):
        Embedder(tmp_path / "other.onnx")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"threads": 0}, "threads is 0; it must be a whole number in 1..1024"),
        ({"threads": "2"}, "threads is '2'; it must be a whole number"),
        ({"threads": 1.5}, "threads is 1.5; it must be a whole number"),
        ({"threads": 10**9}, "threads is 1000000000; it must be a whole number in 1..1024"),
        ({"providers": 3}, "providers is 3; it must be a name or several"),
        ({"providers": ["NopeProvider"]}, "'NopeProvider' is not in this onnxruntime; it has .*CPUExecutionProvider"),
        ({"providers": "nope"}, "Provider 'nope' is not in this onnxruntime"),
        ({"providers": [("CPUExecutionProvider", "fast")]}, "neither a name nor a pair of a name and its options"),
        ({"providers": [3]}, "Provider 3 is neither a name"),
        ({"providers": []}, "No provider is given"),
        ({"max_pixels": 0}, "max_pixels is 0; it must be a whole number of at least 1"),
    ],
)
def test_options_that_cannot_work(options: dict[str, object], message: str, files: dict[str, Path]) -> None:
    with pytest.raises(OptionError, match=message):
        Embedder(files["fp32"], **options)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "providers",
    ["CPUExecutionProvider", "cpu", ("CPU", {"arena_extend_strategy": "kSameAsRequested"}), [("cpu", {})], ["cpu"]],
)
def test_providers_by_any_name_and_with_options(files: dict[str, Path], providers: Any) -> None:
    image = smooth_images(1)[0]
    np.testing.assert_array_equal(Embedder(files["fp32"], providers=providers)(image), Embedder(files["fp32"])(image))


def test_a_provider_that_does_not_start_is_told(
    files: dict[str, Path], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    real, there = onnxruntime.InferenceSession, ["CUDAExecutionProvider", "CPUExecutionProvider"]
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: there)
    monkeypatch.setattr(  # what onnxruntime does where a library is missing
        onnxruntime, "InferenceSession", lambda path, options, providers: real(path, options, providers=there[1:])
    )
    with pytest.raises(OptionError, match="Provider CUDAExecutionProvider does not start here"):
        Embedder(files["fp32"], providers="cuda")
    Embedder(files["fp32"], providers=["cuda", "cpu"])
    assert "provider CUDAExecutionProvider does not start here" in caplog.text


class AnyPath:
    """A path that is neither text nor pathlib's."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __fspath__(self) -> str:
        return str(self.path)


def test_images_of_every_form(files: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    embedder, pixels = Embedder(files["fp32"]), smooth_images(1)[0]
    path = tmp_path / "a.png"
    Image.fromarray(pixels).save(path)
    content, expected = path.read_bytes(), embedder(pixels)
    read = io.BytesIO(content)
    read.read()  # where a file stands does not matter
    monkeypatch.setenv("HOME", str(tmp_path))
    with path.open("rb") as file:
        forms: list[Any] = [path, str(path), AnyPath(path), content, bytearray(content)]
        forms += [memoryview(content), io.BytesIO(content), read, file, torch.from_numpy(pixels), "~/a.png"]
        for form in forms:
            np.testing.assert_array_equal(embedder(form), expected)
        np.testing.assert_array_equal(embedder(forms), np.stack([expected] * len(forms)))
    for several in (np.array([str(path), str(path)]), np.array([path, path]), torch.from_numpy(np.stack([pixels] * 2))):
        np.testing.assert_array_equal(embedder(several), np.stack([expected, expected]))
    assert Embedder(AnyPath(files["fp32"])).dim == 8


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (None, "NoneType is neither an image nor a list of images"),
        (3, "int is neither an image nor a list of images"),
        ({"a": 1}, "dict is neither an image nor a list of images"),
        ([None], "Image 0 of those given cannot be read .NoneType is not an image: pass a path, bytes, an open file"),
        ([b"cut"], "Image 0 of those given cannot be read .cannot identify"),
        (b"", "Image of type bytes cannot be read"),
        (io.StringIO("a"), "open for reading text; open it with mode 'rb'"),
        (torch.zeros(4, 4, 3), "must be uint8, found float32"),
        (torch.zeros(4, 4, 3, requires_grad=True), "requires grad"),
        (np.zeros(4, np.uint8), "cannot be read .an image array must be"),
        (Path("gone.png"), "Image gone.png cannot be read .*No such file"),
    ],
)
def test_what_is_no_image_is_told(files: dict[str, Path], given: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        Embedder(files["fp32"])(given)


def test_tensors_are_tensors(files: dict[str, Path]) -> None:
    embedder = Embedder(files["tensor"])
    tensors = torch.from_numpy(prepared(files["tensor"], np.stack(smooth_images(2))))
    np.testing.assert_array_equal(embedder(tensors), embedder(tensors.numpy()))
    np.testing.assert_array_equal(embedder(tensors[0]), embedder(tensors[0].numpy()))
    with pytest.raises(DataError, match=r"A Tensor cannot be converted to a numpy array \(Can't call numpy"):
        embedder(tensors[0].requires_grad_())


def test_an_embedder_can_be_sent_to_another_process(
    files: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = smooth_images(1)[0]
    monkeypatch.chdir(files["fp32"].parent)
    embedder = Embedder(files["fp32"].name, threads=1, providers=[("cpu", {})], max_pixels=5000)
    content = pickle.dumps(embedder)
    monkeypatch.chdir(tmp_path)
    again = pickle.loads(content)
    np.testing.assert_array_equal(again(image), embedder(image))
    with pytest.raises(DataError, match="100 x 60 pixels, more than max_pixels, 5000"):
        again(Image.new("RGB", (100, 60)))


@pytest.mark.parametrize(
    ("change", "found"),
    [
        ({"ir_version": 999}, "model IR version: 999, max supported IR version"),
        ({"opset": 999}, "Opset 999"),
    ],
)
def test_a_file_for_a_newer_onnxruntime_says_so(
    files: dict[str, Path], tmp_path: Path, change: dict[str, int], found: str
) -> None:
    proto = onnx.load(files["fp32"])
    proto.ir_version = change.get("ir_version", proto.ir_version)
    for opset in proto.opset_import:
        opset.version = change.get("opset", opset.version)
    del proto.metadata_props[:]  # of which one is a digest of the file as it was
    onnx.save(proto, tmp_path / "new.onnx")
    with pytest.raises(
        ModelError, match=rf"new\.onnx was made for a newer onnxruntime than .*{found}.*Upgrade onnxrun"
    ):
        Embedder(tmp_path / "new.onnx")
    with pytest.raises(ModelError, match=r"Teacher .*new\.onnx was made for a newer .*Upgrade onnxruntime"):
        OnnxTeacher(tmp_path / "new.onnx")


def test_a_batch_holds_an_image_at_least(files: dict[str, Path]) -> None:
    with pytest.raises(OptionError, match="batch_size is 0; it must be at least 1"):
        Embedder(files["fp32"])(smooth_images(2), batch_size=0)


@pytest.mark.skipif(not features.check("avif"), reason="this Pillow reads no AVIF")
def test_a_broken_avif_is_named(files: dict[str, Path], tmp_path: Path) -> None:
    Image.fromarray(smooth_images(1)[0]).save(tmp_path / "a.avif")
    content = bytearray((tmp_path / "a.avif").read_bytes())
    pixels = content.index(b"mdat") + 4
    content[pixels:] = bytes(len(content) - pixels)
    (tmp_path / "a.avif").write_bytes(content)
    with pytest.raises(DataError, match=r"a\.avif cannot be read"):
        Embedder(files["fp32"])(tmp_path / "a.avif")


def test_an_embedder_is_shown_shortly_and_escaped(files: dict[str, Path], tmp_path: Path) -> None:
    file = tmp_path / "<b>.onnx"
    file.write_bytes(files["fp32"].read_bytes())
    embedder = Embedder(file)
    assert repr(embedder) == f"Embedder('{file}': pixels to 8 dimensions, cosine, fp32, 32 x 32)"
    shown = embedder._repr_html_()
    assert "&lt;b&gt;.onnx" in shown and "<b>" not in shown
    assert "<tr><th>dimensions</th><td>8</td></tr>" in shown
