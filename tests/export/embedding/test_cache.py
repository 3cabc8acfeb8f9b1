"""Embeddings stored beside a report: reused only if model and images are the same."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import export.runtime
from export import validate
from export.embedding.cache import EmbeddingCache
from zoo.data.image_set import ImageSet
from zoo.models.folder import load_model, save_model
from zoo.teachers.torch_module import TorchTeacher

QUICK: dict[str, Any] = {"latency_runs": 0, "baselines": False, "bootstrap": 50}


def image_set(value: int) -> ImageSet:
    return ImageSet(["a", "b"], [np.full((4, 4, 3), value, np.uint8), np.zeros((4, 4, 3), np.uint8)])


def mean_of(images: ImageSet) -> np.ndarray:
    mean_of.calls += 1  # type: ignore[attr-defined]
    return np.stack([images.pixels(row).reshape(-1, 3).mean(axis=0) for row in range(len(images))])


def test_read_for_the_same_key_and_images_alone(tmp_path: Path) -> None:
    mean_of.calls = 0  # type: ignore[attr-defined]
    for key, value, calls in (("one", 3, 1), ("one", 3, 1), ("two", 3, 2), ("one", 4, 3), ("", 3, 4), ("", 3, 5)):
        embeddings = EmbeddingCache(tmp_path).through(mean_of, key)(image_set(value))
        np.testing.assert_array_equal(embeddings, [[value] * 3, [0] * 3])
        assert mean_of.calls == calls, (key, value)  # type: ignore[attr-defined]
    for file in tmp_path.iterdir():
        content = bytearray(file.read_bytes())
        content[150] ^= 1
        file.write_bytes(content)
    EmbeddingCache(tmp_path).through(mean_of, "one")(image_set(3))
    assert mean_of.calls == 6  # type: ignore[attr-defined]  # damaged


def test_what_is_asked_for_no_more_is_removed(tmp_path: Path) -> None:
    mean_of.calls = 0  # type: ignore[attr-defined]
    first = EmbeddingCache(tmp_path)
    first.through(mean_of, "one")(image_set(3))
    second = EmbeddingCache(tmp_path)
    second.through(mean_of, "two")(image_set(3))
    assert len(list(tmp_path.iterdir())) == 2
    (tmp_path / "mine.npy").touch()
    (tmp_path / f".{'0' * 32}.npy.abcd1234.part.npy").touch()  # of a process that was killed while it wrote
    second.tidy()
    assert len(list(tmp_path.iterdir())) == 2 and (tmp_path / "mine.npy").exists()
    EmbeddingCache(tmp_path / "none").tidy()
    EmbeddingCache(None).tidy()


def test_a_second_report_embeds_nothing_until_a_model_or_an_image_changes(
    photos: Path, tiny_teacher: Path, tiny_onnx: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    embed_teacher, embed_file = TorchTeacher.embed_images, export.runtime.Embedder.__call__

    def of_teacher(self: TorchTeacher, images: ImageSet) -> np.ndarray:
        asked.append("torch")
        return embed_teacher(self, images)

    def of_file(self: Any, *images: Any) -> np.ndarray:
        asked.append("onnx")
        return embed_file(self, *images)

    monkeypatch.setattr(TorchTeacher, "embed_images", of_teacher)
    monkeypatch.setattr(export.runtime.Embedder, "__call__", of_file)
    model = tiny_onnx(tmp_path / "model.onnx")
    data = tmp_path / "photos"
    for file in photos.rglob("*.png"):
        copy = data / file.relative_to(photos)
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes(file.read_bytes())

    def run(**options: Any) -> dict[str, Any]:
        asked.clear()
        return validate([model], tiny_teacher, f"folder:{data}", tmp_path / "report", **QUICK | options).content

    first = run()
    assert sorted(asked) == ["onnx", "torch"]
    second = run()
    assert asked == []
    assert second["stages"] == first["stages"]
    assert run(reuse=False)["stages"] == first["stages"]
    assert sorted(asked) == ["onnx", "torch"]
    changed = load_model(tiny_teacher)
    for weight in changed.parameters():
        weight.data *= 1.5
    save_model(changed, tmp_path / "other")
    asked.clear()
    validate([model], tmp_path / "other", f"folder:{data}", tmp_path / "report", **QUICK)
    assert asked == ["torch"]
    last = sorted(data.rglob("*.png"))[-1]
    pixels = np.array(Image.open(last))
    pixels[0, 0, 0] ^= 1
    Image.fromarray(pixels).save(last)
    run()
    assert sorted(asked) == ["onnx", "torch"]
