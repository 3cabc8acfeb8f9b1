"""Paths as people write them reach files; invalid ones are refused in one line everywhere."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from compressor import distill, run
from export import Embedder, bench, build_index, export_model, inspect, search_index, validate
from zoo import UserError, load_data, load_model, train
from zoo.paths import expanded, given_path, is_folder, is_there

IMPOSSIBLE = ["x" * 300, "a/" + "y" * 256 + "/b", "zero\0byte", "d/" * 3000]
VERBS: dict[str, Callable[[str], Any]] = {
    "train, out": lambda path: train("glyphs", path),
    "train, data": lambda path: train(f"folder:{path}", "out"),
    "train, pretrained": lambda path: train("glyphs", "out", pretrained=f"{path}.safetensors"),
    "train, split": lambda path: train("glyphs", "out", split=f"list:{path}"),
    "train, continuous_labels": lambda path: train("glyphs", "out", continuous_labels=f"{path}.npz"),
    "distill, teacher": lambda path: distill(path, "glyphs", "out", arch="test_resnet", dim=4),
    "distill, ready embeddings": lambda path: distill(f"{path}.npz", "glyphs", "out", arch="test_resnet", dim=4),
    "export, model": lambda path: export_model(path, "out"),
    "export, path": lambda path: export_model("student", path),
    "validate, models": lambda path: validate([path], "teacher.npz", "glyphs", "out"),
    "run, out": lambda path: run("glyphs", path, student={"arch": "test_resnet", "dim": 4}),
    "bench, files": lambda path: bench([f"{path}.onnx"]),
    "inspect, file": lambda path: inspect(f"{path}.onnx"),
    "index build, model": lambda path: build_index(f"{path}.onnx", "photos", "out"),
    "index search, index": lambda path: search_index(path, ["a.png"]),
    "Embedder": lambda path: Embedder(f"{path}.onnx"),
    "load_model": load_model,
    "load_data, table": lambda path: load_data(f"csv:{path}"),
}


@pytest.mark.parametrize("path", IMPOSSIBLE, ids=["long name", "long folder", "zero", "long path"])
@pytest.mark.parametrize("verb", VERBS)
def test_impossible_paths_are_refused_in_a_line(
    verb: str, path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError) as refused:
        VERBS[verb](path)
    message = str(refused.value)
    assert len(message) < 400 and "\n" not in message and "\0" not in message
    assert list(tmp_path.iterdir()) == []


def test_home_is_where_it_was_meant(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert given_path("~/a/b.onnx") == tmp_path / "a" / "b.onnx"
    assert given_path(Path("~")) == tmp_path
    assert given_path("a/~/b") == Path("a/~/b")
    assert expanded("~no-such-user-here/x") == Path("~no-such-user-here/x")


def test_no_impossible_path_is_there(tmp_path: Path) -> None:
    assert [is_there(tmp_path / name) for name in IMPOSSIBLE] == [False] * 4
    assert is_there(tmp_path)


def test_what_this_process_may_not_see_is_no_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert is_folder(tmp_path) and not is_folder(tmp_path / "none") and not is_folder("a\0b")

    def forbidden(path: Path) -> bool:
        raise PermissionError(13, "Permission denied", str(path))  # as in a working directory without permission

    monkeypatch.setattr(Path, "is_dir", forbidden)
    assert not is_folder("test_resnet")
