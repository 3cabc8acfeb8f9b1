"""The data protocol: its invariants, the reading of pixels, and the report of unreadable images."""

from __future__ import annotations

import logging
import zipfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from zoo.data.image_set import GALLERY, QUERY, DataSplits, ImageSet
from zoo.data.stored import EncodedImage, ZipMember
from zoo.errors import DataError


def shade(value: int, side: int = 4) -> np.ndarray:
    return np.full((side, side, 3), value, dtype=np.uint8)


def shades(count: int) -> ImageSet:
    """Image i is of shade i, class i % 2 and alternately query and gallery."""
    return ImageSet(
        ids=[f"{i}.png" for i in range(count)],
        sources=[shade(i) for i in range(count)],
        labels=np.arange(count) % 2,
        class_names=["even", "odd"],
        roles=np.array(["query", "gallery"] * count, dtype=object)[:count],
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"ids": ["a", "b"]}, "2 ids for 4 images"),
        ({"ids": ["a", "b", "c", "b"]}, "'b' occurs more than once"),
        ({"labels": np.zeros(3, dtype=np.int64)}, "3 labels for 4 images"),
        ({"labels": np.array([0, 1, 2, 0])}, r"outside 0\.\.1"),
        ({"labels": np.array([0, 1, -1, 0])}, r"outside 0\.\.1"),
        ({"roles": np.array(["query"] * 3)}, "3 roles for 4 images"),
        ({"roles": np.array(["query", "galery", "both", "both"])}, "^Role 'galery' is not one of"),
    ],
)
def test_inconsistent_columns_are_refused(change: dict, message: str) -> None:
    with pytest.raises(DataError, match=message):
        replace(shades(4), **change)


def test_subset_keeps_the_columns_together_and_the_order_asked_for() -> None:
    part = shades(6).subset([5, 0, 2])
    assert list(part.ids) == ["5.png", "0.png", "2.png"]
    assert [part.pixels(i)[0, 0, 0] for i in range(3)] == [5, 0, 2]
    assert part.labels is not None and part.labels.tolist() == [1, 0, 0]
    assert part.roles is not None and part.roles.tolist() == ["gallery", "query", "query"]
    assert list(part.class_names) == ["even", "odd"]


def test_without_labels_forgets_labels_only() -> None:
    forgetful = shades(3).without_labels()
    assert forgetful.labels is None and list(forgetful.class_names) == []
    assert list(forgetful.ids) == ["0.png", "1.png", "2.png"] and forgetful.roles is not None


def test_pixels_come_from_paths_archives_arrays_and_functions(tmp_path: Path) -> None:
    Image.fromarray(shade(7)).save(tmp_path / "a.png")
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.write(tmp_path / "a.png", "folder/a.png")
    sources = [tmp_path / "a.png", ZipMember(tmp_path / "a.zip", "folder/a.png"), shade(7), lambda: shade(7)]
    images = ImageSet(list("abcd"), sources)
    assert all((images.pixels(i) == shade(7)).all() for i in range(4))


