"""Folders and zip archives of images."""

from __future__ import annotations

import os
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from zoo.data import load_data, load_images
from zoo.data.folder import read_folder
from zoo.errors import DataError


def write(file: Path, value: int) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((2, 3, 3), value, dtype=np.uint8)).save(file)


def pack(folder: Path, archive: Path) -> None:
    with zipfile.ZipFile(archive, "w") as opened:
        for file in sorted(folder.rglob("*")):
            opened.write(file, file.relative_to(folder).as_posix())


@pytest.fixture
def animals(tmp_path: Path) -> Path:
    """Images of the shades 0..4; "birds" has images of its own beside a class folder."""
    names = ["ant/1.png", "ant/2.PNG", "birds/owl/1.bmp", "birds/owl/deep/er/1.png", "birds/wren.tif"]
    for value, name in enumerate(names):
        write(tmp_path / "animals" / name, value)
    (tmp_path / "animals/ant/notes.txt").write_text("not an image")
    write(tmp_path / "animals/.thumbnails/1.png", 9)
    write(tmp_path / "animals/ant/._1.png", 9)
    write(tmp_path / "animals/__MACOSX/1.png", 9)
    return tmp_path / "animals"


def check_animals(path: str, above: str = "") -> None:
    images = read_folder(path).images
    names = ["ant/1.png", "ant/2.PNG", "birds/owl/1.bmp", "birds/owl/deep/er/1.png", "birds/wren.tif"]
    assert list(images.ids) == [above + name for name in names]
    assert list(images.class_names) == [above + name for name in ("ant", "birds", "birds/owl", "birds/owl/deep/er")]
    assert images.labels is not None and images.labels.tolist() == [0, 0, 2, 3, 1]
    assert images.labels.dtype == np.int64
    assert [int(images.pixels(i)[0, 0, 0]) for i in range(5)] == [0, 1, 2, 3, 4]


def test_classes_are_folders_however_nested(animals: Path) -> None:
    check_animals(str(animals))


def test_a_zip_archive_reads_like_the_folder(animals: Path, tmp_path: Path) -> None:
    pack(animals, tmp_path / "animals.zip")
    check_animals(str(tmp_path / "animals.zip"))


def test_a_folder_of_zip_archives_reads_like_one_folder(animals: Path, tmp_path: Path) -> None:
    pack(animals.parent, tmp_path / "all.zip")
    shelf = tmp_path / "shelf"
    shelf.mkdir()
    (tmp_path / "all.zip").rename(shelf / "all.zip")
    check_animals(str(shelf), above="animals/")
    write(shelf / "zebra/1.png", 5)
    images = read_folder(str(shelf)).images
    assert images.ids[-1] == "zebra/1.png" and images.class_names[-1] == "zebra"
    assert images.pixels(5)[0, 0, 0] == 5


def test_archive_members_with_a_leading_dot_can_be_read(tmp_path: Path) -> None:
    write(tmp_path / "1.png", 3)
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("./ant/1.png", (tmp_path / "1.png").read_bytes())
    images = read_folder(str(tmp_path / "a.zip")).images
    assert list(images.ids) == ["ant/1.png"] and images.pixels(0)[0, 0, 0] == 3


def test_a_flat_folder_is_unlabelled(tmp_path: Path) -> None:
    for value in range(12):
        write(tmp_path / f"{value:02d}.png", value)
    images = read_folder(str(tmp_path)).images
    assert images.labels is None and list(images.ids) == [f"{value:02d}.png" for value in range(12)]
    assert len(load_data(str(tmp_path)).train) == 12  # a bare path is a folder


@pytest.mark.parametrize("name", ["missing", "empty", "text.txt"])
def test_what_is_no_folder_of_images_is_an_error_that_names_it(tmp_path: Path, name: str) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "text.txt").write_text("not an archive")
    expected = {
        "missing": "does not exist",
        "empty": "holds no images",
        "text.txt": r"neither a folder nor a readable .* Tables end in \.csv",
    }
    with pytest.raises(DataError, match=f"{name} (is )?{expected[name]}"):
        read_folder(str(tmp_path / name))


