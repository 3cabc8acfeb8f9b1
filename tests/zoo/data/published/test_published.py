"""Published data sets, from small copies of their layouts."""

from __future__ import annotations

import builtins
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from zoo.data import load_data
from zoo.data.image_set import ImageSet
from zoo.data.published.cars196 import read_cars196
from zoo.data.published.cub200 import read_cub200
from zoo.data.published.inshop import read_inshop
from zoo.data.published.sop import read_sop
from zoo.errors import DataError
from zoo.retrieval.measures import measure


def write_images(folder: Path, names: list[str]) -> None:
    """Image i is of shade i."""
    for value, name in enumerate(names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((2, 2, 3), value, dtype=np.uint8)).save(folder / name)


def write_text(file: Path, *lines: str) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def write_cub200(root: Path) -> None:
    names = ["001.Auk/a.png", "100.Owl/b.png", "101.Rail/c.png", "200.Wren/d.png", "001.Auk/e.png"]
    write_images(root / "images", names)
    write_text(root / "classes.txt", *(f"{i} {i:03d}.Bird" for i in range(1, 201)))
    write_text(root / "images.txt", *(f"{10 + i} {name}" for i, name in enumerate(names)))
    # not in the order of images.txt
    write_text(root / "image_class_labels.txt", "14 1", "13 200", "12 101", "11 100", "10 1")


def write_cars196(root: Path) -> None:
    io = pytest.importorskip("scipy.io")
    names = ["car_ims/1.png", "car_ims/2.png", "car_ims/3.png", "car_ims/4.png"]
    write_images(root, names)
    fields = [("relative_im_path", object), ("bbox_x1", object), ("class", object), ("test", object)]
    rows = list(zip(names, [1, 98, 99, 196], strict=True))
    annotations = np.array([[(name, 0, number, i % 2) for i, (name, number) in enumerate(rows)]], dtype=fields)
    class_names = np.array([[f"Car {i}" for i in range(1, 197)]], dtype=object)
    io.savemat(root / "cars_annos.mat", {"annotations": annotations, "class_names": class_names})


def write_cars196_devkit(root: Path) -> None:
    """The other layout in which the cars are passed on: by another division, with lists of each part's images."""
    io = pytest.importorskip("scipy.io")
    fields = [("bbox_x1", object), ("class", object), ("fname", object)]
    lists = {"train": "devkit/cars_train_annos.mat", "test": "cars_test_annos_withlabels.mat"}
    for part, numbers in (("train", [1, 99]), ("test", [98, 196])):
        names = [f"{number}.png" for number in numbers]
        write_images(root / f"cars_{part}", names)
        rows = [(0, number, name) for number, name in zip(numbers, names, strict=True)]
        (root / "devkit").mkdir(exist_ok=True)
        io.savemat(root / lists[part], {"annotations": np.array([rows], dtype=fields)})
    class_names = np.array([[f"Car {i}" for i in range(1, 197)]], dtype=object)
    io.savemat(root / "devkit/cars_meta.mat", {"class_names": class_names})


def test_cars196_is_read_from_its_devkit_too(tmp_path: Path) -> None:
    write_cars196_devkit(tmp_path / "cars")
    for root in (tmp_path / "cars", tmp_path):
        splits = load_data(f"cars196:{root}", validation=0.0)
        assert list(splits.train.ids) == ["cars_train/1.png", "cars_test/98.png"]
        assert list(splits.test.ids) == ["cars_train/99.png", "cars_test/196.png"]
        assert [splits.test.class_names[label] for label in splits.test.labels] == ["Car 99", "Car 196"]
        assert splits.test.pixels(1).shape[2] == 3
    (tmp_path / "cars/devkit/cars_train_annos.mat").unlink()
    with pytest.raises(DataError, match=r"cars_train_annos\.mat cannot be read"):
        load_data(f"cars196:{tmp_path}")


