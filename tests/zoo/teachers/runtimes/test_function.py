"""A Python function of pixels as a model."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from compressor import FunctionTeacher
from export import Embedder, to_onnx, validate
from zoo import ModelError, OptionError, load_data


def means(pixels: np.ndarray) -> np.ndarray:
    return pixels.mean(axis=(0, 1))


def test_a_function_is_given_pixels(photos: Path) -> None:
    images = load_data(f"folder:{photos}").test
    model = FunctionTeacher(means, "means", metric="euclidean")
    expected = [images.pixels(index).mean(axis=(0, 1)) for index in range(len(images))]
    np.testing.assert_allclose(model.embed_images(images), expected, rtol=1e-6)
    assert (model.dim, model.metric, model.name) == (3, "euclidean", "means")
    views = torch.from_numpy(images.pixels(0)[None]).permute(0, 3, 1, 2)
    np.testing.assert_allclose(model.embed_views(views, torch.tensor([0]), images), [expected[0]], rtol=1e-6)
    assert model.digest == FunctionTeacher(means, metric="euclidean").digest
    assert model.digest != FunctionTeacher(lambda pixels: means(pixels)[::-1], metric="euclidean").digest


@pytest.mark.parametrize(
    ("embed", "message"),
    [
        (lambda pixels: 1 / 0, r"failed on an image of shape \(96, 128, 3\) \(division by zero\)"),
        (lambda pixels: [1.0, float("nan")], "not finite"),
        (lambda pixels: [[1.0, 2.0]], r"must give \(1, D\)"),
        (lambda pixels: "no vector", "failed on an image"),
        (lambda pixels: [], r"found shape \(1, 0\)"),
    ],
)
def test_what_a_function_may_not_give(embed: Callable[[np.ndarray], Any], message: str) -> None:
    with pytest.raises(ModelError, match=message):
        FunctionTeacher(embed)


def test_vectors_of_another_size_are_refused() -> None:
    model = FunctionTeacher(lambda pixels: np.ones(pixels.shape[0]))
    with pytest.raises(ModelError, match="gave vectors of 5 dimensions, and of 96 before"):
        model.embed_pixels(np.zeros((5, 5, 3), np.uint8))
    with pytest.raises(OptionError, match="Unknown metric"):
        FunctionTeacher(means, metric="manhattan")


def test_a_runtime_behind_a_function_is_judged_as_the_file_is(photos: Path, tiny_teacher: Path, tmp_path: Path) -> None:
    """With a file of ours behind it, its row is that file's; the gate holds for both."""
    artefact = to_onnx(tiny_teacher, tmp_path / "model.onnx")
    embed = Embedder(artefact)
    options: dict[str, Any] = {"latency_runs": 1, "bootstrap": 20, "baselines": False, "min_retention": 2.0}
    models = [artefact, FunctionTeacher(embed, "mine")]
    report = validate(models, tiny_teacher, f"folder:{photos}", tmp_path / "report", **options)
    _, file, function = report.content["stages"]
    assert (function["stage"], function["runtime"]) == ("mine", "function")
    assert function["recall"] == file["recall"] and function["latency_ms"]["median"] > 0
    (reason,) = report.content["gate"]["reasons"]
    assert "onnx-fp32 keeps" in reason and "mine keeps" in reason
