"""One hub folder opened by the libraries it is made for, compared with ``Embedder``: make test-ecosystem.

Skipped if the libraries are not installed. The versions are in constraints.txt and package.json.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.conftest import blob

pytest.importorskip("transformers")
pytest.importorskip("sentence_transformers")
pytest.importorskip("fastembed")

from benchmarks.ecosystem import run, tools
from export.hub.folder import write_hub
from export.runtime import Embedder

KINDS = (
    ("mobilenetv4_conv_small_050", 16, 64, "cosine", None),
    ("resnet18", 16, 64, "euclidean", "avgmax"),
    ("vit_tiny_patch16_224", 16, 64, "cosine", None),
    ("tf_efficientnet_lite0", 16, 64, "cosine", None),
)
needs_node = pytest.mark.skipif(not tools.has_node(), reason="set NODE_MODULES to test JavaScript")


@pytest.fixture(scope="module")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Images of odd sizes, larger and smaller than the networks' inputs; JPEG and PNG."""
    folder = tmp_path_factory.mktemp("photographs")
    files = []
    for index in range(12):
        size = (61 + 17 * index, 211 - 9 * index)
        kind = "jpg" if index % 3 else "png"
        image = Image.fromarray(blob(index, 0, side=120)).resize(size, Image.Resampling.BICUBIC)
        image.save(folder / f"{index}.{kind}", quality=92)
        files.append(folder / f"{index}.{kind}")
    return files


@pytest.fixture(scope="module", params=KINDS, ids=lambda kind: kind[0])
def measured(
    request: pytest.FixtureRequest, photographs: list[Path], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Any]:
    root = tmp_path_factory.mktemp("kind")
    tools.quiet()
    write_hub(run.untrained(root / "student", request.param, photographs), root / "hub", license="mit")
    return run.measure(root / "hub", photographs)


def test_the_same_tensors_give_the_same_embedding(measured: dict[str, Any]) -> None:
    expected = {"timm", "transformers", "sentence-transformers"}
    expected |= {"fastembed"} if measured["metric"] == "cosine" else set()
    expected |= {"transformers.js"} if tools.has_node() else set()
    assert measured["tensors"].keys() == expected
    assert max(measured["tensors"].values()) <= 1e-4, measured["tensors"]


def test_images_that_a_library_prepares_as_in_training_give_nearly_the_same(measured: dict[str, Any]) -> None:
    """Networks with random weights amplify the rounding to whole levels."""
    for library in ("timm", "transformers", "sentence-transformers"):
        assert measured["photographs"][library]["lowest"] >= 0.99, measured["photographs"]


def test_files_that_take_pixels_give_the_same(measured: dict[str, Any]) -> None:
    for library, values in measured["photographs"].items():
        if library.endswith("pixels"):
            assert values["lowest"] >= 0.999, (library, values)


@pytest.fixture(scope="module")
def hub(tiny_teacher: Path, photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A trained network, with int8."""
    folder = tmp_path_factory.mktemp("trained") / "hub"
    options: dict[str, Any] = {"precision": "fp32,fp16,int8", "data": f"folder:{photos}", "validation": 0.34}
    options |= {"max_drop": None, "latency_runs": 0, "judged_images": 32, "calibration_images": 32}
    write_hub(tiny_teacher, folder, license="mit", **options)
    return folder


def test_a_trained_network_gives_the_same_by_each_library_s_own_preprocessing(
    hub: Path, photographs: list[Path]
) -> None:
    found = run.measure(hub, photographs)["photographs"]
    for library in ("timm", "transformers", "sentence-transformers"):
        assert found[library]["lowest"] >= 0.999, found


def test_int8_finds_the_same_images_everywhere(hub: Path, photos: Path) -> None:
    """Of the 10 nearest to each of 96 images; and as many in each library as in Embedder, on the same pixels."""
    found = run.measure_int8(hub, sorted(photos.rglob("*.png")))
    ours = found["Embedder, int8"]
    assert ours > 0.7 and abs(found["fastembed, model_quantized"] - ours) < 0.1, found
    if tools.has_node():
        assert abs(found["transformers.js, q8, pixels"] - ours) < 0.02, found


def blocks(folder: Path, language: str, mark: str) -> list[str]:
    text = (folder / "README.md").read_text(encoding="utf-8")
    found = re.findall(rf"^```{language}\n(.*?)^```$", text, flags=re.MULTILINE | re.DOTALL)
    return [code.replace("PATH", str(folder)) for code in found if mark in code]


@pytest.mark.parametrize(
    "mark", ["onnxruntime.Inf", "timm.create", "import AutoImageProcessor", "sentence_transformers", "fastembed"]
)
def test_the_card_s_python_gives_the_embedding(mark: str, hub: Path, photos: Path, tmp_path: Path) -> None:
    (code,) = blocks(hub, "python", mark)
    image = photos / "class03" / "1.png"
    Image.open(image).save(tmp_path / "photo.jpg", "PNG")
    script = f"{code}\nimport numpy\nnumpy.save('found.npy', numpy.asarray(embedding, dtype='float32'))\n"
    (tmp_path / "recipe.py").write_text(script, encoding="utf-8")
    result = subprocess.run(
        [sys.executable, "recipe.py"], cwd=tmp_path, capture_output=True, text=True, env=os.environ, check=False
    )
    assert result.returncode == 0, result.stderr
    expected = Embedder(hub / "pixels" / "model.onnx")(image)
    np.testing.assert_allclose(np.load(tmp_path / "found.npy")[0], expected, atol=0.02)


@needs_node
@pytest.mark.parametrize("mark", ["RawImage", "pipeline("])
def test_the_card_s_javascript_gives_the_embedding(mark: str, hub: Path, photos: Path, tmp_path: Path) -> None:
    (code,) = blocks(hub, "javascript", mark)
    image = photos / "class03" / "1.png"
    Image.open(image).save(tmp_path / "photo.jpg", "PNG")
    (tmp_path / "node_modules").symlink_to(tools.NODE_MODULES)
    script = f"{code}\nconsole.log(`FOUND ${{JSON.stringify(Array.from(embedding.data))}}`);\n"
    (tmp_path / "recipe.mjs").write_text(script, encoding="utf-8")
    result = subprocess.run(["node", "recipe.mjs"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    found = np.array(re.search(r"FOUND \[(.*)\]", result.stdout)[1].split(","), dtype=np.float32)  # type: ignore[index]
    expected = Embedder(hub / "pixels" / "model.onnx")(image)
    np.testing.assert_allclose(found, expected, atol=1e-5 if mark == "RawImage" else 0.05)


def test_a_model_folder_opens_in_transformers_too(tiny_teacher: Path) -> None:
    """It raised "multiple values for keyword argument 'num_classes'" with transformers 5.24."""
    from transformers import AutoModel, AutoModelForImageClassification

    assert AutoModelForImageClassification.from_pretrained(tiny_teacher).config.num_labels == 32
    assert AutoModel.from_pretrained(tiny_teacher).config.architecture == "test_resnet"
