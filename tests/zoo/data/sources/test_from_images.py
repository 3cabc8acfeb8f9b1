"""Lists of images, with and without labels."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from tests.zoo.data.sources.conftest import Pile
from zoo.data import ImageSet, Source, divide, from_images, load_data, load_images
from zoo.data.continuous import VectorLabels
from zoo.data.sources.opening import open_source
from zoo.data.sources.parts import joined
from zoo.errors import DataError, OptionError


def of_kind(kind: str, pile: Pile) -> Any:
    images = [Image.open(path) for path in pile.paths]
    return {
        "paths": pile.paths,
        "Paths": [Path(path) for path in pile.paths],
        "PIL images": images,
        "bytes": pile.blobs,
        "arrays": [np.array(image) for image in images],
        "an array": np.stack([np.array(image) for image in images]),
        "tensors": [torch.from_numpy(np.array(image)).permute(2, 0, 1) for image in images],
        "each another": [pile.paths[0], images[1], *pile.blobs[2:]],
    }[kind]


KINDS = ("paths", "Paths", "PIL images", "bytes", "arrays", "an array", "tensors", "each another")


@pytest.mark.parametrize("kind", KINDS)
def test_images_of_each_kind_with_labels(kind: str, pile: Pile) -> None:
    splits = load_data((of_kind(kind, pile), pile.labels), validation=0)
    assert pile.is_divided(splits) and splits.name == "images"
    assert pile.is_in(pickle.loads(pickle.dumps(splits)).test, range(12, 24))  # as worker processes are given it
    unlabelled = load_data(of_kind(kind, pile))
    assert len(unlabelled.train) == 24 and unlabelled.train.labels is None
    assert [int(image) for image in load_images(of_kind(kind, pile)).pixels(7)[0, 0]] == [70] * 3


@pytest.mark.parametrize("kind", KINDS)
def test_the_digest_is_that_of_the_images(kind: str, pile: Pile) -> None:
    images = of_kind(kind, pile)
    before = load_data((images, pile.labels)).digest
    assert load_data((of_kind(kind, pile), pile.labels)).digest == before
    assert load_data((images, [*pile.labels[:-1], "gnu"])).digest != before
    other = np.full((6, 8, 3), 7, dtype=np.uint8)
    if isinstance(images, np.ndarray):
        images[3] = other
    else:
        Image.fromarray(other).resize((50, 50)).save(pile.root / "other.png")
        images[3] = other if kind != "tensors" else torch.full((3, 6, 8), 7, dtype=torch.uint8)
        if "aths" in kind:
            images[3] = str(pile.root / "other.png")
    assert load_data((images, pile.labels)).digest != before


def test_tensors_of_grey_images_on_any_device(pile: Pile) -> None:
    grey = [torch.full((6, 8), 10 * row, dtype=torch.uint8) for row in range(2)]
    assert load_images(grey).pixels(1).tolist() == np.full((6, 8, 3), 10).tolist()
    devices = ["cuda"] if torch.cuda.is_available() else []
    for elsewhere in [grey[1].to(device) for device in devices]:
        assert load_images([elsewhere]).pixels(0)[0, 0].tolist() == [10] * 3
    with pytest.raises(DataError, match=r"image 0 is float32 of shape \(6, 8\) from 0 to 0, not uint8"):
        load_images([torch.zeros(6, 8, requires_grad=True)])


def test_continuous_labels_may_be_a_tensor_with_gradient(pile: Pile) -> None:
    numbers = torch.arange(24.0, requires_grad=True)
    labels = from_images(pile.paths, continuous=numbers).images.continuous
    assert labels is not None and labels.distances(np.array([3]), np.array([5])).tolist() == [[2.0]]


def test_paths_are_named_from_the_folder_that_they_share(pile: Pile) -> None:
    assert list(load_images(pile.paths).ids)[:2] == ["ant/00.png", "ant/01.png"]
    assert list(load_images(pile.paths[:2]).ids) == ["00.png", "01.png"]
    assert list(load_images(pile.blobs[:2]).ids) == ["0", "1"]


def test_paths_start_from_the_working_directory(pile: Pile, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(pile.root)
    relative = [str(Path(path).relative_to(pile.root)) for path in pile.paths]
    assert pile.is_divided(load_data((relative, pile.labels), validation=0))


def test_splits_roles_and_ids(pile: Pile) -> None:
    split = ["Training"] * 8 + ["val"] * 4 + ["query", "gallery"] * 6
    splits = load_data(from_images(pile.paths, pile.labels, split=split, ids=[f"sku{row}" for row in range(24)]))
    assert (len(splits.train), len(splits.validation), len(splits.test)) == (8, 4, 12)
    assert splits.test.roles is not None and list(splits.test.roles) == ["query", "gallery"] * 6
    assert list(splits.train.ids)[:2] == ["sku0", "sku1"]
    told = from_images(pile.paths, pile.labels, roles=["both"] * 12 + ["query", "gallery"] * 6).images.roles
    assert told is not None and list(told[10:14]) == ["both", "both", "query", "gallery"]


@pytest.mark.parametrize(
    ("labels", "named"),
    [
        ([0, 0, 1, 10], ["0", "0", "1", "10"]),
        (np.array([0.0, 0.0, 1.0, 2.5]), ["0", "0", "1", "2.5"]),
        ([True, False, "x", np.int64(3)], ["true", "false", "x", "3"]),
        (torch.tensor([0, 0, 5, 6]), ["0", "0", "5", "6"]),
        ([None, float("nan"), "", "NaN"], None),
    ],
)
def test_labels_of_every_type(labels: Any, named: list[str] | None, pile: Pile) -> None:
    images = from_images(pile.paths[:4], labels).images
    found = None if images.labels is None else [images.class_names[label] for label in images.labels]
    assert found == named


def test_names_of_classes_keep_their_order(pile: Pile) -> None:
    images = from_images(pile.paths[:4], [0, 1, 1, 0], class_names=["zebra", "ant"]).images
    assert list(images.class_names) == ["zebra", "ant"] and images.labels is not None
    assert images.labels.tolist() == [0, 1, 1, 0]


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        (["1", "2", "3", "1"], [0, 1, 2, 0]),  # texts are names
        ([1, 2, 0, 1], [1, 2, 0, 1]),  # numbers are indices
        (np.array(["1", "2", "3", "1"]), [0, 1, 2, 0]),
    ],
)
def test_names_of_classes_may_be_digits(labels: Any, expected: list[int], pile: Pile) -> None:
    images = from_images(pile.paths[:4], labels, class_names=["1", "2", "3"]).images
    assert images.labels is not None and images.labels.tolist() == expected


def test_texts_are_indices_where_none_is_a_name(pile: Pile) -> None:
    images = from_images(pile.paths[:4], ["1", "0", "1", "1"], class_names=["ant", "bee"]).images
    assert images.labels is not None and images.labels.tolist() == [1, 0, 1, 1]
    with pytest.raises(DataError, match="image 0: label '0' is not one of the 3 classes"):
        from_images(pile.paths[:4], ["0", "1", "2", "1"], class_names=["1", "2", "3"])


def test_continuous_labels_in_memory(pile: Pile) -> None:
    splits = load_data(from_images(pile.paths, continuous=np.arange(24)), validation=0.5)
    assert len(splits.train) == len(splits.validation) == 12 and splits.train.continuous is not None
    rows = np.array([0, 1])
    steps = [int(Path(splits.train.ids[row]).stem) for row in rows]
    assert splits.train.continuous.distances(rows[:1], rows[1:])[0, 0] == abs(steps[0] - steps[1])
    given = VectorLabels(np.eye(24), "cosine")
    assert from_images(pile.paths, continuous=given).images.continuous is given


def test_parts_keep_their_continuous_labels(pile: Pile) -> None:
    numbers = np.arange(24.0) ** 2
    parts = {
        "train": from_images(pile.paths[:12], continuous=numbers[:12]),
        "test": from_images(pile.paths[12:], continuous=numbers[12:]),
    }
    splits = load_data(parts, validation=0)
    assert splits.train.continuous is not None and splits.test.continuous is not None
    rows = np.arange(12)
    for images, own in ((splits.train, numbers[:12]), (splits.test, numbers[12:])):
        assert images.continuous is not None
        assert images.continuous.distances(rows, rows).tolist() == abs(own[:, None] - own).tolist()
    with pytest.raises(DataError, match=r"images: part test has no continuous labels, and train has\. Give both"):
        load_data(parts | {"test": pile.paths[12:]})


def test_parts_keep_what_was_left_out(pile: Pile) -> None:
    (pile.root / "photos" / "ant" / "00.heic").write_bytes(b"")
    part = open_source(str(pile.root / "photos" / "ant"))
    assert part.left_out == ["00.heic"]
    both = joined("photos", {"train": part, "test": open_source(pile.paths[12:])})
    assert both.left_out == ["train/00.heic"]


def test_what_readers_and_from_images_return_is_data(pile: Pile) -> None:
    source = from_images(pile.paths, pile.labels, name="shop")
    splits = load_data(source, validation=0)
    assert pile.is_divided(splits) and splits.name == "shop" and load_data(splits) is splits
    assert pile.is_divided(load_data(source.images, validation=0))
    assert isinstance(source, Source) and isinstance(source.images, ImageSet) and len(source) == 24
    assert pile.is_divided(divide("shop", source, validation=0))


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (lambda p: ([*p.paths, p.paths[3]], [*p.labels, "x"]), r"images image 24: .* is on image 3 already"),
        (lambda p: (p.paths, p.labels[:-1]), "label has 23 values for 24 images"),
        (lambda p: (p.paths, "labels"), "(images, labels)"),
        (lambda p: (p.paths, [*p.labels[:-1], None]), "images image 23: label is empty while other rows have one"),
        (lambda p: tuple(p.paths[:3]), r"a tuple of 3; a tuple is \(images, labels\). Give a list"),
        (lambda p: [*p.blobs, 7], "images image 24 is 7, of type int. Give a path"),
        (lambda p: [(p.paths[0], "ant")], r"of type tuple\. .* Labels are a list of their own: \(images, labels\)"),
        (lambda p: (path for path in p.paths), r"type generator can be read only once\. Make it a list"),
        (lambda p: f"{p.root}/*.png", r"does not exist\. .* Give a folder, or in Python a list of paths"),
        (lambda p: [], "images has no images"),
        (lambda p: ["nowhere/a.png", "nowhere/b.png"], "none of the 2 image files exists.*the working directory"),
        (lambda p: [np.zeros((4, 4, 3))], r"image 0 is float64 of shape \(4, 4, 3\) from 0 to 0, not uint8"),
        (lambda p: np.zeros((4, 4, 3), np.uint8), r"an array of shape \(4, 4, 3\); give \(N, H, W, 3\)"),
        (lambda p: 7, "Data of type int are not known"),
        (lambda p: from_images(p.paths, [6] * 24, class_names=["a"]), "image 0: label '6' is not one of the 1 classes"),
        (lambda p: from_images(p.paths, p.labels, split=["trian"] * 24), "image 0: split 'trian' is not one of"),
    ],
)
def test_mistakes_are_named(data: Any, said: str, pile: Pile) -> None:
    with pytest.raises(DataError, match=said if said != "(images, labels)" else None):
        load_data(data(pile))


def test_columns_are_of_tables(pile: Pile) -> None:
    with pytest.raises(OptionError, match="data of type list have none"):
        load_data(pile.paths, columns={"path": "file"})
    with pytest.raises(OptionError, match="data of kind folder have none"):
        load_data(str(pile.root / "photos"), columns={"path": "file"})
    with pytest.raises(OptionError, match="it must give names"):
        load_data(pile.paths, columns={"path": 1})  # type: ignore[dict-item]
