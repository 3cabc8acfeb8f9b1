"""Continuous labels from files, attached to data of any kind."""

from __future__ import annotations

import os
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from zoo.data import load_data
from zoo.data.continuous import ContinuousLabels
from zoo.data.image_set import ImageSet
from zoo.errors import DataError, OptionError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """images/0.png .. images/5.png, and a table of them in another order."""
    (tmp_path / "images").mkdir()
    for value in range(6):
        Image.fromarray(np.full((2, 2, 3), value, dtype=np.uint8)).save(tmp_path / f"images/{value}.png")
    lines = [f"images/{value}.png,{'test' if value > 3 else 'train'}" for value in (5, 4, 3, 2, 1, 0)]
    (tmp_path / "table.csv").write_text("\n".join(["path,split", *lines]))
    return tmp_path


def distances(images: ImageSet) -> list[list[float]]:
    assert isinstance(images.continuous, ContinuousLabels)
    rows = np.arange(len(images))
    return images.continuous.distances(rows, rows).tolist()


def test_a_table_of_numbers(folder: Path) -> None:
    # Not in the order of the images, with a label for an image that is not there.
    lines = ["Path;x;Y", *(f"{value}.png;{value};{2 * value}e0" for value in (3, 1, 0, 2, 9, 4, 5))]
    (folder / "labels.csv").write_text("\n".join(lines))
    data = load_data(f"folder:{folder / 'images'}", validation=0, continuous_labels=folder / "labels.csv")
    assert list(data.train.ids) == [f"{value}.png" for value in range(6)]
    assert distances(data.train)[1] == pytest.approx([5**0.5 * abs(1 - value) for value in range(6)])
    assert data.protocol["label_distance"] == "euclidean distance of 2 numbers"
    cosine = load_data(
        f"folder:{folder / 'images'}", validation=0, continuous_labels=folder / "labels.csv", label_metric="euclidean"
    )
    assert cosine.digest == data.digest


@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
def test_vectors_by_id(folder: Path, metric: str) -> None:
    vectors = np.array([[1.0, 0], [0, 2], [3, 3]])
    np.savez(folder / "labels.npz", ids=[f"images/{i}.png" for i in (4, 5, 0)], vectors=vectors)
    (folder / "three.csv").write_text("path,split\nimages/5.png,test\nimages/0.png,test\nimages/4.png,test\n")
    data = load_data(f"{folder}/three.csv", continuous_labels=f"{folder}/labels.npz", label_metric=metric)
    half = 2**-0.5
    expected = {
        "euclidean": [[0, 10**0.5, 5**0.5], [10**0.5, 0, 13**0.5], [5**0.5, 13**0.5, 0]],
        "cosine": [[0, 1 - half, 1], [1 - half, 0, 1 - half], [1, 1 - half, 0]],
    }
    np.testing.assert_allclose(distances(data.test), expected[metric], atol=1e-12)


def test_distances_by_id(folder: Path) -> None:
    matrix = np.array([[0, 1, 2], [1, 0, 4], [2, 4, 0]], dtype=np.float32)
    np.savez(folder / "labels.npz", ids=[f"images/{i}.png" for i in (4, 5, 0)], distances=matrix)
    (folder / "three.csv").write_text("path,split\nimages/5.png,test\nimages/0.png,test\nimages/4.png,test\n")
    data = load_data(f"{folder}/three.csv", continuous_labels=folder / "labels.npz")
    assert distances(data.test) == [[0, 4, 1], [4, 0, 2], [1, 2, 0]]
    assert data.protocol["label_distance"] == "given distances"
    with pytest.raises(OptionError, match=r"label_metric is 'cosine', but .*labels\.npz holds distances already"):
        load_data(f"{folder}/three.csv", continuous_labels=folder / "labels.npz", label_metric="cosine")


def test_rows_in_the_order_of_a_table(folder: Path) -> None:
    np.save(folder / "labels.npy", np.array([[50.0], [40], [30], [20], [10], [0]]))
    data = load_data(f"{folder}/table.csv", validation=0, continuous_labels=folder / "labels.npy")
    assert list(data.train.ids) == [f"images/{i}.png" for i in (3, 2, 1, 0)]
    assert distances(data.train)[0] == [0, 10, 20, 30] and distances(data.test) == [[0, 10], [10, 0]]
    message = r"labels\.npy have no image ids, so they fit tables only.*\.npz with ids and vectors"
    with pytest.raises(DataError, match=message):
        load_data(f"folder:{folder / 'images'}", continuous_labels=folder / "labels.npy")
    np.save(folder / "labels.npy", np.array(50.0))
    with pytest.raises(DataError, match=r"Continuous labels .*labels\.npy are a single number\. They must be a \.csv"):
        load_data(f"{folder}/table.csv", continuous_labels=folder / "labels.npy")
    np.save(folder / "labels.npy", np.zeros((5, 1)))
    with pytest.raises(DataError, match=r"labels\.npy has 5 labels for 6 ids"):
        load_data(f"{folder}/table.csv", continuous_labels=folder / "labels.npy")