def test_an_image_outside_the_class_folders_is_an_error(animals: Path) -> None:
    write(animals / "stray.png", 0)
    with pytest.raises(DataError, match=r"stray\.png lies outside the class folders"):
        read_folder(str(animals))


def test_a_broken_archive_in_the_folder_is_an_error(animals: Path) -> None:
    (animals / "more.zip").write_bytes(b"PK broken")
    with pytest.raises(DataError, match=r"more\.zip"):
        read_folder(str(animals))


def test_archives_are_known_by_their_suffix_in_any_case_and_not_where_hidden(animals: Path, tmp_path: Path) -> None:
    (tmp_path / "shelf").mkdir()
    pack(animals, tmp_path / "shelf" / "MORE.ZIP")
    (tmp_path / "shelf" / "._MORE.zip").write_bytes(b"what macOS leaves")
    check_animals(str(tmp_path / "shelf"))


def test_an_archive_beside_what_it_was_unpacked_to_is_named(animals: Path, tmp_path: Path) -> None:
    pack(animals, tmp_path / "all.zip")
    (tmp_path / "all.zip").rename(animals / "all.zip")
    with pytest.raises(DataError, match=r"holds ant/1\.png twice, once in .*all\.zip\. Remove the archive"):
        read_folder(str(animals))


def test_links_are_followed_and_circles_end(tmp_path: Path) -> None:
    write(tmp_path / "elsewhere" / "1.png", 1)
    write(tmp_path / "data" / "ant" / "0.png", 0)
    (tmp_path / "data" / "bee").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "data" / "ant" / "again").symlink_to(tmp_path / "data")
    images = read_folder(str(tmp_path / "data")).images
    assert list(images.ids) == ["ant/0.png", "bee/1.png"]


def test_a_folder_of_two_names_is_one_class(tmp_path: Path) -> None:
    write(tmp_path / "cat" / "0.png", 0)
    write(tmp_path / ".store" / "1.png", 1)
    (tmp_path / "zebra").symlink_to(tmp_path / "cat")
    (tmp_path / "bee").symlink_to(tmp_path / ".store")
    assert list(read_folder(str(tmp_path)).images.ids) == ["bee/1.png", "cat/0.png"]


def test_a_link_to_nothing_is_an_unreadable_image(tmp_path: Path) -> None:
    write(tmp_path / "ant" / "0.png", 0)
    (tmp_path / "ant" / "1.png").symlink_to(tmp_path / "gone.png")
    images = read_folder(str(tmp_path)).images
    assert list(images.checked(max_unreadable=1).ids) == ["ant/0.png"]
    with pytest.raises(DataError, match=r"1\.png cannot be read"):
        images.checked(max_unreadable=0)


