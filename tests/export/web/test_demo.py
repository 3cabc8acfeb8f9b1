"""demo-web: the content of the folder, and what is refused. In a browser: tests/ecosystem/test_browser.py."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from PIL import Image

from export.embedding.embed_data import embed_data
from export.runtime import Embedder
from export.web.demo import demo_web
from tests.conftest import blob
from zoo.errors import DataError, ModelError, OptionError

NAME = '<img src=x onerror=alert(1)> & "2".png'


@pytest.fixture(scope="module")
def runtime(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What npm installs as onnxruntime-web, as far as demo-web looks at it."""
    package = tmp_path_factory.mktemp("npm") / "onnxruntime-web"
    (package / "dist").mkdir(parents=True)
    (package / "package.json").write_text('{"version": "1.99.0"}')
    for backend, kind in (("wasm", ""), ("webgpu", ".asyncify")):
        binary = f"ort-wasm-simd-threaded{kind}.wasm"
        (package / "dist" / f"ort.{backend}.bundle.min.mjs").write_text(f'new URL("{binary}", import.meta.url)')
        (package / "dist" / binary).write_bytes(backend.encode())
    (package / "dist" / "ort.all.js").write_text("not needed")
    return package


@pytest.fixture(scope="module")
def gallery(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Seven images in folders, one with a name that is HTML."""
    folder = tmp_path_factory.mktemp("gallery")
    (folder / "sub folder").mkdir()
    for index in range(6):
        Image.fromarray(blob(index, 0)).resize((90 + 40 * index, 60)).save(folder / "sub folder" / f"{index}.png")
    Image.fromarray(blob(6, 0)).save(folder / NAME)
    return folder


def header_of(folder: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((folder / "gallery.json").read_text(encoding="utf-8"))
    return content


@pytest.fixture(scope="module")
def made(files: dict[str, Path], gallery: Path, runtime: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return demo_web(files["fp32"], gallery, tmp_path_factory.mktemp("out") / "demo", runtime=runtime)


def test_the_folder_holds_what_the_page_loads_and_no_more(made: Path, files: dict[str, Path]) -> None:
    found = {file.relative_to(made).as_posix() for file in made.rglob("*") if file.is_file()}
    beside_parity = {name for name in found if not name.startswith("parity/")}
    assert beside_parity == {"index.html", "app.js", "gallery.json", "vectors.bin", "model.onnx"} | {
        *(f"thumbnails/{row}.jpg" for row in range(7)),
        *("runtime/ort.wasm.bundle.min.mjs", "runtime/ort-wasm-simd-threaded.wasm"),
        *("runtime/ort.webgpu.bundle.min.mjs", "runtime/ort-wasm-simd-threaded.asyncify.wasm"),
    }
    assert {"parity/self_test.js", "parity/manifest.json", "parity/expected-fp32.f32"} < found
    assert (made / "model.onnx").read_bytes() == files["fp32"].read_bytes()


def test_vectors_are_those_of_embedder_and_the_header_says_what_they_are(
    made: Path, files: dict[str, Path], gallery: Path
) -> None:
    header, embed = header_of(made), Embedder(files["fp32"])
    assert (header["count"], header["dim"], header["metric"], header["kind"]) == (7, 8, "cosine", "flat")
    assert NAME in header["ids"] and header["encoder"]["precision"] == "fp32"
    assert header["runtime"] == {
        "name": "onnxruntime-web",
        "version": "1.99.0",
        "modules": {"wasm": "runtime/ort.wasm.bundle.min.mjs", "webgpu": "runtime/ort.webgpu.bundle.min.mjs"},
    }
    rows = np.fromfile(made / "vectors.bin", "<f4").reshape(7, 8)
    np.testing.assert_allclose(rows, embed([gallery / name for name in header["ids"]]), atol=1e-6)


def test_nodes_that_webgpu_cannot_compute_are_named(made: Path) -> None:
    (name,) = header_of(made)["cpu_nodes"]
    (resize,) = (node for node in onnx.load(made / "model.onnx").graph.node if node.op_type == "Resize")
    assert resize.name == name and next(each.i for each in resize.attribute if each.name == "antialias") == 1


def test_thumbnails_are_small_pictures_of_the_rows(made: Path, gallery: Path) -> None:
    for row, name in enumerate(header_of(made)["ids"]):
        with Image.open(made / "thumbnails" / f"{row}.jpg") as shown, Image.open(gallery / name) as whole:
            assert shown.format == "JPEG" and max(shown.size) <= 192
            colours = [np.asarray(image.convert("RGB")).mean(axis=(0, 1)) for image in (shown, whole)]
            np.testing.assert_allclose(*colours, atol=3)


def test_the_page_asks_for_nothing_else_and_puts_no_text_into_html(made: Path) -> None:
    page, script = ((made / name).read_text(encoding="utf-8") for name in ("index.html", "app.js"))
    assert not re.findall(r"https?://|//cdn", page + script)
    assert "default-src 'self'" in page
    assert not re.findall(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\b", script)
    assert NAME not in page + script


def test_sq8_codes_are_those_of_faiss(files: dict[str, Path], photos: Path, runtime: Path, tmp_path: Path) -> None:
    faiss = pytest.importorskip("faiss")
    folder = demo_web(files["fp32"], photos, tmp_path / "demo", runtime=runtime, kind="sq8", webgpu=False)
    header = header_of(folder)
    codes = np.fromfile(folder / "vectors.bin", np.uint8).reshape(96, 8)
    vectors = np.asarray(Embedder(files["fp32"])([photos / name for name in header["ids"]]))
    index = faiss.IndexScalarQuantizer(8, faiss.ScalarQuantizer.QT_8bit, faiss.METRIC_L2)
    index.train(vectors)
    index.add(vectors)
    apart = codes.astype(int) - index.sa_encode(vectors)
    assert abs(apart).max() <= 1 and (apart == 0).mean() > 0.99  # float32 rounds otherwise at the edge of a step
    decoded = np.array(header["offset"]) + np.array(header["scale"]) * codes
    same = apart == 0
    np.testing.assert_allclose(decoded[same], index.reconstruct_n(0, 96)[same], atol=1e-6)
    assert not (folder / "runtime" / "ort.webgpu.bundle.min.mjs").exists()
    assert list(header["runtime"]["modules"]) == ["wasm"]


def test_vectors_that_embed_wrote_are_taken_in_the_order_of_the_images(
    made: Path, files: dict[str, Path], gallery: Path, runtime: Path, tmp_path: Path
) -> None:
    names = header_of(made)["ids"]
    embed_data(files["fp32"], [gallery / name for name in reversed(names)], tmp_path / "vectors")
    given = [gallery / name for name in names]
    folder = demo_web(files["fp32"], given, tmp_path / "demo", runtime=runtime, vectors=tmp_path / "vectors")
    found = np.fromfile(folder / "vectors.bin", "<f4")
    np.testing.assert_allclose(found, np.fromfile(made / "vectors.bin", "<f4"), atol=1e-6)
    with pytest.raises(ModelError, match=r"Their vectors need not be comparable"):
        demo_web(files["int8"], given, tmp_path / "other", runtime=runtime, vectors=tmp_path / "vectors")
    embed_data(files["fp32"], given[:3], tmp_path / "few")
    with pytest.raises(DataError, match=r"4 of 7 images are missing\. Embed these images"):
        demo_web(files["fp32"], given, tmp_path / "other", runtime=runtime, vectors=tmp_path / "few")
    assert not (tmp_path / "other").exists()


def test_a_missing_runtime_is_said_with_the_command_that_gets_it(
    files: dict[str, Path], gallery: Path, runtime: Path, tmp_path: Path
) -> None:
    with pytest.raises(OptionError, match=r"npm install onnxruntime-web; then pass --runtime"):
        demo_web(files["fp32"], gallery, tmp_path / "demo", runtime=tmp_path)
    (tmp_path / "ort.wasm.bundle.min.mjs").write_text("ort-wasm-simd-threaded.wasm")
    with pytest.raises(OptionError, match=r"lacks ort-wasm-simd-threaded\.wasm of onnxruntime-web\. Get it with"):
        demo_web(files["fp32"], gallery, tmp_path / "demo", runtime=tmp_path)
    (tmp_path / "ort-wasm-simd-threaded.wasm").touch()
    folder = demo_web(files["fp32"], gallery, tmp_path / "demo", runtime=tmp_path, webgpu=False)  # of dist, too
    assert header_of(folder)["runtime"]["version"] == "unknown"


def test_files_that_a_page_cannot_use_are_refused(
    files: dict[str, Path], gallery: Path, runtime: Path, tmp_path: Path
) -> None:
    with pytest.raises(ModelError, match=r"leaves preprocessing to the caller.* input pixels"):
        demo_web(files["tensor"], gallery, tmp_path / "demo", runtime=runtime)
    with pytest.raises(ModelError, match=r"is no \.onnx file\. Make one with export"):
        demo_web(tmp_path / "student", gallery, tmp_path / "demo", runtime=runtime)
    with pytest.raises(OptionError, match=r"kind"):
        demo_web(files["fp32"], gallery, tmp_path / "demo", runtime=runtime, kind="hnsw")
    beside = tmp_path / "beside.onnx"
    onnx.save(onnx.load(files["fp32"]), beside, save_as_external_data=True, location="weights", size_threshold=1024)
    with pytest.raises(ModelError, match=r"has weights in other files"):
        demo_web(beside, gallery, tmp_path / "demo", runtime=runtime)
    assert not (tmp_path / "demo").exists()


def test_an_earlier_page_is_replaced_and_anything_else_is_kept(
    files: dict[str, Path], gallery: Path, runtime: Path, tmp_path: Path
) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("keep")
    with pytest.raises(OptionError, match=r"is not empty, and holds no page"):
        demo_web(files["fp32"], gallery, tmp_path / "mine", runtime=runtime)
    assert (tmp_path / "mine" / "notes.txt").read_text() == "keep"
    (tmp_path / "mine" / "gallery.json").write_text('{"photos": []}')  # a page of another program
    with pytest.raises(OptionError, match=r"is not empty, and holds no page"):
        demo_web(files["fp32"], gallery, tmp_path / "mine", runtime=runtime)
    for _ in range(2):
        folder = demo_web(files["fp32"], gallery, tmp_path / "demo", runtime=runtime, webgpu=False)
        (folder / "thumbnails" / "99.jpg").touch()
        (folder / "gallery.json").unlink()
        (folder / ".stage.0").mkdir()  # as a process leaves it that is killed while the folder is replaced
    demo_web(files["fp32"], gallery, folder, runtime=runtime, webgpu=False)
    assert len(list((folder / "thumbnails").iterdir())) == 7 and not (folder / ".stage.0").exists()
    demo_web(files["fp32"], [blob(0, 0), blob(1, 0)], folder, runtime=runtime, webgpu=False)
    assert len(list((folder / "thumbnails").iterdir())) == 2
    assert [file.name for file in tmp_path.iterdir() if file.name.startswith(".")] == []


def test_the_shell_writes_the_page(
    files: dict[str, Path], gallery: Path, runtime: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from compressor.cli import main

    words = ["demo-web", str(files["fp32"]), str(gallery), str(tmp_path / "demo"), "--runtime", str(runtime), "--json"]
    assert main(words) == 0
    assert (tmp_path / "demo" / "index.html").is_file() and str(tmp_path / "demo") in capsys.readouterr().out
