"""An ONNX file with weights in another file: its size, digest and index include them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest

from export import Embedder, bench, build_index, inspect, search_index
from export.embedding.cache import EmbeddingCache
from export.report.measured_models import _onnx, open_models
from zoo import ModelError
from zoo.formats.onnx_content import digest_of
from zoo.teachers.opening import open_teacher


@pytest.fixture
def beside(tiny_onnx: Callable[..., Path], tmp_path: Path) -> Path:
    proto = onnx.load(tiny_onnx(tmp_path / "whole.onnx"))
    onnx.save(proto, tmp_path / "m.onnx", save_as_external_data=True, location="m.onnx.data", size_threshold=50)
    return tmp_path / "m.onnx"


def both(file: Path) -> int:
    return file.stat().st_size + Path(f"{file}.data").stat().st_size


def test_it_embeds_and_is_described_with_its_weights(beside: Path, tmp_path: Path) -> None:
    image = np.full((9, 7, 3), 50, np.uint8)
    np.testing.assert_array_equal(Embedder(beside)(image), Embedder(tmp_path / "whole.onnx")(image))
    told = inspect(beside)
    assert (told["bytes"], told["digest"]) == (both(beside), digest_of(beside))
    (timed,) = bench([beside], batch_sizes=[1], threads=[1], runs=1)["files"]
    assert (timed["bytes"], timed["digest"]) == (both(beside), digest_of(beside))
    assert _onnx(beside).bytes == both(beside)
    teacher, model = open_models(open_teacher(beside), beside, [beside], EmbeddingCache(None))
    assert teacher.bytes == model.bytes == both(beside)


def test_damaged_weights_are_refused_everywhere(beside: Path, photos: Path) -> None:
    index = build_index(beside, str(photos / "class00"), beside.parent / "index")
    weights = bytearray(Path(f"{beside}.data").read_bytes())
    weights[7] ^= 1
    Path(f"{beside}.data").write_bytes(weights)
    query = photos / "class00" / "0.png"
    for use in (Embedder, inspect, _onnx, open_teacher, lambda file: search_index(index, [query], model=file)):
        with pytest.raises(ModelError, match="has changed since export wrote it"):
            use(beside)


def test_an_index_knows_an_encoder_with_other_weights(
    beside: Path, tiny_onnx: Callable[..., Path], photos: Path, tmp_path: Path
) -> None:
    index = build_index(beside, str(photos / "class00"), tmp_path / "index")
    query = photos / "class00" / "0.png"
    assert search_index(index, [query], k=1)[0][0].id == "0.png"
    proto = onnx.load(tiny_onnx(tmp_path / "other.onnx", seed=1, digest=False))
    onnx.save(proto, beside, save_as_external_data=True, location="m.onnx.data", size_threshold=50)
    with pytest.raises(ModelError, match="was built with"):
        search_index(index, [query], k=1)