def write_sop(root: Path) -> None:
    names = ["bicycle_final/1_0.png", "bicycle_final/1_1.png", "chair_final/2_0.png", "chair_final/3_0.png"]
    write_images(root, names)
    header = "image_id class_id super_class_id path"
    write_text(root / "Ebay_train.txt", header, f"1 1 1 {names[0]}", f"2 1 1 {names[1]}", f"3 2 5 {names[2]}")
    write_text(root / "Ebay_test.txt", header, f"4 11319 5 {names[3]}")


def write_inshop(root: Path, folder: str = "Img/", listing: str = "Eval/list_eval_partition.txt") -> None:
    names = [f"img/WOMEN/Tees/id_0000000{item}/{view}.png" for item in (3, 1) for view in ("front", "side")]
    write_images(root / folder, names)
    lines = [f"{names[0]}   id_00000003 query", f"{names[1]}  id_00000003   gallery"]
    lines += [f"{name} id_00000001 train" for name in names[2:]]
    write_text(root / listing, "4", "image_name item_id evaluation_status", *lines)


def write_grocery(root: Path) -> None:
    names = ["train/Fruit/a.png", "val/Fruit/b.png", "test/Milk/c.png"]
    write_images(root / "dataset", [*names, "iconic/apple.png", "iconic/milk.png"])
    rows = ['Milk,1,Milk,1,/iconic/milk.png,"/b, c"', "Apple,0,Apple,0,/iconic/apple.png,/b"]
    write_text(root / "dataset/classes.csv", "Class Name (str),Class ID (int),C,D,E,F", *rows)
    for part, name, fine in zip(("train", "val", "test"), names, (0, 0, 1), strict=True):
        write_text(root / f"dataset/{part}.txt", f"{name}, {fine}, 0")


WRITERS: dict[str, Callable[[Path], None]] = {
    "cub200": write_cub200,
    "cars196": write_cars196,
    "sop": write_sop,
    "inshop": write_inshop,
    "grocery": write_grocery,
    "grocery-catalogue": write_grocery,
}
# kind -> classes and shades of the images of train and of test
EXPECTED = {
    "cub200": ({"001.Bird": [0, 4], "100.Bird": [1]}, {"101.Bird": [2], "200.Bird": [3]}),
    "cars196": ({"Car 1": [0], "Car 98": [1]}, {"Car 99": [2], "Car 196": [3]}),
    "sop": ({"1": [0, 1], "2": [2]}, {"11319": [3]}),
    "inshop": ({"id_00000001": [2, 3]}, {"id_00000003": [0, 1]}),
    "grocery": ({"Apple": [0, 1]}, {"Milk": [2]}),
    "grocery-catalogue": ({"Apple": [0, 1]}, {"Milk": [2, 4], "Apple (in the catalogue alone)": [3]}),
}


def shades(images: ImageSet) -> dict[str, list[int]]:
    found: dict[str, list[int]] = {}
    assert images.labels is not None and images.labels.dtype == np.int64
    for i, label in enumerate(images.labels):
        found.setdefault(images.class_names[label], []).append(int(images.pixels(i)[0, 0, 0]))
    return found


@pytest.mark.parametrize("place", ["folder", "folder above", "archive", "archive of the folder above"])
@pytest.mark.parametrize("kind", list(WRITERS))
def test_layouts_are_read_from_folders_and_archives(tmp_path: Path, kind: str, place: str) -> None:
    root = tmp_path / "above" / "set"
    root.mkdir(parents=True)
    WRITERS[kind](root)
    path = root if place == "folder" else root.parent
    if place.startswith("archive"):
        path = tmp_path / "set.zip"
        base = root if place == "archive" else root.parent
        with zipfile.ZipFile(path, "w") as archive:
            for file in base.rglob("*"):
                archive.write(file, file.relative_to(base).as_posix())
    data = load_data(f"{kind}:{path}", "even-odd" if kind == "grocery" else "auto", validation=0)
    assert (shades(data.train), shades(data.test)) == EXPECTED[kind]
    assert data.protocol["split"] == ("even-odd" if kind == "grocery" else "given")