def test_an_archive_can_be_read_by_several_threads_at_once(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        for i in range(100):
            with archive.open(f"{i}.png", "w") as file:
                Image.fromarray(shade(i, 32)).save(file, "png")
    images = ImageSet([str(i) for i in range(100)], [ZipMember(tmp_path / "a.zip", f"{i}.png") for i in range(100)])
    with ThreadPoolExecutor(8) as pool:
        assert [int(pixels[0, 0, 0]) for pixels in pool.map(images.pixels, range(100))] == list(range(100))


def test_members_that_unpack_to_too_much_are_not_read_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.png", bytes(1000))
    monkeypatch.setattr("zoo.data.stored._LARGEST", 999)
    with pytest.raises(OSError, match="it unpacks to 1000 bytes"):
        ZipMember(tmp_path / "a.zip", "a.png").content()


def broken_images(folder: Path) -> dict[str, Path | ZipMember]:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(noise).save(folder / "truncated.jpg")
    whole = (folder / "truncated.jpg").read_bytes()
    (folder / "truncated.jpg").write_bytes(whole[:2000])
    (folder / "text.png").write_text("not an image")
    (folder / "empty.png").write_bytes(b"")
    with zipfile.ZipFile(folder / "a.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.bmp", bytes(range(256)) * 20)
    content = bytearray((folder / "a.zip").read_bytes())
    content[35:60] = b"\xff" * 25  # 35 bytes of header and name: this hits the deflated stream
    (folder / "a.zip").write_bytes(bytes(content))
    return {
        "truncated.jpg": folder / "truncated.jpg",
        "text.png": folder / "text.png",
        "empty.png": folder / "empty.png",
        "missing.png": folder / "missing.png",
        "a.bmp": ZipMember(folder / "a.zip", "a.bmp"),
        "absent.png": ZipMember(folder / "a.zip", "absent.png"),
    }


@pytest.mark.parametrize("name", ["truncated.jpg", "text.png", "empty.png", "missing.png", "a.bmp", "absent.png"])
def test_an_unreadable_image_is_an_error_that_names_it(tmp_path: Path, name: str) -> None:
    source = broken_images(tmp_path)[name]
    with pytest.raises(DataError) as raised:
        ImageSet(["id"], [source]).pixels(0)
    assert str(raised.value).startswith(f"Image {source} cannot be read (")


def test_no_memory_address_is_told() -> None:
    with pytest.raises(DataError) as raised:
        ImageSet(["id"], [EncodedImage(b"no image", "image 0")]).pixels(0)
    assert str(raised.value) == "Image image 0 cannot be read (cannot identify image file). Fix or remove it."


def test_an_unreadable_array_is_named_by_its_id() -> None:
    with pytest.raises(DataError, match="Image the id cannot be read"):
        ImageSet(["the id"], [np.zeros((2, 2, 3))]).pixels(0)


def test_checked_reports_and_leaves_out_up_to_the_limit(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    images = shades(20)
    sources = list(images.sources)
    sources[3] = sources[11] = tmp_path / "missing.png"
    images = replace(images, sources=sources)
    with caplog.at_level(logging.WARNING):
        checked = images.checked(max_unreadable=2)
    assert list(checked.ids) == [f"{i}.png" for i in range(20) if i not in (3, 11)]
    assert [int(checked.pixels(i)[0, 0, 0]) for i in range(18)] == [i for i in range(20) if i not in (3, 11)]
    assert checked.labels is not None and checked.labels.tolist() == [i % 2 for i in range(20) if i not in (3, 11)]
    assert [str(tmp_path / "missing.png") in record.getMessage() for record in caplog.records] == [True, True]
    with pytest.raises(DataError, match=r"2 images cannot be read; the limit is 1.*missing\.png"):
        images.checked(max_unreadable=1)


def test_checked_needs_an_image(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="No images are left"):
        ImageSet(["a"], [tmp_path / "missing.png"]).checked()
    with pytest.raises(DataError, match="No images are left"):
        ImageSet([], []).checked()


def test_checked_keeps_pixels_as_far_as_they_fit(tmp_path: Path) -> None:
    paths = []
    for i in range(600):  # more than the blocks in which images are read
        paths.append(tmp_path / f"{i}.png")
        Image.fromarray(shade(i % 256, 2)).save(paths[-1])
    images = ImageSet([path.name for path in paths], paths)
    checked = images.checked(cache_bytes=300 * 12)  # an image takes 2 * 2 * 3 bytes
    assert [isinstance(source, np.ndarray) for source in checked.sources] == [True] * 300 + [False] * 300
    assert [int(checked.pixels(i)[0, 0, 0]) for i in range(600)] == [i % 256 for i in range(600)]
    paths[0].unlink()
    assert checked.pixels(0)[0, 0, 0] == 0


def test_the_digest_tells_data_apart() -> None:
    images = shades(6)
    train, test = images.subset([0, 2]), images.subset([1, 3])
    data = DataSplits("a", train, images.subset([]), test)
    same = DataSplits("b", train, images.subset([]), test, {"split": "given"})
    assert len(data.digest) == 16 and data.digest == same.digest
    changed = [
        replace(data, train=images.subset([0])),
        replace(data, train=images.subset([2, 0])),
        replace(data, train=test, test=train),
        replace(data, test=replace(test, roles=None)),
        replace(data, test=test.without_labels()),
        replace(data, test=replace(test, labels=np.array([1, 0]))),
    ]
    assert len({data.digest, *(other.digest for other in changed)}) == 7


def test_the_digest_notices_other_pixels(tmp_path: Path) -> None:
    def digest(*sources: Any) -> str:
        images = ImageSet([str(i) for i in range(len(sources))], sources)
        return DataSplits("a", images, images.subset([]), images.subset([])).digest

    black, white = np.zeros((2, 2, 3), dtype=np.uint8), np.full((2, 2, 3), 255, dtype=np.uint8)
    assert digest(black) == digest(black.copy()) != digest(white)
    file = tmp_path / "a.png"
    Image.fromarray(black).save(file)
    before = digest(file)
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (9, 9, 3), dtype=np.uint8)).save(file)
    assert digest(file) != before
    file.unlink()
    assert digest(file) not in (before, digest(black))
    of_archives = []
    for name, content in (("a.zip", b"one"), ("b.zip", b"two")):
        with zipfile.ZipFile(tmp_path / name, "w") as opened:
            opened.writestr("x.png", content)
        of_archives.append(digest(ZipMember(tmp_path / name, "x.png")))
    assert of_archives[0] != of_archives[1]


def test_data_are_shown_shortly_and_escaped() -> None:
    grey = np.zeros((4, 4, 3), np.uint8)
    labels, names = np.array([0, 0, 2]), ["<b>", "unused", "cup"]
    images = ImageSet(["a", "b", "c"], [grey] * 3, labels, names, np.array([QUERY, GALLERY, GALLERY]))
    assert repr(images) == "ImageSet(3 images, 2 classes, 1 as query, 2 as gallery, 0 as both)"
    assert "<td>&lt;b&gt;, cup</td>" in images._repr_html_()
    none = ImageSet([], [])
    splits = DataSplits("folder:<photos>", images.without_labels(), none, images, {"split": "auto"})
    assert repr(splits).startswith("DataSplits('folder:<photos>', train=ImageSet(3 images, 1 as query")
    shown = splits._repr_html_()
    assert "<p>folder:&lt;photos&gt;, split auto</p>" in shown and "<b>" not in shown
    assert "<tr><th>validation</th><td>0</td><td></td>" in shown
