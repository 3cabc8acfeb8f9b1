from __future__ import annotations

import json
import platform
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper
from PIL import Image

from export import embed_data
from export.embedding.on_ray import PartWriter, shares
from export.runtime import Embedder
from zoo.errors import DataError, ModelError, OptionError
from zoo.formats.embedding_parts import EmbeddingFacts


@pytest.fixture
def model(tiny_onnx: Callable[..., Path], tmp_path: Path) -> Path:
    return tiny_onnx(tmp_path / "model.onnx")


def test_ids_and_embeddings_are_those_of_the_runtime(model: Path, photos: Path, tmp_path: Path) -> None:
    out = embed_data(model, photos, tmp_path / "vectors" / "photos.npz")
    with np.load(out, allow_pickle=False) as arrays:
        ids, embeddings = arrays["ids"].tolist(), arrays["embeddings"]
    assert sorted(ids) == sorted(str(file.relative_to(photos)) for file in photos.rglob("*.png"))
    assert (embeddings.dtype, embeddings.shape) == (np.float32, (96, 8))
    np.testing.assert_allclose(embeddings, Embedder(model)([photos / name for name in ids]), rtol=1e-5)


def test_npy_has_its_ids_beside_it(model: Path, photos: Path, tmp_path: Path) -> None:
    out = embed_data(model, f"folder:{photos}", tmp_path / "photos.npy")
    ids = json.loads((tmp_path / "photos.ids.json").read_text())
    np.testing.assert_allclose(np.load(out), Embedder(model)([photos / name for name in ids]), rtol=1e-5)


def test_npy_never_lies_beside_the_ids_of_others(
    model: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*given: object) -> None:
        raise KeyboardInterrupt

    embed_data(model, f"folder:{photos / 'class00'}", tmp_path / "a.npy")
    monkeypatch.setattr("numpy.save", killed)
    with pytest.raises(KeyboardInterrupt):
        embed_data(model, f"folder:{photos / 'class01'}", tmp_path / "a.npy")
    assert not (tmp_path / "a.npy").exists() and len(json.loads((tmp_path / "a.ids.json").read_text())) == 8


def test_one_image_is_a_source(model: Path, photos: Path, tmp_path: Path) -> None:
    file = photos / "class02" / "1.png"
    with np.load(embed_data(model, file, tmp_path / "one.npz")) as arrays:
        assert arrays["ids"].tolist() == ["1.png"]
        np.testing.assert_allclose(arrays["embeddings"][0], Embedder(model)(file), rtol=1e-5)


def test_it_is_a_teacher(model: Path, photos: Path, tmp_path: Path) -> None:
    from zoo.data import load_images
    from zoo.teachers.opening import open_teacher

    teacher = open_teacher(embed_data(model, photos, tmp_path / "t.npz"))
    images = load_images(photos)
    expected = Embedder(model)([images.pixels(row) for row in range(len(images))])
    np.testing.assert_allclose(teacher.embed_images(images), expected, rtol=1e-5)


def test_unreadable_images_are_left_out_up_to_a_limit(model: Path, tmp_path: Path) -> None:
    folder = tmp_path / "images"
    folder.mkdir()
    Image.new("RGB", (8, 8), "red").save(folder / "whole.png")
    (folder / "broken.png").write_bytes(b"broken")
    with np.load(embed_data(model, folder, tmp_path / "a.npz")) as arrays:
        assert arrays["ids"].tolist() == ["whole.png"]
    with pytest.raises(DataError, match=r"broken\.png"):
        embed_data(model, folder, tmp_path / "b.npz", max_unreadable=0)
    assert not (tmp_path / "b.npz").exists()


def test_other_formats_are_refused_before_the_work(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match=r"vectors\.csv ends in neither \.npz nor \.npy"):
        embed_data("missing.onnx", "missing", tmp_path / "vectors.csv")


@pytest.mark.parametrize(
    ("model", "machines", "processes", "expected"),
    [
        ("m.onnx", [{"CPU": 8.0}, {"CPU": 4.0}, {"memory": 1.0}], None, (12, {"num_cpus": 1})),
        ("m.onnx", [{"CPU": 8.0}, {"CPU": 4.0}], 2, (2, {"num_cpus": 4})),  # six would fit on one machine only
        ("m.onnx", [{"CPU": 16.0, "GPU": 4.0}], None, (16, {"num_cpus": 1})),
        ("folder", [{"CPU": 16.0, "GPU": 4.0}, {"CPU": 64.0}], None, (4, {"num_cpus": 4, "num_gpus": 1})),
        ("folder", [{"CPU": 16.0, "GPU": 4.0}], 8, (8, {"num_cpus": 2, "num_gpus": 0.5})),
        ("folder", [{"CPU": 2.0}], None, (2, {"num_cpus": 1})),
        ("folder", [{"CPU": 8.0, "GPU": 2.0}], 3, (3, {"num_cpus": 2, "num_gpus": 0.5})),  # two on one GPU
        ("folder", [{"CPU": 4.0, "GPU": 1.0}] * 2, 6, (6, {"num_cpus": 1, "num_gpus": 0.3333})),
        ("m.onnx", [{"CPU": 5.0}, {"CPU": 3.0}], 4, (4, {"num_cpus": 1})),  # of 2 each, three would fit
        ("m.onnx", [{"CPU": 2.0}], 4, (4, {"num_cpus": 0.5})),
    ],
)
def test_a_cluster_is_shared_among_processes_that_fit_its_machines(
    model: str, machines: list[dict[str, float]], processes: int | None, expected: tuple[int, dict[str, float]]
) -> None:
    assert shares(model, machines, processes) == expected


@pytest.mark.parametrize("out", ["v.npz", "v.npy", "parts"])
def test_vectors_that_are_not_finite_are_not_written(tiny_onnx: Callable[..., Path], tmp_path: Path, out: str) -> None:
    """An encoder that divides by an image's brightness, so that a black one gives 0 / 0."""
    path = tiny_onnx(tmp_path / "model.onnx", digest=False)
    proto = onnx.load(path)
    proto.graph.node[-1].output[0] = "vector"
    proto.graph.initializer.append(numpy_helper.from_array(np.array([1]), "channels"))
    proto.graph.node.append(helper.make_node("ReduceSum", ["mean", "channels"], ["brightness"]))
    proto.graph.node.append(helper.make_node("Div", ["vector", "brightness"], ["embedding"]))
    onnx.save(proto, path)
    for name, level in (("a.png", 200), ("black.png", 0)):
        Image.new("RGB", (8, 8), (level, level, level)).save(tmp_path / name)
    with pytest.raises(
        ModelError, match=r"model\.onnx gave vectors .* for 1 of 2 images, the first .*black\.png\. Check"
    ):
        embed_data(path, tmp_path, tmp_path / out)
    assert not (tmp_path / out).is_file() and not list(tmp_path.glob("parts/*.parquet"))


def test_another_model_on_a_machine_of_a_cluster_is_refused_on_every_system(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delattr("os.uname", raising=False)  # as on Windows
    facts = EmbeddingFacts("model", "0" * 64, "cosine", 8, "float32", "0" * 16, 1, 1)
    with pytest.raises(ModelError, match=f"model.onnx on {re.escape(platform.node())} has digest"):
        PartWriter(str(model), tmp_path, facts, 0, 1, str(tmp_path))._opened()
