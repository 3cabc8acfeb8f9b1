"""What ``check`` finds, in data that have each problem once."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import zoo
from compressor.cli.command import main
from tests.zoo.data.checking.test_hashing import picture
from zoo.data import from_images, load_data
from zoo.data.checking.check import check
from zoo.data.checking.reading import read_all
from zoo.data.continuous import VectorLabels
from zoo.errors import DataError, ModelError, OptionError

CLASSES = ("ant", "bee", "cat", "dog")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Four classes of three pictures each, in JPEG and PNG; the first two train."""
    for row in range(12):
        path = tmp_path / "photos" / CLASSES[row // 3] / f"{row:02}.{'png' if row % 2 else 'jpg'}"
        path.parent.mkdir(parents=True, exist_ok=True)
        picture(row).save(path)
    return tmp_path / "photos"


def files_in(folder: Path) -> list[Path]:
    return sorted(file for file in folder.rglob("*") if file.is_file())


def test_whole_data_pass(folder: Path) -> None:
    found = zoo.check(str(folder))
    assert found.passed and not found.findings and found.verdict == "Passed: nothing found."
    assert (found.images, found.classes, found.split) == (12, 4, "first-half")
    assert found.parts == {"train": 6, "test": 6} and found.kinds == {"JPEG RGB": 6, "PNG RGB": 6}
    assert found.sides == (96, 96, 96)
    assert f"{folder}: 12 images of 4 classes; split first-half: 6 train, 6 test" in found._repr_html_()


def test_unreadable_images_by_path_and_reason(folder: Path) -> None:
    (folder / "ant/00.jpg").write_bytes(b"no image")
    whole = (folder / "dog/10.jpg").read_bytes()
    (folder / "dog/10.jpg").write_bytes(whole[: len(whole) // 2])
    found = check(str(folder))
    items = found["unreadable"].items
    assert [(item["id"], item["part"]) for item in items] == [("ant/00.jpg", "train"), ("dog/10.jpg", "test")]
    assert "cannot identify image file" in items[0]["reason"] and "truncated" in items[1]["reason"]
    assert found.passed and found["unreadable"].level == "note" and "up to 10 of a part" in found["unreadable"].remedy
    assert not check(str(folder), strict=True).passed
    failed = check(str(folder), max_unreadable=0)
    assert not failed.passed and failed["unreadable"].level == "error" and failed.verdict == "Failed: 1 error found."


def test_what_cannot_be_read_in_training_cannot_be_read_here(folder: Path) -> None:
    Image.fromarray(np.ones((40, 40), dtype=np.float32)).save(folder / "ant/float.tif")
    Image.new("RGB", (2010, 10)).save(folder / "ant/long.png")
    images = load_data(str(folder)).train
    refused = {"ant/float.tif", "ant/long.png"}
    for place, name in enumerate(images.ids):
        if name in refused:
            with pytest.raises(DataError):
                images.pixels(place)
    assert {item["id"] for item in check(str(folder))["unreadable"].items} == refused


def test_large_files_are_not_read_whole(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = check(str(folder))
    monkeypatch.setattr("zoo.data.checking.reading._IN_MEMORY_AT_MOST", 0)
    monkeypatch.setattr("zoo.data.checking.reading.read_place", None)
    assert replace(check(str(folder)), seconds=whole.seconds) == whole
    with (folder / "ant/sparse.png").open("wb") as file:
        file.truncate(2**40)
    assert "cannot identify image file" in check(str(folder))["unreadable"].items[0]["reason"]


def test_copies_by_bytes(folder: Path) -> None:
    shutil.copy(folder / "ant/00.jpg", folder / "ant/copy.jpg")
    shutil.copy(folder / "bee/03.png", folder / "cat/copy.png")  # of another class, and of the other side
    found = check(str(folder))
    assert [item["ids"] for item in found["copies"].items] == [["ant/00.jpg", "ant/copy.jpg"]]
    assert found["copies_across"].items == [{"id": "cat/copy.png", "like": "bee/03.png"}]
    assert found["copies_of_other_class"].items == [{"ids": ["bee/03.png", "cat/copy.png"], "classes": ["bee", "cat"]}]
    assert [each.kind for each in found.errors] == ["copies_across", "copies_of_other_class"] and not found.passed
    assert "near" not in found and "near_across" not in found and found["copies"].level == "note"


def test_images_that_look_alike(folder: Path) -> None:
    Image.open(folder / "ant/00.jpg").save(folder / "ant/again.jpg", quality=40)
    Image.open(folder / "bee/03.png").save(folder / "ant/stray.jpg", quality=40)
    Image.open(folder / "bee/05.png").save(folder / "dog/other.jpg", quality=60)
    found = check(str(folder))
    assert found.passed and [each.kind for each in found] == ["near_across", "near_of_other_class", "near"]
    (across,) = found["near_across"].items
    assert (across["id"], across["like"]) == ("dog/other.jpg", "bee/05.png")
    assert across["similarity"] >= 0.98 and across["differing_bits"] <= 6
    (other,) = found["near_of_other_class"].items
    assert (other["id"], other["like"], other["classes"]) == ("ant/stray.jpg", "bee/03.png", ["ant", "bee"])
    assert found["near"].items == [{"ids": ["ant/00.jpg", "ant/again.jpg"]}]
    assert not check(str(folder), radius=-1).findings


def test_a_turned_photograph_is_looked_at_upright(folder: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    upright = picture(0)
    upright.transpose(Image.Transpose.ROTATE_90).save(folder / "ant/turned.jpg", exif=exif, quality=95)
    assert check(str(folder))["near"].items == [{"ids": ["ant/00.jpg", "ant/turned.jpg"]}]


def test_classes(folder: Path) -> None:
    for name in ("ANT", "a nt", "gnu"):
        (folder / name).mkdir()
        picture(50 + len(name) + ord(name[0])).save(folder / name / "0.png")
    found = check(str(folder), split="all-train")
    assert found["names_alike"].items == [{"classes": ["ANT", "a nt", "ant"]}]
    assert [item["class"] for item in found["single"].items] == ["ANT", "a nt", "gnu"]


def test_class_names_of_two_forms_of_unicode() -> None:
    data = from_images([np.asarray(picture(row)) for row in range(4)], ["caf\u00e9", "cafe\u0301", "cafe", "tea_1"])
    assert check(data)["names_alike"].items == [{"classes": ["cafe\u0301", "caf\u00e9"]}]


def test_classes_on_both_sides(folder: Path) -> None:
    tested = ("02", "05")
    rows = [f"{file},{file.parent.name},{'test' if file.stem in tested else 'train'}" for file in files_in(folder)]
    (folder.parent / "t.csv").write_text("\n".join(["path,label,split", *rows]))
    found = check(str(folder.parent / "t.csv"))
    both = [{"class": name, "trained": 2, "tested": 1} for name in ("ant", "bee")]
    assert found["classes_on_both_sides"].items == both and not found.passed
    assert [item["class"] for item in found["single"].items] == ["ant", "bee"]  # among the test images


def test_a_split_that_cannot_be_made(folder: Path) -> None:
    for name in CLASSES[1:]:
        shutil.rmtree(folder / name)
    found = check(str(folder))
    assert not found.passed and "has 1 class" in found["split"].items[0]["reason"]
    with pytest.raises(OptionError, match="Unknown split 'frist-half'"):
        check(str(folder), split="frist-half")


def test_images_of_one_colour_and_formats_that_are_not_read(folder: Path) -> None:
    for row in range(2):
        Image.new("RGB", (40 + row, 40), "white").save(folder / f"ant/white{row}.png")
    (folder / "bee/1.heic").write_bytes(b"heic")
    found = check(str(folder))
    assert found["one_colour"].items == [{"id": "ant/white0.png"}, {"id": "ant/white1.png"}]
    assert found["left_out"].items == [{"id": "bee/1.heic"}] and "near" not in found


def test_labels_that_a_teacher_doubts(folder: Path, tiny_onnx: Callable[..., Path], tmp_path: Path) -> None:
    (folder / "cat/06.jpg").rename(folder / "ant/99.jpg")
    for row in range(12):
        picture(6).save(folder / f"cat/more{row}.png")  # the teacher's embedding is the mean colour
        picture(200).save(folder / f"ant/more{row}.png")
    found = check(str(folder), teacher=tiny_onnx(tmp_path / "tiny.onnx"), radius=-1)
    doubted = {item["id"]: item for item in found["suspects"].items}
    assert doubted["ant/99.jpg"] == {"id": "ant/99.jpg", "class": "ant", "looks_like": "cat", "share": 1.0}
    with pytest.raises(ModelError):
        check(str(folder), teacher=tmp_path / "none.onnx")


@pytest.mark.parametrize("kind", ["arrays", "zip", "splits"])
def test_data_of_other_kinds(kind: str, folder: Path) -> None:
    shutil.copy(folder / "ant/00.jpg", folder / "cat/copy.jpg")
    data: Any = shutil.make_archive(str(folder), "zip", folder)
    if kind == "arrays":
        files = files_in(folder)
        data = ([np.asarray(Image.open(file)) for file in files], [file.parent.name for file in files])
    elif kind == "splits":
        data = load_data(str(folder))
        labelled = replace(data.train, continuous=VectorLabels(np.arange(len(data.train))))
        data = replace(data, train=labelled)  # continuous labels of one part are no obstacle
    found = check(data)
    assert found["copies_across"].count == 1 and found["copies_of_other_class"].items[0]["classes"] == ["ant", "cat"]
    assert found.images == 13


def test_processes_find_what_one_finds(folder: Path) -> None:
    for row in range(600):
        target = folder / f"bee/x{row:03}.png"
        Image.new("L", (8, 8), row % 256).save(target) if row % 50 else target.write_bytes(b"broken")
    images = load_data(str(folder)).train
    one, two = read_all(images, 1), read_all(images, 2)
    assert one.unreadable == two.unreadable and len(one.unreadable) == 12
    assert one.kinds == two.kinds and one.digests == two.digests
    for name in ("sizes", "hashes", "small"):
        assert np.array_equal(getattr(one, name), getattr(two, name))


def test_options() -> None:
    for options, said in (({"radius": 12}, "radius is 12"), ({"workers": -1}, "workers is -1")):
        with pytest.raises(OptionError, match=said):
            check("glyphs", **options)  # type: ignore[arg-type]


def test_the_command(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", str(folder)]) == 0
    out = capsys.readouterr().out
    assert out.splitlines()[0] == f"{folder}: 12 images of 4 classes; split first-half: 6 train, 6 test"
    assert out.splitlines()[-1] == "Passed: nothing found."
    (folder / "ant/00.jpg").write_bytes(b"<script>")
    assert main(["check", str(folder), "--strict"]) == 3
    printed = capsys.readouterr()
    assert "images that cannot be read: ant/00.jpg (cannot identify" in printed.out
    assert printed.err.splitlines()[-1] == "Failed: 1 note found."
    assert main(["check", str(folder), "--max_unreadable", "0", "--json"]) == 3
    content = json.loads(capsys.readouterr().out)
    assert content["passed"] is False and content["findings"][0]["kind"] == "unreadable"
    assert main(["check", str(folder / "none")]) == 1