def test_ids_are_the_names_in_the_lists(tmp_path: Path) -> None:
    write_cub200(tmp_path / "cub")
    write_sop(tmp_path / "sop")
    assert list(read_cub200(str(tmp_path / "cub")).images.ids)[:2] == ["001.Auk/a.png", "100.Owl/b.png"]
    assert read_sop(str(tmp_path / "sop")).images.ids[0] == "bicycle_final/1_0.png"


@pytest.mark.parametrize("folder", ["", "Img/"])
@pytest.mark.parametrize("listing", ["list_eval_partition.txt", "Eval/list_eval_partition.txt"])
def test_inshop_layouts_and_roles(tmp_path: Path, folder: str, listing: str) -> None:
    write_inshop(tmp_path, folder, listing)
    data = load_data(f"inshop:{tmp_path}", validation=0)
    assert (shades(data.train), shades(data.test)) == EXPECTED["inshop"]
    assert data.test.roles is not None and data.test.roles.tolist() == ["query", "gallery"]
    assert data.train.roles is not None and data.train.roles.tolist() == ["both", "both"]
    assert list(data.test.ids) == [f"img/WOMEN/Tees/id_00000003/{view}.png" for view in ("front", "side")]


def test_photographs_are_looked_for_in_the_catalogue(tmp_path: Path) -> None:
    write_grocery(tmp_path)
    data = load_data(f"grocery-catalogue:{tmp_path}", validation=0)
    assert data.test.roles is not None
    assert data.test.roles.tolist() == ["query", "gallery", "gallery"]
    assert list(data.test.ids) == ["test/Milk/c.png", "iconic/apple.png", "iconic/milk.png"]
    found = measure(np.array([[1.0, 0], [0, 1], [1, 0.1]], np.float32), data.test)
    assert (found.recall_at(1), len(found.queries), found.gallery_size) == (1, 1, 2)


def test_inshop_needs_its_images_extracted(tmp_path: Path) -> None:
    write_text(tmp_path / "Eval/list_eval_partition.txt", "0", "image_name item_id evaluation_status")
    with pytest.raises(DataError, match=r"holds neither img nor Img/img\. Extract img\.zip"):
        read_inshop(str(tmp_path))


@pytest.mark.parametrize(
    ("kind", "file", "line", "text", "message"),
    [
        ("cub200", "images.txt", 2, "11", "found '11' where there should be id path"),
        ("cub200", "classes.txt", 3, "three 003.Bird", "'three' is not a number"),
        ("cub200", "image_class_labels.txt", 1, "14 201", "id 201 is not listed"),
        ("cub200", "image_class_labels.txt", 1, "15 1", "id 15 is not listed"),
        ("sop", "Ebay_train.txt", 3, "2 1 bicycle_final/1_1.png", "should be image_id class_id super_class_id path"),
        ("sop", "Ebay_test.txt", 2, "4 x 5 chair_final/3_0.png", "'x' is not a number"),
        ("inshop", "Eval/list_eval_partition.txt", 4, "img/a.png id_1 test", "evaluation_status 'test' is not"),
        ("inshop", "Eval/list_eval_partition.txt", 3, "img/a.png id_1", "should be image_name item_id"),
        ("grocery", "dataset/val.txt", 1, "val/Fruit/b.png, 0", "should be path fine coarse"),
        ("grocery", "dataset/test.txt", 1, "test/Milk/c.png, 7, 1", "id 7 is not listed"),
        ("grocery", "dataset/classes.csv", 2, "Milk,one,Milk,1,/m", "'one' is not a number"),
        ("grocery", "dataset/classes.csv", 3, "Milk,1", "found 'Milk' where there should be name, id"),
    ],
)
def test_a_malformed_line_is_an_error_that_names_it(
    tmp_path: Path, kind: str, file: str, line: int, text: str, message: str
) -> None:
    WRITERS[kind](tmp_path)
    lines = (tmp_path / file).read_text(encoding="utf-8").splitlines()
    lines[line - 1] = text
    write_text(tmp_path / file, *lines)
    with pytest.raises(DataError, match=f"{file} line {line}: .*{message}"):
        load_data(f"{kind}:{tmp_path}")


