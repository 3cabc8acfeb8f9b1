"""Columns in little memory: the same items as lists have, the same digests, and few bytes for each image."""

from __future__ import annotations

import hashlib
import json
import os
import tracemalloc
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from zoo.data import load_images
from zoo.data.compact import Computed, Texts, json_items, most_repeated, repeated
from zoo.data.image_set import ImageSet
from zoo.errors import DataError


@pytest.mark.parametrize("count", [0, 1, 255, 256, 257, 1000])
def test_texts_are_a_list(count: int) -> None:
    expected = [f"{row}\n\0é\udcff,{'x' * (row % 7)}" for row in range(count)]
    texts = Texts(expected)
    assert (len(texts), list(texts), texts[:], texts[3:900:7]) == (count, expected, expected, expected[3:900:7])
    for row in np.random.default_rng(0).permutation(count):
        assert texts[row] == expected[row] == texts[row - count]
    with pytest.raises(IndexError):
        texts[count]
    texts.append("last")
    assert texts[-1] == "last" and list(reversed(texts)) == ["last", *reversed(expected)]


def test_computed_items() -> None:
    squares = Computed(5, lambda row: row * row)
    assert list(squares) == [0, 1, 4, 9, 16] and squares[-2] == 9 and squares[1:3] == [1, 4]
    with pytest.raises(IndexError):
        squares[-6]


def test_what_occurs_more_than_once() -> None:
    assert repeated(np.array([5, 3, 5, 1, 3, 9])).tolist() == [0, 1, 2, 4]
    assert repeated(np.array([2, 1])).tolist() == [] == repeated(np.empty(0, np.int64)).tolist()
    assert most_repeated(["a", "b", "c", "b", "c", "c"]) == "c"
    assert most_repeated(["b", "a", "a", "b"]) == "b"
    assert most_repeated(["b", "a"]) is None


@pytest.mark.parametrize("count", [0, 1, 256, 257, 600])
def test_json_in_pieces(count: int) -> None:
    values = [[row, f"é{row}"] for row in range(count)]
    assert "".join(json_items(values)) == json.dumps(values)


def test_digests_are_those_of_the_whole_columns_in_json() -> None:
    pixels = [np.full((1, 1, 3), value, np.uint8) for value in (1, 2)]
    images = ImageSet(["a", "b"], pixels, np.array([1, 0]), ["x", "y"], np.array(["query", "both"], object))
    marks = [zlib.crc32(b"\1\1\1"), zlib.crc32(b"\2\2\2")]
    expected = hashlib.sha256(json.dumps([["a", "b"], [1, 0], ["query", "both"], marks]).encode()).hexdigest()
    assert images.digest == expected[:16]


@pytest.mark.parametrize("kind", ["csv", "parquet", "folder"])
def test_names_of_many_images_take_little_memory(kind: str, tmp_path: Path) -> None:
    names = [f"class{row // 1000:05}/image-{row:08}.png" for row in range(2_000)]
    for name in names if kind == "folder" else names[:1]:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()

    def peak(count: int) -> int:
        """Return the bytes that reading the names of so many images takes at most."""
        if kind == "csv":
            source = tmp_path / f"{count}.csv"
            source.write_text("path,label\n" + "".join(f"{name},{name[:10]}\n" for name in names[:count]))
        elif kind == "parquet":
            pyarrow = pytest.importorskip("pyarrow")
            parquet = pytest.importorskip("pyarrow.parquet")
            source = tmp_path / f"{count}.parquet"
            columns = {"path": names[:count], "label": [name[:10] for name in names[:count]]}
            parquet.write_table(pyarrow.table(columns), source, row_group_size=1000)
        else:
            source = tmp_path
            for name in names[count:]:
                (tmp_path / name).unlink(missing_ok=True)
        tracemalloc.start()
        images = load_images(source, labelled=True)
        assert (len(images), images.ids[-1]) == (count, names[count - 1])
        assert images.digest
        most = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return most

    many, few = len(names), len(names) // 3
    load_images(tmp_path, labelled=True)
    first = peak(many) if kind == "folder" else peak(1)  # imports what it needs; files go, and do not come back
    most = first if kind == "folder" else peak(many)
    assert (most - peak(few)) / (many - few) < 150  # as objects of Python: 600 to 900 bytes


def test_many_hard_links_of_one_file_are_read_in_linear_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Image.new("RGB", (2, 2)).save(tmp_path / "0.png")
    for number in range(1, 200):
        os.link(tmp_path / "0.png", tmp_path / f"{number}.png")
    table = tmp_path / "table.csv"
    table.write_text("path\n" + "".join(f"{number}.png\n" for number in range(200)))
    asked: list[str] = []
    real = os.path.realpath
    monkeypatch.setattr("os.path.realpath", lambda path: (asked.append(path), real(path))[1])
    assert len(load_images(table)) == 200
    assert len(asked) <= 200
    table.write_text(table.read_text() + f"{tmp_path.name}/../7.png\n../{tmp_path.name}/7.png\n")
    (tmp_path / tmp_path.name).mkdir()
    with pytest.raises(DataError, match=r"line 202: .*/\.\./7\.png is on line 9 already, as 7\.png"):
        load_images(table)
