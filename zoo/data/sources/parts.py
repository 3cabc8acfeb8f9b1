"""Join the parts of a data set that are given separately, such as ``{"train": ..., "test": ...}``."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import reduce
from pathlib import PurePosixPath

import numpy as np

from zoo.data.division.splits import Source
from zoo.data.division.words import TEST, TRAIN, VALIDATION, part_of, parts_and_roles
from zoo.data.image_set import BOTH, GALLERY, QUERY, ImageSet
from zoo.errors import DataError, all_shown, shown

_PARTS = (TRAIN, VALIDATION, TEST, QUERY, GALLERY)
_NUMBERS = re.compile(r"-?\d+(?:-of-\d+)?")


def joined(name: str, parts: Mapping[str, Source], with_parts_in_ids: bool = True) -> Source:
    """Join parts; two or more of them define the split of the whole.

    Args:
        name: name of the whole.
        parts: sources by train, validation, test, query or gallery, in any usual spelling.
        with_parts_in_ids: put the part before each id, so that ids of different parts differ.

    Raises:
        DataError: a part has another name, has its own split, or has labels although others have none; or the
            distances between the continuous labels of two parts are unknown.
    """
    words = {key: part_of(str(key)) for key in parts}
    for key, word in words.items():
        if word is None:
            raise DataError(
                f"{name} has a part called {shown(key)}, which is not one of {', '.join(_PARTS)}. Leave it out, or "
                f"rename it; there are {all_shown(list(map(str, parts)))}."
            )
        if parts[key].split is not None:
            raise DataError(f"{name}: part {key} is divided into train and test itself. Give it without its parts.")
    if len(parts) == 1:
        return next(iter(parts.values()))
    sets = {key: source.images for key, source in parts.items()}
    labelled = {key for key, images in sets.items() if images.labels is not None}
    if labelled and labelled != sets.keys():
        without = next(key for key in sets if key not in labelled)
        raise DataError(f"{name}: part {without} has no labels, and {min(labelled)} has. Label both, or none.")
    continuous = {key: images.continuous for key, images in sets.items() if images.continuous is not None}
    if continuous and continuous.keys() != sets.keys():
        without = next(key for key in sets if key not in continuous)
        raise DataError(
            f"{name}: part {without} has no continuous labels, and {next(iter(continuous))} has. Give both, or none."
        )
    names = [list(images.class_names) for images in sets.values()]
    class_names = names[0] if all(other == names[0] for other in names) else sorted(set().union(*names))
    index = {class_name: place for place, class_name in enumerate(class_names)}
    labels = None
    if labelled:
        labels = np.concatenate(
            [
                np.array([index[images.class_names[label]] for label in images.labels], dtype=np.int64)
                for images in sets.values()
                if images.labels is not None
            ]
        )
    split, roles = parts_and_roles(name, [words[key] or "" for key, images in sets.items() for _ in images.ids])
    own = [np.full(len(images), BOTH, object) if images.roles is None else images.roles for images in sets.values()]
    roles = np.where(roles == BOTH, np.concatenate(own), roles) if roles is not None else np.concatenate(own)
    together = ImageSet(
        ids=[f"{key}/{one}" if with_parts_in_ids else one for key, images in sets.items() for one in images.ids],
        sources=[source for images in sets.values() for source in images.sources],
        labels=labels,
        class_names=class_names,
        roles=None if (roles == BOTH).all() else roles,
        continuous=reduce(lambda these, others: these.followed_by(others), continuous.values()) if continuous else None,
    )
    left_out = [
        f"{key}/{one}" if with_parts_in_ids else one for key, source in parts.items() for one in source.left_out
    ]
    return Source(together, split, name=name, left_out=left_out, is_table=True)


def parts_of_files(files: Sequence[str]) -> list[str] | None:
    """Return the part of each file by its name, such as "train" for ``train-00000-of-00002.parquet``.

    Returns:
        The parts, or None if there are fewer than two different ones or a file names none.
    """
    words = [part_of(_NUMBERS.sub("", PurePosixPath(file.replace("\\", "/")).stem)) for file in files]
    return None if None in words or len(set(words)) < 2 else [word or "" for word in words]
