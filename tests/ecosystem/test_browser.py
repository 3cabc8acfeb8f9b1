"""The page of demo-web in headless Chromium, compared with ``Embedder``: make test-ecosystem."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageCms

from benchmarks.ecosystem import pages
from export.onnx.fp32 import to_onnx
from export.runtime import Embedder
from export.web.demo import demo_web
from tests.conftest import blob
from zoo import create_model

pytestmark = pytest.mark.skipif(bool(pages.obstacle()), reason=pages.obstacle())

_ORIENTATION = 0x0112


@pytest.fixture(scope="module")
def model(tiny_teacher: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return to_onnx(tiny_teacher, tmp_path_factory.mktemp("model") / "model.onnx")


@pytest.fixture(scope="module")
def page(model: Path, photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    runtime = Path(pages.NODE_MODULES) / "onnxruntime-web"
    return demo_web(model, photos, tmp_path_factory.mktemp("page") / "demo", runtime=runtime)


@pytest.fixture(scope="module")
def sq8_page(model: Path, photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    runtime = Path(pages.NODE_MODULES) / "onnxruntime-web"
    folder = tmp_path_factory.mktemp("sq8") / "demo"
    return demo_web(model, photos, folder, runtime=runtime, kind="sq8", webgpu=False)


@pytest.fixture(scope="module")
def queries(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Pictures that decoders disagree on: turned by EXIF, transparent, with a colour profile, grey, large, JPEG."""
    folder = tmp_path_factory.mktemp("queries")
    turned = Image.Exif()
    turned[_ORIENTATION] = 6
    whole = Image.fromarray(blob(3, 50, side=96)).crop((0, 0, 96, 60))
    whole.save(folder / "turned.png", exif=turned)
    alpha = np.dstack([blob(4, 50), np.tile(np.linspace(0, 255, 40).astype(np.uint8), (40, 1))])
    Image.fromarray(alpha).save(folder / "transparent.png")
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()
    whole.save(folder / "profile.png", icc_profile=profile)
    whole.convert("L").save(folder / "grey.png")
    Image.fromarray(blob(5, 50)).resize((2101, 2049)).save(folder / "large.png")
    Image.fromarray(blob(6, 50, side=80)).save(folder / "turned.jpg", quality=95, exif=turned)
    return sorted(folder.iterdir())


def expected(page: Path, file: Path) -> tuple[list[str], np.ndarray]:
    """Return ids and cosines of all images of a page's gallery, nearest first, by ``Embedder``."""
    header = json.loads((page / "gallery.json").read_text(encoding="utf-8"))
    stored = np.fromfile(page / "vectors.bin", "<f4" if header["kind"] == "flat" else np.uint8)
    rows = stored.reshape(header["count"], header["dim"]).astype(np.float64)
    if header["kind"] == "sq8":
        rows = np.array(header["offset"]) + np.array(header["scale"]) * rows
    scores = 1 - ((rows - Embedder(page / "model.onnx")(file)) ** 2).sum(axis=1) / 2
    order = np.argsort(-scores, kind="stable")
    return [header["ids"][row] for row in order], scores[order]


def require_clean(seen: dict[str, Any]) -> None:
    """Require a page without errors that asked for nothing outside itself."""
    assert not seen["error"] and not seen["failed"], seen
    assert [message for message in seen["messages"] if not message.startswith("warning: No available adapters")] == []
    outside = [url for url in seen["requests"] if not url.removeprefix("blob:").startswith(seen["url"])]
    assert outside == []


def require_same_neighbours(page: Path, search: dict[str, Any], within: float) -> None:
    ids, scores = expected(page, Path(search["file"]))
    assert not search["error"] and len(search["ids"]) == 12 and all(search["pictures"])
    np.testing.assert_allclose(search["scores"], scores[:12], atol=within + 5e-4)  # shown with three digits
    places = [ids.index(name) for name in search["ids"]]
    for shown, place in enumerate(places):  # in the same order, but for those that lie as near
        assert abs(scores[place] - scores[shown]) <= 2 * within, (search["file"], shown)
    assert places[0] == 0 or scores[0] - scores[places[0]] <= within


