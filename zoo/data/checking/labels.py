"""Find mistakes in classes: in their sizes, their names, and their sides of the split."""

from __future__ import annotations

import unicodedata
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from zoo.data.image_set import ImageSet

_NEIGHBOURS = 10
_AGREED = 0.6  # fraction of neighbours of one other class from which on a label is suspect
_LEAST_OF_CLASS = 3


def on_both_sides(images: ImageSet, trained: np.ndarray, tested: np.ndarray) -> list[dict[str, Any]]:
    """Return the classes that are both trained and tested, with the number of images on each side.

    Args:
        images: images with labels.
        trained: indices of the train and validation images.
        tested: indices of the test images.
    """
    assert images.labels is not None
    counts = [np.bincount(images.labels[rows], minlength=len(images.class_names)) for rows in (trained, tested)]
    both = np.flatnonzero((counts[0] > 0) & (counts[1] > 0))
    return [
        {"class": images.class_names[label], "trained": int(counts[0][label]), "tested": int(counts[1][label])}
        for label in both.tolist()
    ]


def of_one_image(images: ImageSet, rows: np.ndarray) -> list[dict[str, Any]]:
    """Return the classes that have exactly one image in ``rows``, with that image."""
    assert images.labels is not None
    labels, first, counts = np.unique(images.labels[rows], return_index=True, return_counts=True)
    alone = counts == 1
    return [
        {"class": images.class_names[label], "id": images.ids[rows[at]]}
        for label, at in zip(labels[alone].tolist(), first[alone].tolist(), strict=True)
    ]


def alike_but_for_writing(names: Sequence[str]) -> list[dict[str, Any]]:
    """Return the groups of names that differ only in case, spaces, underscores or Unicode normalisation."""
    groups: dict[str, list[str]] = defaultdict(list)
    for name in names:
        plain = unicodedata.normalize("NFKC", name).casefold().replace("_", " ")
        groups["".join(unicodedata.normalize("NFKC", plain).split())].append(name)
    return [{"classes": group} for group in groups.values() if len(group) > 1]


def suspects(
    images: ImageSet, rows: np.ndarray, embed: Callable[[ImageSet], np.ndarray], metric: str
) -> list[dict[str, Any]]:
    """Return the images whose neighbours agree on a different class.

    An image is suspect if none of its nearest neighbours (ten, or fewer if its class has fewer other images) has its
    class, and 60 % or more have the same other class. Classes of fewer than three images are not judged.

    Args:
        images: images with labels.
        rows: indices of the readable images to check.
        embed: embeds a set, float32 ``(N, D)``.
        metric: how embeddings are compared, "cosine" or "euclidean".
    """
    from zoo.retrieval.nearest import comparable, nearest

    assert images.labels is not None
    labels = images.labels[rows]
    vectors = comparable(embed(images.subset(rows).without_labels()), metric)
    found = nearest(vectors, vectors, min(_NEIGHBOURS, len(rows)), exclude=np.arange(len(rows)))
    sizes = np.bincount(labels, minlength=len(images.class_names))
    result = []
    for place, row in enumerate(rows.tolist()):
        own = int(labels[place])
        near = labels[found[place][found[place] >= 0]][: sizes[own] - 1]
        if sizes[own] < _LEAST_OF_CLASS or not len(near) or (near == own).any():
            continue
        others, counts = np.unique(near, return_counts=True)
        share = float(counts.max() / len(near))
        if share >= _AGREED:
            voted = images.class_names[others[counts.argmax()]]
            named = {"id": images.ids[row], "class": images.class_names[own]}
            result.append(named | {"looks_like": voted, "share": round(share, 2)})
    return sorted(result, key=lambda item: -item["share"])