def test_a_cub_image_without_a_class_is_an_error(tmp_path: Path) -> None:
    write_cub200(tmp_path)
    write_text(tmp_path / "image_class_labels.txt", "10 1", "11 100", "12 101", "14 1")
    with pytest.raises(DataError, match=r"no line for 200\.Wren/d\.png"):
        read_cub200(str(tmp_path))


@pytest.mark.parametrize(
    ("kind", "file"),
    [("cub200", "classes.txt"), ("sop", "Ebay_test.txt"), ("grocery", "dataset/val.txt")],
)
def test_a_missing_or_garbled_file_is_an_error_that_names_it(tmp_path: Path, kind: str, file: str) -> None:
    WRITERS[kind](tmp_path)
    (tmp_path / file).write_bytes(b"\xff\xfe")
    with pytest.raises(DataError, match=f"{file} is not UTF-8"):
        load_data(f"{kind}:{tmp_path}")
    (tmp_path / file).unlink()
    with pytest.raises(DataError, match=f"{file} cannot be read"):
        load_data(f"{kind}:{tmp_path}")


def test_a_broken_archive_member_is_an_error_that_names_it(tmp_path: Path) -> None:
    WRITERS["sop"](tmp_path / "sop")
    with zipfile.ZipFile(tmp_path / "sop.zip", "w", zipfile.ZIP_DEFLATED) as opened:
        for name in ("Ebay_train.txt", "Ebay_test.txt"):
            opened.write(tmp_path / "sop" / name, name)
    content = bytearray((tmp_path / "sop.zip").read_bytes())
    content[30 + len("Ebay_train.txt")] |= 0b110  # makes the first deflated block of a kind that does not exist
    (tmp_path / "sop.zip").write_bytes(content)
    with pytest.raises(DataError, match=r"Ebay_train\.txt cannot be read"):
        load_data(f"sop:{tmp_path / 'sop.zip'}")


@pytest.mark.parametrize("kind", list(WRITERS))
def test_another_folder_is_not_this_data_set(tmp_path: Path, kind: str) -> None:
    with pytest.raises(DataError, match="not this data set in its published layout"):
        load_data(f"{kind}:{tmp_path}")
    with pytest.raises(DataError, match="none does not exist"):
        load_data(f"{kind}:{tmp_path / 'none'}")
    (tmp_path / "set.tgz").write_bytes(b"\x1f\x8b not a zip archive")
    with pytest.raises(DataError, match=r"set\.tgz is neither .* Extract it first"):
        load_data(f"{kind}:{tmp_path / 'set.tgz'}")


@pytest.mark.parametrize("content", [b"", b"not a MATLAB file" * 20])
def test_a_broken_matlab_file_is_an_error(tmp_path: Path, content: bytes) -> None:
    pytest.importorskip("scipy")
    (tmp_path / "cars_annos.mat").write_bytes(content)
    with pytest.raises(DataError, match=r"cars_annos\.mat is not a readable MATLAB file"):
        read_cars196(str(tmp_path))


def test_another_matlab_file_is_an_error(tmp_path: Path) -> None:
    io = pytest.importorskip("scipy.io")
    io.savemat(tmp_path / "cars_annos.mat", {"other": np.zeros(3)})
    with pytest.raises(DataError, match=r"cars_annos\.mat lacks class_names"):
        read_cars196(str(tmp_path))


def test_without_scipy_the_remedy_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain_import = builtins.__import__

    def without_scipy(name: str, *args, **kwargs):
        if name.startswith("scipy"):
            raise ImportError(name)
        return plain_import(name, *args, **kwargs)

    (tmp_path / "cars_annos.mat").write_bytes(b"")
    monkeypatch.setattr(builtins, "__import__", without_scipy)
    with pytest.raises(DataError, match="pip install scipy"):
        read_cars196(str(tmp_path))