@pytest.mark.parametrize("kind", ["page", "sq8_page"])
def test_the_page_finds_what_embedder_finds_without_errors_or_requests_outside(
    kind: str, queries: list[Path], request: pytest.FixtureRequest
) -> None:
    page: Path = request.getfixturevalue(kind)
    seen = pages.look_at(page, queries, camera=True)
    require_clean(seen)
    assert seen["facts"]["Backend"] == "wasm, 1 thread" and seen["facts"]["Self-test"].startswith("passed")
    for search in seen["searches"]:
        require_same_neighbours(page, search, within=2e-3 if search["file"].endswith("jpg") else 1e-3)
    assert len(seen["camera"]["ids"]) == 12 and not seen["camera"]["error"]


def test_threads_are_used_where_the_page_is_isolated(page: Path, queries: list[Path]) -> None:
    seen = pages.look_at(page, queries[:1], isolated=True)
    require_clean(seen)
    assert seen["facts"]["Backend"].startswith("wasm") and "1 thread" not in seen["facts"]["Backend"]
    require_same_neighbours(page, seen["searches"][0], within=1e-3)


def test_webgpu_computes_the_same_where_it_is_asked_for(page: Path, queries: list[Path]) -> None:
    """On Chromium's software adapter; the page itself takes it only if asked to."""
    seen = pages.look_at(page, queries[:1], backend="webgpu", args=pages.SOFTWARE_WEBGPU)
    if "not offered" in (seen["error"] or ""):
        pytest.skip("this Chromium has no software adapter for WebGPU")
    require_clean(seen)
    assert seen["facts"]["Backend"] == "WebGPU" and seen["facts"]["Self-test"].startswith("passed")
    require_same_neighbours(page, seen["searches"][0], within=1e-3)


def test_what_cannot_be_searched_is_said_on_the_page(page: Path, tmp_path: Path) -> None:
    broken, thin = tmp_path / "<b>broken.jpg", tmp_path / "thin.png"
    broken.write_bytes(b"no image")
    Image.new("RGB", (900, 3)).save(thin)
    seen = pages.look_at(page, [broken, thin])
    messages = [search["error"] for search in seen["searches"]]
    assert messages[0] == "This browser cannot decode <b>broken.jpg. Choose a JPEG, PNG or WebP file."
    assert messages[1] == "thin.png has 900 × 3 pixels; its sides differ more than 200 times."


def test_a_model_that_is_not_the_gallery_s_fails_the_test_of_the_page(page: Path, photos: Path, tmp_path: Path) -> None:
    """Wasm is used all the same, with a warning; WebGPU would not be."""
    torch.manual_seed(1)
    other = shutil.copytree(page, tmp_path / "other")
    to_onnx(create_model("test_resnet", 32, image_size=32).eval(), tmp_path / "other.onnx")
    shutil.copy(tmp_path / "other.onnx", other / "model.onnx")
    seen = pages.look_at(other)
    assert seen["facts"]["Self-test"].startswith("failed")
    assert seen["error"] == "This browser computes other vectors than it should; what is found may be wrong."


def test_the_page_fits_a_phone_and_a_desktop(page: Path, queries: list[Path], tmp_path: Path) -> None:
    seen = pages.look_at(page, queries[:1], pictures=tmp_path)
    names = {f"{device}-{colours}.png" for device in ("phone", "desktop") for colours in ("light", "dark")}
    assert {file.name for file in tmp_path.iterdir()} == names and max(seen["overflow"]) == 0
    brightness = {name: np.asarray(Image.open(tmp_path / name).convert("L"))[:8].mean() for name in names}
    assert all((value < 64) == ("dark" in name) for name, value in brightness.items())
