"""ONNX files run by OpenVINO, compared with onnxruntime: make test-ecosystem."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from export import to_onnx, validate
from tests.zoo.teachers.test_onnx_outputs import PLAIN, write
from zoo import ModelError, load_data
from zoo.errors import MissingExtraError
from zoo.teachers.opening import open_teacher


def test_without_openvino_the_extra_is_named(
    tiny_onnx: Callable[..., Path], without: Callable[..., AbstractContextManager[None]], tmp_path: Path
) -> None:
    with without("openvino"), pytest.raises(MissingExtraError, match=r"embedding-compressor\[openvino\]"):
        open_teacher(f"openvino:{tiny_onnx(tmp_path / 'model.onnx')}")


def test_files_of_export_give_what_onnxruntime_gives(tiny_teacher: Path, photos: Path, tmp_path: Path) -> None:
    pytest.importorskip("openvino")
    file = to_onnx(tiny_teacher, tmp_path / "model.onnx", input="tensor")
    images = load_data(f"folder:{photos}", validation=0.34).test
    found, expected = open_teacher(f"openvino:{file}"), open_teacher(file)
    assert (found.ships, found.metric, found.digest == expected.digest, found.notes) == (True, "cosine", False, ())
    np.testing.assert_allclose(found.embed_images(images), expected.embed_images(images), atol=1e-5)


def test_that_openvino_does_not_antialias_is_told(tiny_teacher: Path, tmp_path: Path) -> None:
    """Without a word, it resizes as if a Resize did not ask for antialiasing; images that need no resize are right."""
    pytest.importorskip("openvino")
    file = to_onnx(tiny_teacher, tmp_path / "model.onnx")
    found, expected = open_teacher(f"openvino:{file}"), open_teacher(file)
    assert "without antialiasing" in found.notes[0]
    fine = np.random.default_rng(0).integers(0, 256, (128, 128, 3), dtype=np.uint8)
    small = fine[:32, :32].copy()
    np.testing.assert_allclose(found.embed_pixels(small), expected.embed_pixels(small), atol=1e-4)
    assert np.abs(found.embed_pixels(fine) - expected.embed_pixels(fine)).max() > 1e-2


def test_files_of_another_make_take_their_options(photos: Path, tmp_path: Path) -> None:
    pytest.importorskip("openvino")
    file = f"{write(tmp_path / 'theirs.onnx', text=True)}#pooler_output,{PLAIN}"
    images = load_data(f"folder:{photos}").test
    found = open_teacher(f"openvino:{file}")
    assert not found.ships
    np.testing.assert_allclose(found.embed_images(images), open_teacher(file).embed_images(images), atol=1e-5)


def test_the_gate_holds_for_openvino(tiny_teacher: Path, photos: Path, tmp_path: Path) -> None:
    pytest.importorskip("openvino")
    file = to_onnx(tiny_teacher, tmp_path / "model.onnx", input="tensor")
    options: dict[str, Any] = {"latency_runs": 2, "bootstrap": 20, "baselines": False, "validation": 0.34}
    models = [file, f"openvino:{file}"]
    report = validate(models, tiny_teacher, f"folder:{photos}", tmp_path / "r", min_retention=1.5, **options)
    _, ours, theirs = report.content["stages"]
    assert (theirs["runtime"], theirs["recall"], theirs["parameters"]) == (
        "openvino",
        ours["recall"],
        ours["parameters"],
    )
    assert theirs["latency_ms"]["median"] > 0 and "openvino:model.onnx keeps" in report.content["gate"]["reasons"][0]


def test_what_openvino_does_not_take_is_told(tmp_path: Path) -> None:
    pytest.importorskip("openvino")
    with pytest.raises(ModelError, match="does not exist"):
        open_teacher(f"openvino:{tmp_path / 'none.onnx'}")
