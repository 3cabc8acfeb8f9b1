"""``grocery:PATH`` and ``grocery-catalogue:PATH``, in their published layout."""

from __future__ import annotations

import csv
import io
from dataclasses import dataclass

import numpy as np

from zoo.data.division.splits import Source
from zoo.data.image_set import BOTH, GALLERY, QUERY, ImageSet
from zoo.data.published.layout import Root, Row, rows_of


def read_grocery(path: str) -> Source:
    """Read Grocery Store (Klasson et al., WACV 2019): 5,421 photographs of 81 products, labelled by fine class.

    The authors' split shares classes between train and test, so it is not used: split by ``even-odd`` (of the fine
    class id) or another rule. ``path`` is the repository's folder or a zip archive of it.

    Raises:
        DataError: a file is missing, or one of its lines is malformed.
    """
    return _read_grocery(Root(path, "dataset/classes.csv"))[0]


def read_grocery_catalogue(path: str) -> Source:
    """Read Grocery Store with the shop's catalogue as the gallery: one picture of each of the 81 products.

    Photographs of products with an even fine class id are for training. Photographs of the others are the queries, and
    the catalogue's pictures of all products are the gallery. Pictures of training products, which no query shows, get
    separate classes, so that test classes never occur in training. ``path`` is the same as for :func:`read_grocery`.

    Raises:
        DataError: a file is missing, or one of its lines is malformed.
    """
    root = Root(path, "dataset/classes.csv")
    photographs, classes = _read_grocery(root)
    images = photographs.images
    assert images.labels is not None
    tested = np.array([number % 2 == 1 for number in sorted(classes)])
    pictures = [classes[number].picture for number in sorted(classes)]
    beside = [f"{name} (in the catalogue alone)" for name in images.class_names]
    count = len(pictures)
    labels = np.where(tested, np.arange(count), count + np.arange(count))
    both = ImageSet(
        [*images.ids, *pictures],
        [*images.sources, *(root.image(f"dataset/{picture}") for picture in pictures)],
        np.concatenate([images.labels, labels]),
        [*images.class_names, *beside],
        np.array([*(QUERY if tested[label] else BOTH for label in images.labels), *[GALLERY] * count]),
    )
    split = np.array([*("test" if tested[label] else "train" for label in images.labels), *["test"] * count])
    return Source(both, split, "products of even id train; photographs of the others are looked for in the catalogue")


def _read_grocery(root: Root) -> tuple[Source, dict[int, _Product]]:
    """Return the photographs, and the products by fine class id."""
    classes = _grocery_classes(root)
    index = {number: i for i, number in enumerate(sorted(classes))}
    ids: list[str] = []
    labels: list[int] = []
    for part in ("train", "val", "test"):
        for row in rows_of(root, f"dataset/{part}.txt", "path fine coarse", separator=","):
            ids.append(row.cells[0])
            labels.append(row.index(1, index))
    sources = [root.image(f"dataset/{name}") for name in ids]
    class_names = [classes[number].name for number in sorted(classes)]
    return Source(ImageSet(ids, sources, np.array(labels, dtype=np.int64), class_names)), classes


@dataclass(frozen=True)
class _Product:
    name: str
    picture: str


def _grocery_classes(root: Root) -> dict[int, _Product]:
    """Return each product's name and catalogue picture, by fine class id."""
    classes = {}
    reader = csv.reader(io.StringIO(root.text("dataset/classes.csv")))
    for cells in reader:
        if reader.line_num == 1 or not cells:
            continue
        row = Row(f"{root.where('dataset/classes.csv')} line {reader.line_num}", cells)
        if len(cells) < 5:
            raise row.error(f"found {cells[0]!r} where there should be name, id, coarse name and id, and picture")
        classes[row.number(1)] = _Product(cells[0], cells[4].lstrip("/"))
    return classes
