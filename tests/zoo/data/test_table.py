"""Tables of images."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from zoo.data import load_data
from zoo.data.division.splits import Source
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
        ("images/0.png,a\nimages/1.png,b\n", r"table\.csv: .* no column path, only images/0\.png, a\. Known are path"),
        ("label,split\na,train\n", r"table\.csv: its header has no column path, only label, split"),
        ("path,label,Label\nimages/0.png,a,a\n", r"table\.csv: columns 'label' and 'Label' .* both say label"),
        ("path,label\nimages/0.png,a\n,b\n", r"table\.csv line 3: path is empty"),
        ("path,label\n\nimages/0.png\n", r"table\.csv line 3: 1 cells for the 2 columns path, label"),
        ("path,label\nimages/0.png,owl, barn\n", r"table\.csv line 2: 3 cells.*Quote cells that contain ','"),
        ("path,label\nimages/0.png,a\nimages/1.png,\n", r"table\.csv line 3: label is empty"),
        ("path,split\nimages/0.png,trian\n", r"table\.csv line 2: split 'trian' is not one of.*Did you mean train\?"),
        ("path,role\nimages/0.png,galery\n", r"table\.csv line 2: role 'galery'.*Did you mean gallery\?"),
        ("path\nimages/0.png\nimages/1.png\n./images/0.png\n", r"table\.csv line 4: .* is on line 2 already"),
        ("image,filename\nimages/0.png,0.png\n", r"columns 'image' and 'filename' of its header both say path"),
        ("path,split\nimages/0.png,query\n", r"a part called query but none called gallery or test"),
        ("path,label\nimages/0.png,a\nimages/1.png,NaN\n", r"table\.csv line 3: label is 'NaN', which means none"),
        ("path,is_query,is_gallery\nimages/0.png,1,0\nimages/1.png,0,0\n", r"line 3: neither is_query nor is_gall"),
        ("path,is_query\nimages/0.png,perhaps\n", r"line 2: is_query 'perhaps' is not one of true, false"),
        ("path,label\nNaN,a\n", r"table\.csv line 2: path is empty"),
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


def test_other_columns_and_an_index_without_a_name_are_not_read(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO"):
        images = read(folder, ",path,x_1,Photographer\n0,images/0.png,3,\n1,images/1.png,4,me\n").images
    assert list(images.ids) == ["images/0.png", "images/1.png"] and images.labels is None
    assert "table.csv: ignored columns: one without a name, x_1, Photographer" in caplog.text
    assert list(read(folder, "Unnamed: 0,path\n0,images/0.png\n").images.ids) == ["images/0.png"]


@pytest.mark.parametrize("path", ["image", "Filename", "file_name", "Image Path", "img-path"])
@pytest.mark.parametrize("label", ["class", "Class_Name", "category"])
def test_usual_names_of_columns_are_understood(folder: Path, path: str, label: str) -> None:
    images = read(folder, f"{path},{label}\nimages/0.png,wren\nimages/1.png,owl\n").images
    assert list(images.ids) == ["images/0.png", "images/1.png"]
    assert images.labels is not None and images.labels.tolist() == [1, 0]


def test_our_own_name_of_a_column_comes_first(folder: Path) -> None:
    images = read(folder, "image,path,class,label\nno.png,images/0.png,7,wren\n").images
    assert list(images.ids) == ["images/0.png"] and list(images.class_names) == ["wren"]


@pytest.mark.parametrize("first", ["sep=;", "SEP=;", '"sep=;"', "sep=;\r"])
def test_a_first_line_may_say_what_separates_cells(folder: Path, first: str) -> None:
    images = read(folder, f"{first}\npath;label\nimages/0.png;a,b,c,d\n").images
    assert list(images.class_names) == ["a,b,c,d"]
    with pytest.raises(DataError, match=r"table\.csv line 4: path is empty"):
        read(folder, f"{first}\npath;label\nimages/0.png;a\n;b\n")
    assert list(read(folder, "sep=|\npath|label\nimages/0.png|a\n").images.ids) == ["images/0.png"]
    assert list(read(folder, "sep=\\t\npath\tlabel\nimages/0.png\ta\n").images.ids) == ["images/0.png"]


def test_queries_and_gallery_by_flags(folder: Path) -> None:
    text = "path,label,split,is_query,is_gallery\n"
    rows = ["a,train,,", "b,validation,True,True", "b,validation,False,True", "c,test,1,0", "c,test,nan,true"]
    source = read(folder, text + "".join(f"images/{i}.png,{row}\n" for i, row in enumerate(rows)))
    assert source.images.roles is not None
    assert source.images.roles.tolist() == ["both", "both", "gallery", "query", "gallery"]
    only = read(folder, "path,is_query\nimages/0.png,true\nimages/1.png,false\n").images
    assert only.roles is not None and only.roles.tolist() == ["query", "gallery"]


def test_parts_in_other_words(folder: Path) -> None:
    cells = ["Training", "dev", "nan", "query", "Gallery", "testing"]
    source = read(folder, "path,split\n" + "".join(f"images/{i}.png,{cell}\n" for i, cell in enumerate(cells)))
    assert source.split is not None and source.images.roles is not None
    assert source.split.tolist() == ["train", "validation", "", "test", "test", "test"]
    assert source.images.roles.tolist() == ["both", "both", "both", "query", "gallery", "both"]


def test_backslashes_are_slashes(folder: Path) -> None:
    images = read(folder, "path\nimages\\0.png\n.\\images\\1.png\n").images
    assert list(images.ids) == ["images/0.png", "images/1.png"]
    assert [int(images.pixels(i)[0, 0, 0]) for i in range(2)] == [0, 1]
    (folder / "images/0.png").rename(folder / "a\\b.png")  # a file may be called so, too
    images = read(folder, "path\na\\b.png\n").images
    assert list(images.ids) == ["a\\b.png"] and images.pixels(0)[0, 0, 0] == 0


@pytest.mark.parametrize(
    "spelled", ["images\\0.png", "images/../images/0.png", "{folder}/images/0.png", "linked/0.png", "images//0.png"]
)
def test_one_image_spelled_two_ways_is_one(folder: Path, spelled: str) -> None:
    (folder / "linked").symlink_to(folder / "images")
    with pytest.raises(DataError, match=r"table\.csv line 3: .* is on line 2 already, as images/0\.png"):
        read(folder, f"path\nimages/0.png\n{spelled.format(folder=folder)}\n")


def test_one_file_of_two_hard_links_is_two_images(folder: Path) -> None:
    (folder / "copy.png").hardlink_to(folder / "images/0.png")
    assert len(read(folder, "path\nimages/0.png\ncopy.png\n").images) == 2


def test_letters_with_accents_may_be_two_characters(folder: Path) -> None:
    with pytest.raises(DataError, match=r"line 3: .* is on line 2 already"):
        read(folder, "path\nimages/caf\u00e9.png\nimages/cafe\u0301.png\nimages/0.png\n")


def test_paths_may_start_at_home(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(folder))
    images = read(folder, "path\n~/images/3.png\n").images
    assert images.pixels(0)[0, 0, 0] == 3


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
def test_named_pipes_are_not_waited_for(folder: Path) -> None:
    os.mkfifo(folder / "pipe.csv")
    os.mkfifo(folder / "pipe.png")
    with pytest.raises(DataError, match=r"pipe\.csv cannot be read \(it is a named pipe"):
        read_csv(str(folder / "pipe.csv"))
    images = read(folder, "path\npipe.png\n").images
    with pytest.raises(DataError, match=r"pipe\.png cannot be read .*a named pipe"):
        images.pixels(0)


@pytest.mark.parametrize(
    "text",
    [
        "name,LONG\na,b",
        "path,split\nimages/0.png,LONG",
        "path,label\nLONG,a",
        "path,label\nLONG,a\nLONG,b",
        "path,role\nimages/0.png,LONG",
        "path,label,LONG\na,b",
    ],
)
def test_long_cells_are_not_quoted_whole(folder: Path, text: str) -> None:
    (folder / "images.csv").write_text(text.replace("LONG", "x" * 20_000))
    with pytest.raises(DataError) as refused:
        load_data(f"csv:{folder / 'images.csv'}")
    assert len(str(refused.value)) < 700 and "xxx" in str(refused.value)


def test_names_that_no_file_can_have_are_left_to_the_reading_of_images(folder: Path) -> None:
    names = ["images/0.png", "images/1.png", "x" * 300 + ".png", "zero\0.png"]
    (folder / "images.csv").write_text("\n".join(["path,label", *(f"{name},a" for name in names)]))
    with pytest.raises(DataError, match="1 images cannot be read; the limit is 0"):
        load_data(f"csv:{folder / 'images.csv'}", "all-test").test.checked(0)
    assert len(load_data(f"csv:{folder / 'images.csv'}", "all-test").test.checked(2)) == 2
