"""Tables of images."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from zoo.data import load_data
from zoo.data.splits import Source
from zoo.data.table import read_csv
from zoo.errors import DataError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """images/0.png .. images/5.png, of that shade."""
    (tmp_path / "images").mkdir()
    for value in range(6):
        Image.fromarray(np.full((2, 2, 3), value, dtype=np.uint8)).save(tmp_path / f"images/{value}.png")
    return tmp_path


def read(folder: Path, text: str, encoding: str = "utf-8") -> Source:
    (folder / "table.csv").write_bytes(text.encode(encoding))
    return read_csv(str(folder / "table.csv"))


FULL = """path,label,split,role
images/0.png,wren,train,
images/1.png,"owl, barn",test,query
images/2.png,"owl, barn",Test,Gallery
images/3.png,Ærfugl,TRAIN,both
images/4.png,wren,val,both
images/5.png,wren,,both
"""


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_a_table_with_all_columns(folder: Path, encoding: str, end: str, delimiter: str) -> None:
    text = FULL.replace(", ", "|").replace(",", delimiter).replace("|", ", ").replace("\n", end)
    source = read(folder, text, encoding)
    images = source.images
    assert list(images.ids) == [f"images/{i}.png" for i in range(6)]
    assert list(images.class_names) == ["owl, barn", "wren", "Ærfugl"]
    assert images.labels is not None and images.labels.tolist() == [1, 0, 0, 2, 1, 1]
    assert images.labels.dtype == np.int64
    assert source.split is not None
    assert source.split.tolist() == ["train", "test", "test", "train", "validation", ""]
    assert images.roles is not None
    assert images.roles.tolist() == ["both", "query", "gallery", "both", "both", "both"]
    assert [int(images.pixels(i)[0, 0, 0]) for i in range(6)] == list(range(6))


def test_the_split_column_divides_the_data(folder: Path) -> None:
    (folder / "table.csv").write_text(FULL, encoding="utf-8")
    data = load_data(str(folder / "table.csv"))  # a bare path that ends in .csv is a table
    assert list(data.train.ids) == ["images/0.png", "images/3.png"]
    assert list(data.validation.ids) == ["images/4.png"]
    assert list(data.test.ids) == ["images/1.png", "images/2.png"]
    assert data.test.roles is not None and data.test.roles.tolist() == ["query", "gallery"]


def test_columns_may_come_in_any_order_and_blank_lines_count_for_nothing(folder: Path) -> None:
    images = read(folder, "\nLabel, Path\n\nwren, images/0.png\n,\nowl, images/1.png\n").images
    assert list(images.ids) == ["images/0.png", "images/1.png"]
    assert images.labels is not None and images.labels.tolist() == [1, 0]


def test_paths_may_be_absolute(folder: Path) -> None:
    images = read(folder, f"path\n{folder}/images/4.png\n").images
    assert list(images.ids) == [f"{folder}/images/4.png"] and images.pixels(0)[0, 0, 0] == 4


@pytest.mark.parametrize(
    "text", ["path\nimages/0.png\nimages/1.png\n", "path,label,split,role\nimages/0.png,,,\nimages/1.png,,,\n"]
)
def test_absent_and_empty_columns_say_nothing(folder: Path, text: str) -> None:
    source = read(folder, text)
    assert source.split is None and source.images.labels is None and source.images.roles is None
    assert list(source.images.class_names) == []


def test_roles_that_are_all_both_are_none(folder: Path) -> None:
    assert read(folder, "path,role\nimages/0.png,both\nimages/1.png,\n").images.roles is None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"table\.csv has no rows"),
        ("path,label\n", r"table\.csv has no rows"),
        ("path,lable\nimages/0.png,a\n", r"table\.csv: unknown column 'lable'.*Did you mean label\?"),
        ("images/0.png,a\nimages/1.png,b\n", r"table\.csv: unknown column 'images/0\.png'.*known are path"),
        ("label,split\na,train\n", r"table\.csv: its header has no column path, only label, split"),
        ("path,label,Label\nimages/0.png,a,a\n", r"table\.csv: column 'label' occurs more than once"),
        ("path,label\nimages/0.png,a\n,b\n", r"table\.csv line 3: path is empty"),
        ("path,label\n\nimages/0.png\n", r"table\.csv line 3: 1 cells for the 2 columns path, label"),
        ("path,label\nimages/0.png,owl, barn\n", r"table\.csv line 2: 3 cells.*Quote cells that contain ','"),
        ("path,label\nimages/0.png,a\nimages/1.png,\n", r"table\.csv line 3: label is empty"),
        ("path,split\nimages/0.png,trian\n", r"table\.csv line 2: split 'trian' is not one of.*Did you mean train\?"),
        ("path,role\nimages/0.png,galery\n", r"table\.csv line 2: role 'galery'.*Did you mean gallery\?"),
        ("path\nimages/0.png\nimages/1.png\n./images/0.png\n", r"table\.csv line 4: .* is on line 2 already"),
        ('path,label\nimages/0.png,"a\n', r"table\.csv line \d: not valid CSV"),
        ("path\n0.png\n1.png\n", r"none of the 2 image files exists, .*/0\.png.*start from the table's folder"),
    ],
)
def test_a_wrong_table_is_an_error_that_names_the_line(folder: Path, text: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        read(folder, text)


def test_single_missing_files_are_left_to_the_reading_of_images(folder: Path) -> None:
    images = read(folder, "path\nimages/0.png\nimages/9.png\nimages/1.png\n").images
    assert list(images.checked(max_unreadable=1).ids) == ["images/0.png", "images/1.png"]
    with pytest.raises(DataError, match=r"limit is 0.*images/9\.png"):
        images.checked(max_unreadable=0)


def test_a_table_that_cannot_be_read(folder: Path) -> None:
    with pytest.raises(DataError, match=r"none\.csv cannot be read \(No such file"):
        read_csv(str(folder / "none.csv"))
    with pytest.raises(DataError, match="images cannot be read"):
        read_csv(str(folder / "images"))
    with pytest.raises(DataError, match=r"table\.csv is not UTF-8 .*at byte 18"):
        read(folder, "path\nimages/0.png\nÆ.png\n", "latin-1")