def test_splits_that_are_ready_get_them_too(folder: Path) -> None:
    ready = load_data(f"{folder}/table.csv", validation=0)
    assert ready.test.continuous is None
    np.savez(folder / "labels.npz", ids=[f"images/{i}.png" for i in range(6)], vectors=np.arange(6.0))
    data = load_data(ready, continuous_labels=folder / "labels.npz")
    assert distances(data.test) == [[0, 1], [1, 0]] and data.digest != ready.digest


def test_missing_images_are_named(folder: Path) -> None:
    (folder / "labels.csv").write_text("path,x\n0.png,1\n1.png,1\n2.png,1\n3.png,1\nimages/5.png,1\n")
    message = r"labels\.csv has no label for image '4\.png' \(2 of 6 missing\)\. Did you mean .*\? Add them"
    with pytest.raises(DataError, match=message):
        load_data(f"folder:{folder / 'images'}", continuous_labels=folder / "labels.csv")


def test_labels_of_images_spelled_in_other_ways(folder: Path) -> None:
    (folder / "table.csv").write_text("path,split\nimages/0.png,test\n./images/1.png,test\n")
    (folder / "labels.csv").write_text(",Filename,x\n0,images\\0.png,1\n1,images/x/../1.png,3\n")
    data = load_data(f"{folder}/table.csv", continuous_labels=folder / "labels.csv")
    assert distances(data.test) == [[0, 2], [2, 0]]
    (folder / "labels.csv").write_text("path,x\nimages/0.png,1\n./images/0.png,3\n")
    with pytest.raises(DataError, match=r"'\./images/0\.png' more than once, as 'images/0\.png' too"):
        load_data(f"{folder}/table.csv", continuous_labels=folder / "labels.csv")


def test_images_that_are_not_used_need_none(folder: Path) -> None:
    (folder / "table.csv").write_text("path,split\nimages/0.png,test\nimages/1.png,test\nimages/2.png,\n")
    (folder / "labels.csv").write_text("path,x\nimages/0.png,1\nimages/1.png,3\n")
    data = load_data(f"{folder}/table.csv", continuous_labels=folder / "labels.csv")
    assert distances(data.test) == [[0, 2], [2, 0]]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"labels\.csv has no rows"),
        ("path,x\n", r"labels\.csv has no rows"),
        (
            "picture,x\n0.png,1\n",
            r"labels\.csv: its header must be path and one or more columns of numbers.*picture, x",
        ),
        ("path\n0.png\n", r"found path\."),
        ("path,x,x\n0.png,1,2\n", r"all different, found path, x, x"),
        ("path,x\n0.png,1\n1.png,one\n", r"labels\.csv line 3: x 'one' is not a number"),
        ("path,x,y\n0.png,1,2\n\n1.png,1,\n", r"labels\.csv line 4: y '' is not a number"),
        ("path,x\n0.png,1\n1.png,nan\n", r"labels\.csv line 3: the label is not finite"),
        ("path,x\n0.png,1\n1.png,1\n0.png,1\n", r"labels\.csv has image '0\.png' more than once"),
        ("path,x\n0.png,1,2\n", r"labels\.csv line 2: 3 cells for the 2 columns"),
    ],
)
def test_a_wrong_table_names_the_line(folder: Path, text: str, message: str) -> None:
    (folder / "labels.csv").write_text(text)
    with pytest.raises(DataError, match=message):
        load_data(f"folder:{folder / 'images'}", continuous_labels=folder / "labels.csv")


def test_a_zero_vector_is_named_by_its_line(folder: Path) -> None:
    (folder / "labels.csv").write_text("path,x\n0.png,1\n1.png,0\n")
    with pytest.raises(DataError, match=r"labels\.csv line 3: the label is zero, which has no direction"):
        load_data(f"folder:{folder / 'images'}", continuous_labels=folder / "labels.csv", label_metric="cosine")


