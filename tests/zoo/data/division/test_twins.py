"""Copies of an image on both sides of a split."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from zoo.data import load_data
from zoo.data.division.twins import twins
from zoo.data.image_set import ImageSet
from zoo.data.stored import ZipMember


def test_files_are_compared_by_their_bytes(tmp_path: Path) -> None:
    contents = {"a": b"1" * 9000, "b": b"1" * 9000, "c": b"1" * 8999 + b"2", "d": b"2" * 9000, "e": b"", "f": b""}
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)

    def of(names: str) -> ImageSet:
        return ImageSet(list(names), [tmp_path / name for name in names])

    assert twins(of("dab"), of("cba")) == [(1, 1), (2, 1)]
    assert twins(of("acd"), of("b")) == [(0, 0)]
    assert twins(of("c"), of("ab")) == []
    assert twins(of("az"), of("bz")) == [(0, 0)]  # what is not there, is told when it is read


def test_members_of_archives_and_arrays_are_compared_too(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as opened:
        for name, content in {"1": b"one", "2": b"two", "3": b"one"}.items():
            opened.writestr(name, content)
    members = [ZipMember(tmp_path / "a.zip", name) for name in "123"]
    assert twins(ImageSet(["1", "2"], members[:2]), ImageSet(["3"], members[2:])) == [(0, 0)]
    black, white = np.zeros((2, 2, 3), np.uint8), np.full((2, 2, 3), 255, np.uint8)
    one = ImageSet(["a", "b", "c"], [black, white, lambda: black])
    assert twins(one, ImageSet(["d", "e"], [white.copy(), lambda: black])) == [(1, 0)]


def test_they_are_counted_and_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for value, name in enumerate(["train/ant/1", "train/bee/1", "test/cat/1", "test/cat/2", "val/dog/1"]):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (4, 4), (value, 0, 0)).save(tmp_path / f"{name}.png")
    assert load_data(f"folder:{tmp_path}").protocol["test_images_seen"] == 0 and "byte" not in caplog.text
    (tmp_path / "test/cat/3.png").write_bytes((tmp_path / "train/bee/1.png").read_bytes())
    data = load_data(f"folder:{tmp_path}")
    assert data.protocol["test_images_seen"] == 1 and len(data.test) == 3
    assert "1 of 3 test images are in train too, byte for byte: test/cat/3.png is train/bee/1.png" in caplog.text
