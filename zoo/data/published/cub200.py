"""``cub200:PATH``, in its published layout."""

from __future__ import annotations

import numpy as np

from zoo.data.division.splits import TEST, TRAIN, Source
from zoo.data.published.layout import Root, rows_of, source_of
from zoo.errors import DataError


def read_cub200(path: str) -> Source:
    """Read CUB-200-2011 (Wah et al., 2011): 11,788 photographs of 200 bird species.

    Classes 1-100 are for training and 101-200 for test, as in the metric-learning literature; the split in
    ``train_test_split.txt`` shares classes. ``path`` is the folder ``CUB_200_2011``, the folder above it, or a zip
    archive of either.

    Raises:
        DataError: a file is missing, or one of its lines is malformed.
    """
    root = Root(path, "image_class_labels.txt")
    classes = {row.number(0): row.cells[1] for row in rows_of(root, "classes.txt", "id name")}
    index = {number: i for i, number in enumerate(sorted(classes))}
    names = {row.number(0): row.cells[1] for row in rows_of(root, "images.txt", "id path")}
    place = {number: i for i, number in enumerate(names)}
    labels = np.full(len(names), -1, dtype=np.int64)
    for row in rows_of(root, "image_class_labels.txt", "image class"):
        labels[row.index(0, place)] = row.index(1, index)
    if (labels < 0).any():
        unlabelled = list(names.values())[int(np.argmax(labels < 0))]
        raise DataError(
            f"{root.where('image_class_labels.txt')} has no line for {unlabelled}. Download the data set again."
        )
    ids = list(names.values())
    sources = [root.image(f"images/{name}") for name in ids]
    split = np.where(np.array(sorted(classes))[labels] <= 100, TRAIN, TEST)
    class_names = [classes[number] for number in sorted(classes)]
    return source_of(ids, sources, labels, class_names, split, "train: classes 1-100; test: classes 101-200")
