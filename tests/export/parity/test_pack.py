"""The parity pack: its checkers pass a correct application, and fail one that preprocesses images differently."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from export.onnx.tensor_file import INPUT, write_tensor_file
from export.parity.images import parity_images
from export.parity.pack import CHECKERS, write_parity
from export.runtime import Embedder
from zoo.errors import ModelError, OptionError
from zoo.models.preprocessing import Preprocess
from zoo.sessions import cpu_session

NODE_MODULES = os.environ.get("NODE_MODULES", "")
"""A folder with onnxruntime-node and onnxruntime-web, for the tests of JavaScript."""
ONNXRUNTIME = os.environ.get("ONNXRUNTIME", "")
"""A folder with onnxruntime's C header and library, for the test of C++."""


@pytest.fixture(scope="module")
def exported(files: dict[str, Path]) -> dict[str, Path]:
    return {precision: files[precision] for precision in ("fp32", "int8")}


@pytest.fixture(scope="module")
def pack(exported: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pack") / "parity"
    write_parity(exported, folder)
    return folder


@pytest.fixture(scope="module")
def checker(pack: Path) -> ModuleType:
    """The pack's own Python checker."""
    specification = importlib.util.spec_from_file_location("parity_check", pack / "check.py")
    assert specification is not None and specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def application(exported: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Any]:
    """An application that prepares images itself, in the way given, and runs the network alone."""
    folder = tmp_path_factory.mktemp("application")
    about = Embedder(exported["fp32"]).preprocessing

    def of(precision: str, antialias: bool = True, **changed: Any) -> Callable[[np.ndarray], np.ndarray]:
        write_tensor_file(exported[precision], folder / f"{precision}.onnx")
        session = cpu_session(folder / f"{precision}.onnx", threads=1)
        preprocess = Preprocess(replace(about, **changed), antialias=antialias)

        def embed(pixels: np.ndarray) -> np.ndarray:
            tensor = preprocess(torch.from_numpy(pixels.copy())[None]).numpy()
            return np.asarray(session.run(None, {INPUT: tensor})[0][0])

        return embed

    return of


def failures(results: list[tuple[str, float, float]]) -> list[str]:
    return [name for name, distance, limit in results if not distance <= limit]


def test_images_are_of_odd_sizes_and_the_same_every_time() -> None:
    first, again = parity_images(), parity_images()
    assert len(first) == 5 and [one.content for one in first] == [other.content for other in again]
    assert {tuple(image.pixels.shape[:2]) for image in first if min(image.pixels.shape[:2]) % 2} != set()
    assert [image.exact for image in first] == [image.file.endswith("png") for image in first]
    for image in first:
        assert image.pixels.dtype == np.uint8 and image.pixels.std() > 20


def test_the_pack_holds_pixels_files_vectors_and_checkers(pack: Path, exported: dict[str, Path]) -> None:
    manifest = json.loads((pack / "manifest.json").read_text(encoding="utf-8"))
    assert set(CHECKERS) < {file.name for file in pack.iterdir()}
    assert [set(manifest["precisions"]), manifest["dim"], len(manifest["images"])] == [{"fp32", "int8"}, 8, 5]
    embed = Embedder(exported["fp32"])
    expected = np.fromfile(pack / "expected-fp32.f32", "<f4").reshape(5, 8)
    for image, vector in zip(manifest["images"], expected, strict=True):
        shape = (image["height"], image["width"], 3)
        pixels = np.fromfile(pack / image["pixels"], np.uint8).reshape(shape)
        np.testing.assert_array_equal(pixels, np.asarray(Image.open(pack / image["file"]).convert("RGB")))
        np.testing.assert_allclose(embed(pixels), vector, atol=1e-6)


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_the_same_computation_passes(precision: str, checker: ModuleType, application: Callable[..., Any]) -> None:
    results = checker.check(application(precision), precision)
    assert len(results) == 10 and not failures(results)


@pytest.mark.parametrize("precision", ["fp32", "int8"])
@pytest.mark.parametrize(
    "change",
    [
        {"antialias": False},
        {"interpolation": "bilinear"},
        {"interpolation": "bicubic"},
        {"mean": (0.0, 0.0, 0.0)},
        {"std": (1.0, 1.0, 1.0)},
        {"crop_mode": "squash"},
    ],
    ids=str,
)
def test_a_changed_preprocessing_fails(
    precision: str,
    change: dict[str, Any],
    checker: ModuleType,
    application: Callable[..., Any],
    exported: dict[str, Path],
) -> None:
    if change.get("interpolation") == Embedder(exported["fp32"]).preprocessing.interpolation:
        pytest.skip("the model's own filter")
    assert failures(checker.check(application(precision, **change), precision))


def test_other_colours_other_weights_and_other_sizes_fail(checker: ModuleType, application: Callable[..., Any]) -> None:
    right = application("fp32")
    assert failures(checker.check(lambda pixels: right(pixels[..., ::-1])))
    assert len(failures(checker.check(application("int8")))) == 10  # int8 where fp32 is expected
    assert len(failures(checker.check(lambda pixels: right(pixels)[:4]))) == 10
    assert len(failures(checker.check(lambda pixels: right(pixels) * np.nan))) == 10


def test_the_checker_runs_alone_and_its_exit_code_tells(pack: Path, exported: dict[str, Path], tmp_path: Path) -> None:
    moved = Path(shutil.copytree(pack, tmp_path / "parity"))
    command = [sys.executable, "-I", str(moved / "check.py"), str(exported["fp32"])]
    assert subprocess.run(command, capture_output=True, check=False).returncode == 0
    rows = np.fromfile(moved / "expected-fp32.f32", "<f4").reshape(5, 8)
    rows[2, 1] += 0.01
    rows.tofile(moved / "expected-fp32.f32")
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 1 and "FAILED checks.rgb" in result.stdout and result.stdout.count("FAILED") == 2
    manifest = json.loads((moved / "manifest.json").read_text())
    (moved / "manifest.json").write_text(json.dumps(manifest | {"images": {}}))
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 2 and "Traceback" not in result.stderr
    assert "parity is damaged, or no parity pack of fp32" in result.stderr


def test_a_pack_that_would_notice_nothing_is_refused(tiny_onnx: Callable[..., Path], tmp_path: Path) -> None:
    """Of the mean colour alone: no resize changes it, and there is no preprocessing to cut off."""
    with pytest.raises(ModelError, match="no preprocessing that could be cut off"):
        write_parity({"fp32": tiny_onnx(tmp_path / "tiny.onnx")}, tmp_path / "parity")


@pytest.mark.parametrize("manifest", [None, '{"name": "an application"}', "not JSON"])
def test_a_folder_that_is_no_pack_is_refused_before_any_work(
    manifest: str | None, exported: dict[str, Path], tmp_path: Path
) -> None:
    import compressor

    mine = tmp_path / "parity"
    mine.mkdir()
    (mine / "notes.txt").write_text("keep")
    if manifest is not None:
        (mine / "manifest.json").write_text(manifest)
    before = {file.name: file.read_text() for file in mine.iterdir()}
    with pytest.raises(OptionError, match=r"parity is where the parity pack goes, and it holds other files \(.*notes"):
        write_parity({"fp32": exported["fp32"]}, mine)
    with pytest.raises(OptionError, match="holds other files"):
        compressor.ship(tmp_path / "no model is read", tmp_path, parity=True)
    assert {file.name: file.read_text() for file in mine.iterdir()} == before
    assert [entry.name for entry in tmp_path.iterdir()] == ["parity"]


def test_an_earlier_pack_is_replaced_and_what_was_added_to_it_stays(
    pack: Path, exported: dict[str, Path], tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(pack, tmp_path / "parity"))
    (folder / "check").write_text("a program built here")
    (folder / "check.py").write_text("old")
    write_parity({"fp32": exported["fp32"]}, folder)
    names = {file.name for file in folder.iterdir()}
    assert names == {file.name for file in pack.iterdir()} - {"expected-int8.f32"} | {"check"}
    assert (folder / "check.py").read_bytes() == (pack / "check.py").read_bytes()


def test_tolerance_too_wide_for_a_changed_resize_is_refused(
    exported: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from export.parity import pack

    monkeypatch.setitem(pack._LEAST, "fp32", 3.0)
    with pytest.raises(ModelError, match="a parity pack would not notice"):
        write_parity({"fp32": exported["fp32"]}, tmp_path / "parity")


@pytest.mark.skipif(not NODE_MODULES or shutil.which("node") is None, reason="set NODE_MODULES to test JavaScript")
@pytest.mark.parametrize("runtime", ["onnxruntime-node", "onnxruntime-web"])
@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_javascript(runtime: str, precision: str, pack: Path, exported: dict[str, Path]) -> None:
    check = ["node", str(pack / "check.mjs"), str(exported[precision])]
    right = subprocess.run([*check, precision, runtime], cwd=NODE_MODULES, capture_output=True, text=True, check=False)
    assert right.returncode == 0 and right.stdout.count("ok") == 5, right.stdout + right.stderr
    other = {"fp32": "int8", "int8": "fp32"}[precision]
    wrong = subprocess.run([*check, other, runtime], cwd=NODE_MODULES, capture_output=True, text=True, check=False)
    assert wrong.returncode == 1 and "FAILED" in wrong.stdout, wrong.stdout + wrong.stderr


@pytest.mark.skipif(not ONNXRUNTIME or shutil.which("c++") is None, reason="set ONNXRUNTIME to test C++")
def test_cpp(pack: Path, exported: dict[str, Path], tmp_path: Path) -> None:
    library = Path(ONNXRUNTIME) / "lib"
    places = ["-I", f"{ONNXRUNTIME}/include", "-L", str(library), f"-Wl,-rpath,{library}"]
    build = ["c++", "-std=c++17", "-Wall", "-Werror", str(pack / "check.cpp"), *places]
    subprocess.run([*build, "-lonnxruntime", "-o", str(tmp_path / "check")], check=True)
    for precision, code in (("fp32", 0), ("int8", 1)):
        command = [str(tmp_path / "check"), str(exported["fp32"]), precision, str(pack)]
        result = subprocess.run(command, capture_output=True, text=True, check=False)
        assert result.returncode == code, result.stdout + result.stderr
