"""``inshop:PATH``, in its published layout."""

from __future__ import annotations

import numpy as np

from zoo.data.division.splits import TEST, TRAIN, Source
from zoo.data.image_set import BOTH, GALLERY, QUERY
from zoo.data.published.layout import Root, rows_of, source_of
from zoo.errors import DataError


def read_inshop(path: str) -> Source:
    """Read DeepFashion In-Shop (Liu et al., CVPR 2016): 52,712 photographs of 7,982 clothing items.

    The split is the authors': 3,997 items are for training; of the other 3,985, query photographs are compared with
    gallery photographs. ``path`` is the folder that holds ``Eval/list_eval_partition.txt`` (or this file without
    ``Eval``) and the images below ``Img/img`` or ``img``, the folder above it, or a zip archive of either.

    Raises:
        DataError: a file is missing, or one of its lines is malformed.
    """
    root = Root(path, "Eval/list_eval_partition.txt", "list_eval_partition.txt")
    folder = next((above for above in ("Img/", "") if root.has_folder(f"{above}img")), None)
    if folder is None:
        raise DataError(f"{path} holds neither img nor Img/img. Extract img.zip of the data set there.")
    ids: list[str] = []
    items: list[str] = []
    split: list[str] = []
    roles: list[str] = []
    # The first line is the number of images, the second the column names.
    for row in rows_of(root, root.marker, "image_name item_id evaluation_status", header=2):
        name, item, status = row.cells
        if status not in ("train", QUERY, GALLERY):
            raise row.error(f"evaluation_status {status!r} is not train, query or gallery")
        ids.append(name)
        items.append(item)
        split.append(TRAIN if status == "train" else TEST)
        roles.append(BOTH if status == "train" else status)
    class_names, labels = np.unique(np.array(items, dtype=str), return_inverse=True)
    sources = [root.image(folder + name) for name in ids]
    note = "train, query and gallery as in list_eval_partition.txt"
    return source_of(ids, sources, labels, class_names.tolist(), split, note, roles)
