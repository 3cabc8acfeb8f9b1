"""Data sets of Hugging Face."""

from __future__ import annotations

import pickle
from typing import Any

import pytest

from tests.zoo.data.sources.conftest import NAMES, Pile
from zoo.data import load_data
from zoo.errors import DataError

datasets = pytest.importorskip("datasets", reason="datasets is not installed")


@pytest.fixture
def dataset(pile: Pile) -> Any:
    features = datasets.Features({"picture": datasets.Image(), "kind": datasets.ClassLabel(names=NAMES[::-1])})
    columns = {"picture": pile.paths, "kind": [5 - row // 4 for row in range(24)]}
    return datasets.Dataset.from_dict(columns, features)


def test_the_only_columns_of_images_and_classes_are_found(dataset: Any, pile: Pile) -> None:
    images = load_data(dataset, split="all-train", validation=0).train
    assert pile.is_in(images) and tuple(images.class_names) == NAMES[::-1]
    assert pile.is_in(pickle.loads(pickle.dumps(images)))


def test_images_are_not_decoded_before_they_are_used(dataset: Any, pile: Pile) -> None:
    broken = [*pile.blobs[:23], b"no image"]
    held = datasets.Dataset.from_dict({"image": [{"bytes": blob, "path": None} for blob in broken]})
    images = load_data(held.cast_column("image", datasets.Image())).train
    assert images.pixels(22)[0, 0, 0] == 220
    with pytest.raises(DataError, match="dataset row 23 cannot be read"):
        images.pixels(23)
    assert len(images.checked()) == 23


def test_parts_divide(dataset: Any, pile: Pile) -> None:
    parts = {"train": dataset.select(range(12)), "test": dataset.select(range(12, 24))}
    splits = load_data(datasets.DatasetDict(parts), validation=0)
    assert pile.is_divided(splits) and splits.protocol["split"] == "given" and splits.test.ids[0] == "test/0"
    alone = load_data(datasets.DatasetDict({"train": dataset}), validation=0)
    assert alone.protocol["split"] == "first-half" and len(alone.test) == 12
    with pytest.raises(DataError, match="classes, 'fox' among them, are in both train and test"):
        load_data({"train": dataset, "test": dataset})


def test_the_digest_notices_other_images(dataset: Any, pile: Pile) -> None:
    before = load_data(dataset).digest
    assert load_data(dataset).digest == before
    assert load_data(dataset.select([*range(1, 24), 0])).digest != before


def test_columns_are_chosen(dataset: Any, pile: Pile) -> None:
    two = dataset.add_column("coarse", [0] * 24).cast_column("coarse", datasets.ClassLabel(names=["animal"]))
    with pytest.raises(DataError, match=r"several columns of classes, kind, coarse. .*columns.label"):
        load_data(two)
    assert len(load_data(two, split="all-train", columns={"label": "coarse"}).train.class_names) == 1
    with pytest.raises(DataError, match="no column path, only kind"):
        load_data(dataset.remove_columns("picture"))
    files = datasets.Dataset.from_dict({"file": pile.paths, "label": pile.labels})
    assert pile.is_divided(load_data(files, validation=0))


def test_streams_are_refused(dataset: Any) -> None:
    with pytest.raises(DataError, match=r"streams, so its images have no number. Load it without streaming"):
        load_data(dataset.to_iterable_dataset())
