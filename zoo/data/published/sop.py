"""``sop:PATH``, in its published layout."""

from __future__ import annotations

import numpy as np

from zoo.data.division.splits import TEST, TRAIN, Source
from zoo.data.published.layout import Root, rows_of, source_of


def read_sop(path: str) -> Source:
    """Read Stanford Online Products (Oh Song et al., CVPR 2016): 120,053 photographs of 22,634 products.

    The split is the authors': products of ``Ebay_train.txt`` are for training, those of ``Ebay_test.txt`` for test.
    ``path`` is the folder that holds them, the folder above it, or a zip archive of either.

    Raises:
        DataError: a file is missing, or one of its lines is malformed.
    """
    root = Root(path, "Ebay_train.txt")
    ids: list[str] = []
    products: list[int] = []
    split: list[str] = []
    for name, part in (("Ebay_train.txt", TRAIN), ("Ebay_test.txt", TEST)):
        for row in rows_of(root, name, "image_id class_id super_class_id path", header=1):
            ids.append(row.cells[3])
            products.append(row.number(1))
            split.append(part)
    numbers, labels = np.unique(np.array(products, dtype=np.int64), return_inverse=True)
    sources = [root.image(name) for name in ids]
    class_names = [str(number) for number in numbers]
    return source_of(ids, sources, labels, class_names, split, "train: Ebay_train.txt; test: Ebay_test.txt")
