"""The programs in examples/ agree with ``Embedder``. Those in other languages run in make test-ecosystem."""

from __future__ import annotations

import asyncio
import importlib.util
import multiprocessing
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from PIL import Image

from export.runtime import Embedder
from tests.conftest import blob

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
NODE_MODULES = os.environ.get("NODE_MODULES", "")
"""A folder with onnxruntime-node and sharp, for the test of JavaScript."""
ONNXRUNTIME = os.environ.get("ONNXRUNTIME", "")
"""A folder with onnxruntime's C header and library, for the test of C++."""


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory, tiny_onnx: Callable[..., Path]) -> Path:
    return tiny_onnx(tmp_path_factory.mktemp("model") / "model.onnx")


@pytest.mark.parametrize("method", ["spawn", "fork"])
def test_a_pool_of_processes(method: str, model: Path, photos: Path, tmp_path: Path) -> None:
    if method not in multiprocessing.get_all_start_methods():
        pytest.skip(f"no {method} on this system")
    command = [sys.executable, EXAMPLES / "serving" / "pool.py", model, photos, tmp_path / "out.npz", method]
    environment = os.environ | {"PYTHONPATH": str(EXAMPLES.parent)}
    subprocess.run(command, env=environment, check=True, timeout=300)
    found = np.load(tmp_path / "out.npz")
    files = sorted(photos.rglob("*.png"))
    assert found["ids"].tolist() == [str(file.relative_to(photos)) for file in files]
    np.testing.assert_allclose(found["embeddings"], Embedder(model)(files), rtol=1e-5)


def answer(embed: Embedder, image: np.ndarray, sender: Any) -> None:
    sender.send(embed(image))


@pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="no fork on this system")
def test_an_embedder_that_was_used_before_a_fork_works_after_it(model: Path) -> None:
    """Its threads are not in the new process; onnxruntime waited for them for ever."""
    embed = Embedder(model, threads=2)
    expected = embed(blob(0, 0))
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=answer, args=(embed, blob(0, 0), sender))
    process.start()
    try:
        assert receiver.poll(60)
        np.testing.assert_array_equal(receiver.recv(), expected)
    finally:
        process.kill()
        process.join()


@pytest.fixture
def app(model: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    pytest.importorskip("fastapi")
    pytest.importorskip("httpx")
    monkeypatch.setenv("MODEL", str(model))
    specification = importlib.util.spec_from_file_location("serving_app", EXAMPLES / "serving" / "app.py")
    assert specification is not None and specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    monkeypatch.setitem(sys.modules, "serving_app", module)  # where FastAPI looks annotations up
    specification.loader.exec_module(module)
    return module


def test_images_that_arrive_together_are_embedded_together(app: ModuleType, model: Path, photos: Path) -> None:
    import httpx

    files = sorted(photos.rglob("*.png"))[:40]

    async def ask() -> tuple[list[Any], list[int]]:
        async with app.lifespan(app.app):
            transport = httpx.ASGITransport(app.app)
            async with httpx.AsyncClient(transport=transport, base_url="http://here") as client:
                bodies = [file.read_bytes() for file in files] + [b"no image"]
                answers = await asyncio.gather(*(client.post("/embed", content=body) for body in bodies))
                large = await client.post("/embed", content=b"x" * (app.LARGEST_BODY + 1))
            return [*answers, large], app.app.state.batcher.batches

    *answers, wrong, large = (found := asyncio.run(ask()))[0]
    assert [answer.status_code for answer in answers] == [200] * 40
    vectors = [answer.json()["vector"] for answer in answers]
    np.testing.assert_allclose(vectors, Embedder(model)(files), rtol=1e-5)
    assert sum(found[1]) == 40 and max(found[1]) > 1
    assert wrong.status_code == 400 and "Image in the body cannot be read" in wrong.json()["detail"]
    assert large.status_code == 413


@pytest.mark.skipif(not NODE_MODULES or shutil.which("node") is None, reason="set NODE_MODULES to test JavaScript")
def test_javascript_as_a_command(model: Path, photos: Path, tmp_path: Path) -> None:
    """It speaks the protocol of command:, so validate can measure it."""
    from zoo.data.image_set import ImageSet
    from zoo.teachers.opening import open_teacher

    shutil.copy(EXAMPLES / "javascript" / "embed.mjs", tmp_path)
    (tmp_path / "node_modules").symlink_to(NODE_MODULES)
    files = [*sorted(photos.rglob("*.png"))[:5]]
    Image.fromarray(blob(3, 0)[..., 0]).save(tmp_path / "grey.png")
    files.append(tmp_path / "grey.png")
    teacher = open_teacher(f"command:node '{tmp_path / 'embed.mjs'}' '{model}'")
    found = teacher.embed_images(ImageSet([str(file) for file in files], files))
    np.testing.assert_allclose(found, Embedder(model)(files), rtol=1e-4)


@pytest.mark.skipif(not ONNXRUNTIME or shutil.which("c++") is None, reason="set ONNXRUNTIME to test C++")
def test_cpp(model: Path, tmp_path: Path) -> None:
    library = Path(ONNXRUNTIME) / "lib"
    places = ["-I", f"{ONNXRUNTIME}/include", "-L", library, f"-Wl,-rpath,{library}", "-lonnxruntime"]
    program = tmp_path / "embed"
    build = ["c++", "-std=c++17", "-Wall", "-Werror", EXAMPLES / "cpp" / "embed.cpp", *places, "-o", program]
    subprocess.run(build, check=True)
    image = blob(1, 2)[:31]
    (tmp_path / "image.rgb").write_bytes(image.tobytes())
    command = [program, model, tmp_path / "image.rgb", str(image.shape[0]), str(image.shape[1])]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    np.testing.assert_allclose(np.array(result.stdout.split(), dtype=float), Embedder(model)(image), rtol=1e-4)
    missing = subprocess.run([program, "no.onnx", *command[2:]], capture_output=True, text=True, check=False)
    assert missing.returncode == 1 and "no.onnx" in missing.stderr