def test_a_folder_that_cannot_be_read_is_named(animals: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scandir = os.scandir

    def forbidding(place: str) -> Any:  # for root, who runs tests in containers, no permission is missing
        if Path(place).name == "owl":
            raise PermissionError(13, "Permission denied", str(place))
        return scandir(place)

    monkeypatch.setattr(os, "scandir", forbidding)
    with pytest.raises(DataError, match=r"owl cannot be read \(Permission denied\)"):
        read_folder(str(animals))


def test_folders_called_train_and_test_are_the_split(tmp_path: Path) -> None:
    for value, name in enumerate(["train/ant/1.png", "train/bee/1.png", "val/cat/1.png", "Test/dog/1.png"]):
        write(tmp_path / name, value)
    data = load_data(f"folder:{tmp_path}")
    found = [[part.class_names[label] for label in part.labels] for part in (data.train, data.validation, data.test)]
    assert found == [["ant", "bee"], ["cat"], ["dog"]]
    assert list(data.test.ids) == ["Test/dog/1.png"]
    write(tmp_path / "Test/bee/2.png", 9)
    with pytest.raises(DataError, match="'bee' among them, are in both train and test"):
        load_data(f"folder:{tmp_path}")
    again = load_data(f"folder:{tmp_path}", split="even-odd", validation=0)
    assert list(again.test.ids) == ["Test/bee/2.png", "Test/dog/1.png", "train/bee/1.png"]
    write(tmp_path / "other/ant/1.png", 9)
    with pytest.raises(DataError, match=r"called test and train and validation, but other/ant/1\.png is in none"):
        read_folder(str(tmp_path))


def test_a_split_without_test_is_a_split(tmp_path: Path) -> None:
    for value, name in enumerate(["train/ant/1.png", "train/bee/1.png", "val/ant/2.png"]):
        write(tmp_path / name, value)
    data = load_data(f"folder:{tmp_path}")
    assert [list(part.ids) for part in (data.train, data.validation, data.test)] == [
        ["train/ant/1.png", "train/bee/1.png"],
        ["val/ant/2.png"],
        [],
    ]
    again = load_data(f"folder:{tmp_path}", split="first-half", validation=0)
    assert list(again.train.ids) == ["train/ant/1.png", "val/ant/2.png"]  # one class, whatever folder it was in


def test_a_split_one_folder_down_is_a_split(tmp_path: Path) -> None:
    for value, name in enumerate(["train/ant/1.png", "train/bee/1.png", "test/cat/1.png"]):
        write(tmp_path / "photos" / name, value)
    pack(tmp_path, tmp_path.parent / "photos.zip")
    for place in (tmp_path, tmp_path.parent / "photos.zip"):
        data = load_data(f"folder:{place}")
        assert list(data.train.ids) == ["photos/train/ant/1.png", "photos/train/bee/1.png"]
        assert list(data.test.ids) == ["photos/test/cat/1.png"]
        assert list(data.test.class_names) == ["ant", "bee", "cat"]


def test_classes_called_train_or_test_alone_are_classes(tmp_path: Path) -> None:
    for value, name in enumerate(["train/1.png", "bus/1.png", "tram/1.png"]):
        write(tmp_path / name, value)
    assert list(read_folder(str(tmp_path)).images.class_names) == ["bus", "train", "tram"]


def test_a_zip_archive_of_each_class(tmp_path: Path) -> None:
    for value, name in enumerate(["ant", "bee"]):
        write(tmp_path / name / "0.png", value)
        (tmp_path / "zips").mkdir(exist_ok=True)
        pack(tmp_path / name, tmp_path / "zips" / f"{name}.zip")
    images = read_folder(str(tmp_path / "zips")).images
    assert list(images.ids) == ["ant/0.png", "bee/0.png"] and list(images.class_names) == ["ant", "bee"]


def test_an_archive_with_backslashes_has_folders_too(tmp_path: Path) -> None:
    write(tmp_path / "0.png", 3)
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as opened:
        member = zipfile.ZipInfo("x")
        member.filename = "ant\\0.png"
        opened.writestr(member, (tmp_path / "0.png").read_bytes())
    images = read_folder(str(tmp_path / "a.zip")).images
    assert list(images.ids) == ["ant/0.png"] and list(images.class_names) == ["ant"]
    assert images.pixels(0)[0, 0, 0] == 3


def test_files_that_are_passed_over_are_counted(animals: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    read_folder(str(animals))
    assert "skipped files that are not images: 1 .txt" in caplog.text and "left out" not in caplog.text


def test_archives_further_down_are_told(animals: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    pack(animals, tmp_path / "more.zip")
    (tmp_path / "more.zip").rename(animals / "ant" / "more.ZIP")
    check_animals(str(animals))
    assert "left out 1 zip archives inside folders or other archives, such as ant/more.ZIP. Unpack them" in caplog.text
    pack(animals, tmp_path / "outer.zip")
    caplog.clear()
    check_animals(str(tmp_path / "outer.zip"))
    assert "such as ant/more.ZIP. Unpack them" in caplog.text


@pytest.mark.parametrize("packed", [False, True])
def test_images_of_formats_that_are_not_read_are_named(
    animals: Path, tmp_path: Path, packed: bool, caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("ant/IMG_1.HEIC", "ant/IMG_2.heic", "birds/owl/1.CR2", "birds/@eaDir/1.heic"):
        (animals / name).parent.mkdir(exist_ok=True)
        (animals / name).write_bytes(b"")
    pack(animals, tmp_path / "all.zip")
    check_animals(str(tmp_path / "all.zip" if packed else animals))
    assert "left out 3 images in formats that cannot be read (2 .heic, 1 .cr2), such as ant/IMG_1.HEIC" in caplog.text


@pytest.mark.parametrize(
    "folder", ["@eaDir", "@__thumb", "#recycle", "@Recycle", "$RECYCLE.BIN", "lost+found", "System Volume Information"]
)
def test_what_file_servers_put_beside_images_is_passed_over(animals: Path, tmp_path: Path, folder: str) -> None:
    for place in (folder, f"ant/{folder}", f"birds/owl/{folder}/1.bmp"):
        write(animals / place / "SYNOPHOTO_THUMB_M.jpg", 9)
    check_animals(str(animals))
    pack(animals, tmp_path / "all.zip")
    check_animals(str(tmp_path / "all.zip"))


def parts(root: Path, names: str) -> dict[str, list[str]]:
    """Write images of these names, and return the names and classes of each part."""
    for value, name in enumerate(names.split()):
        write(root / f"{name}.png", value)
    data = load_data(f"folder:{root}", validation=0)
    found = {"train": data.train, "validation": data.validation, "test": data.test}
    listed = {}
    for part, images in found.items():
        classes = ["" if images.labels is None else images.class_names[label] for label in images.labels]  # type: ignore
        roles = ["both"] * len(images) if images.roles is None else images.roles
        listed[part] = [f"{name} {role}" for name, role in zip(classes, roles, strict=True)]
    return {part: names for part, names in listed.items() if names}


@pytest.mark.parametrize(
    ("train", "test"), [("training", "testing"), ("Train", "TEST"), ("train_images", "test_images"), ("trn", "tst")]
)
def test_parts_in_other_spellings(tmp_path: Path, train: str, test: str) -> None:
    names = f"{train}/ant/1 {train}/bee/1 {test}/cat/1"
    assert parts(tmp_path, names) == {"train": ["ant both", "bee both"], "test": ["cat both"]}


def test_query_and_gallery_are_roles(tmp_path: Path) -> None:
    three = "train/ant/1 train/bee/1 query/cat/1 gallery/cat/2 gallery/dog/1"
    expected = {"train": ["ant both", "bee both"], "test": ["cat gallery", "dog gallery", "cat query"]}
    assert parts(tmp_path / "a", three) == expected
    inside = "train/ant/1 train/bee/1 test/query/cat/1 test/gallery/cat/2 test/gallery/dog/1"
    assert parts(tmp_path / "b", inside) == expected
    market = "bounding_box_train/ant/1 bounding_box_train/bee/1 query/cat/1 bounding_box_test/cat/2"
    assert parts(tmp_path / "c", market) == {"train": expected["train"], "test": ["cat gallery", "cat query"]}
    assert parts(tmp_path / "d", "queries/cat/1 Gallery/cat/2") == {"test": ["cat gallery", "cat query"]}
    assert parts(tmp_path / "e", "cat/query/1 cat/gallery/2 dog/gallery/1") == {
        "test": ["cat gallery", "cat query", "dog gallery"]
    }


def test_parts_in_each_class_are_no_classes(tmp_path: Path) -> None:
    for value, name in enumerate(["ant/train/1", "ant/test/1", "bee/train/1", "bee/test/1"]):
        write(tmp_path / f"{name}.png", value)
    with pytest.raises(DataError, match=r"2 classes, 'ant' among them, are in both train and test"):
        load_data(f"folder:{tmp_path}")
    data = load_data(f"folder:{tmp_path}", split="even-odd", validation=0)
    assert list(data.train.ids) == ["ant/test/1.png", "ant/train/1.png"]
    write(tmp_path / "cat/1.png", 9)
    with pytest.raises(DataError, match=r"called test and train, but cat/1\.png is in none"):
        load_data(f"folder:{tmp_path}")


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (
            "cats/train/ant/1 cats/test/bee/1 dogs/cat/1",
            r"cats holds folders called test and train, which define a split",
        ),
        ("train/ant/1 train/bee/1 fresh/bee/2", r"folders train and fresh hold the same classes, such as bee"),
    ],
)
def test_parts_elsewhere_are_refused(tmp_path: Path, names: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        parts(tmp_path, names)


def test_some_classes_of_each_part_are_shown(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO"):
        parts(tmp_path, "train/ant/1 train/bee/1 train/cat/1 train/dog/1 test/emu/1 test/fox/1")
    assert "train: 4 images of 4 classes, such as ant, cat, dog" in caplog.text
    assert "test: 2 images of the classes emu, fox" in caplog.text


def test_a_word_of_a_split_beside_an_unknown_one_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    parts(tmp_path, "entrenamiento/ant/1 entrenamiento/bee/1 test/emu/1 test/fox/1")
    assert "test and entrenamiento are taken as groups of classes. If they are a split, call them train" in caplog.text
    caplog.clear()
    parts(tmp_path / "b", "contest/ant/1 test/1 tester/bee/1")  # a class of that name, with its images right in it
    assert not caplog.text
    parts(tmp_path / "d", "fold1/ant/1 fold1/bee/1 fold2/ant/1 fold2/bee/1")
    assert "fold1, fold2 hold folders of the same names, such as ant, which are taken as diff" in caplog.text
    caplog.clear()
    parts(tmp_path / "c", "train/ant/1 Training/bee/1")  # one part in two spellings, and nothing beside it
    assert not caplog.text


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
def test_named_pipes_are_not_waited_for(animals: Path, tmp_path: Path) -> None:
    os.mkfifo(animals / "ant" / "pipe.png")
    check_animals(str(animals))
    os.mkfifo(animals / "pipe.zip")
    for place in (animals, animals / "pipe.zip"):
        with pytest.raises(DataError, match=r"pipe\.zip is neither .*a named pipe"):
            read_folder(str(place))


def test_names_that_are_not_unicode(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    strange = os.fsdecode(b"caf\xe9")
    write(tmp_path / "a.png", 3)
    for name in (f"{strange}/{strange}.png", "bee/1.png"):
        (tmp_path / strange / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / strange / name).write_bytes((tmp_path / "a.png").read_bytes())
    data = load_data(f"folder:{tmp_path / strange}", validation=0)
    assert list(data.test.ids) == [f"{strange}/{strange}.png"] and data.test.pixels(0)[0, 0, 0] == 3
    assert r"caf\udce9" in caplog.text
    caplog.text.encode("utf-8")  # a log file can hold it


def test_folders_named_as_kinds_of_data_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("glyphs", "cub200"):
        for number in range(4):
            write(tmp_path / name / "ab"[number % 2] / f"{number}.png", number)
    assert len(load_images("./glyphs")) == len(load_images("folder:glyphs")) == len(load_images("folder:cub200")) == 4
    with pytest.raises(DataError, match=r"a kind of data and a folder here. Write cub200:\./cub200, or folder:cub200"):
        load_data("cub200")
    assert not caplog.text
    assert len(load_images("glyphs")) > 100
    assert "glyphs means the built-in glyphs, not the folder of that name" in caplog.text