IDS = [f"{i}.png" for i in range(6)]


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"ids": IDS}, "must hold ids .* and either vectors or distances, found ids"),
        ({"vectors": np.eye(6)}, "found vectors"),
        ({"ids": IDS, "vectors": np.eye(6), "distances": np.zeros((6, 6))}, "found ids, vectors, distances"),
        ({"ids": "0.png", "vectors": np.eye(1)}, "must hold ids"),
        ({"ids": IDS[:5], "vectors": np.eye(6)}, "has 6 labels for 5 ids"),
        ({"ids": [*IDS[:5], "0.png"], "vectors": np.eye(6)}, r"has image '0\.png' more than once"),
        ({"ids": IDS[:5], "vectors": np.diag([1, 1, 1, 1, 1, np.nan])}, r"labels\.npz: row 5 is not finite"),
        ({"ids": IDS[:5], "distances": np.diag([0, 0, 0, 0, 0, np.nan])}, r"from .*labels\.npz: row 5 to .* is nan"),
        ({"ids": IDS, "vectors": np.array(1.0)}, r"Continuous labels .*labels\.npz are a single number\."),
        ({"ids": IDS, "distances": np.array(1.0)}, r"Continuous labels .*labels\.npz are a single number\."),
        ({"ids": IDS, "vectors": np.diag([1, 1, np.nan, 1, 1, 1])}, r"the label of 2\.png is not finite"),
        ({"ids": IDS, "distances": np.eye(6)}, r"from .*labels\.npz: the label of 0\.png to .* is 1\.0"),
        ({"ids": IDS, "distances": np.zeros((6, 5))}, r"must be numbers \(N, N\)"),
        ({"ids": IDS, "vectors": np.array([{}] * 6)}, "cannot be read"),
    ],
)
def test_a_wrong_archive_is_named(folder: Path, arrays: dict[str, Any], message: str) -> None:
    np.savez(folder / "labels.npz", **arrays)
    with pytest.raises(DataError, match=message):
        load_data(f"folder:{folder / 'images'}", continuous_labels=folder / "labels.npz")


def test_files_that_cannot_be_read_or_are_of_another_kind(folder: Path) -> None:
    def load(name: str) -> None:
        load_data(f"{folder}/table.csv", continuous_labels=folder / name)

    for name in ("none.npz", "none.npy", "none.csv"):
        with pytest.raises(DataError, match=rf"{name} cannot be read \(No such file"):
            load(name)
    for name in ("broken.npz", "broken.npy"):
        for content in (b"", b"not an array", b"PK\x03\x04 cut short"):
            (folder / name).write_bytes(content)
            with pytest.raises(DataError, match=f"{name} cannot be read"):
                load(name)
    with pytest.raises(DataError, match=r"labels\.txt must be a \.csv .*, an \.npz .*, or an \.npy"):
        load("labels.txt")
    np.save(folder / "labels.npy", np.zeros((6, 2)))
    with pytest.raises(OptionError, match="Unknown label metric 'cosin'"):
        load_data(f"{folder}/table.csv", continuous_labels=folder / "labels.npy", label_metric="cosin")


def test_paths_may_start_at_home_and_named_pipes_are_not_waited_for(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(folder))
    (folder / "labels.csv").write_text("path,x\n" + "".join(f"images/{i}.png,{i}\n" for i in range(6)))
    (folder / "lists.yaml").write_text("training: [a]\nTest: [b]\n")
    (folder / "classes.csv").write_text("path,label\nimages/0.png,a\nimages/1.png,b\n")
    data = load_data("csv:~/classes.csv", "list:~/lists.yaml", 0, continuous_labels="~/labels.csv")
    assert list(data.train.ids) == ["images/0.png"] and list(data.test.ids) == ["images/1.png"]
    if hasattr(os, "mkfifo"):
        os.mkfifo(folder / "pipe")
        for name in ("pipe.csv", "pipe.npz"):
            (folder / name).symlink_to(folder / "pipe")
            with pytest.raises(DataError, match=rf"{name} cannot be read .*a named pipe"):
                load_data("csv:~/classes.csv", continuous_labels=folder / name)
        with pytest.raises(DataError, match=r"Split list .*pipe cannot be read .*a named pipe"):
            load_data("csv:~/classes.csv", f"list:{folder / 'pipe'}")


def test_files_that_say_more_than_they_hold_take_no_memory(folder: Path) -> None:
    """A header of 10^18 rows, an archive that unpacks to 300 times its size, and objects: refused before reading."""
    with (folder / "huge.npy").open("wb") as file:
        np.lib.format.write_array_header_1_0(file, {"descr": "<f8", "fortran_order": False, "shape": (10**18, 2)})
    with (
        zipfile.ZipFile(folder / "bomb.npz", "w", zipfile.ZIP_DEFLATED) as archive,
        archive.open("vectors.npy", "w") as member,
    ):
        for _ in range(300):
            member.write(bytes(1 << 20))
    np.save(folder / "objects.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    for name, reason in (("huge.npy", "says shape"), ("bomb.npz", "unpacks to"), ("objects.npy", "Python objects")):
        with pytest.raises(DataError, match=f"{name} cannot be read .*{reason}"):
            load_data(f"csv:{folder / 'table.csv'}", continuous_labels=folder / name)


def test_rows_stored_by_columns_are_the_same_rows(folder: Path) -> None:
    rows = np.arange(12.0).reshape(6, 2)
    found = []
    for name, array in (("rows.npy", rows), ("columns.npy", np.asfortranarray(rows))):
        np.save(folder / name, array)
        data = load_data(f"csv:{folder / 'table.csv'}", validation=0, continuous_labels=folder / name)
        found.append(distances(data.train))
    assert found[0] == found[1] and found[0][0][1] == pytest.approx(8**0.5)
