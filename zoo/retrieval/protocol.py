"""The queries and gallery of an image set, and whether retrieval among them can be measured."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from zoo.data.image_set import GALLERY, QUERY, DataSplits, ImageSet
from zoo.errors import DataError
from zoo.retrieval.nearest import MEMORY, comparable, nearest

Find = Callable[[np.ndarray, int, np.ndarray], np.ndarray]
"""A search, exact or by an index. Takes int64 ``(Q,)`` rows of queries in the image set, the number of neighbours k,
and each query's own position in the gallery, or -1. Returns int64 ``(Q, k)`` positions in the gallery, nearest first,
never the query's own, and -1 if there are fewer. The gallery holds the images of :func:`queries_and_gallery`, in that
order."""


def exact(
    embeddings: np.ndarray,
    images: ImageSet,
    metric: str,
    gallery: np.ndarray | None = None,
    memory: int = MEMORY,
) -> Find:
    """Return an exact search among the images of a set.

    Args:
        embeddings: float ``(N, D)``, one row per image.
        images: the images, with roles.
        metric: "cosine" or "euclidean".
        gallery: float ``(N, D)``, another model's embeddings of the same images, to search among; None for the same
            embeddings.
        memory: bytes of memory for the search, beyond the vectors.

    Raises:
        DataError: embeddings are not finite, or not one for each image.
        OptionError: the metric is unknown.
    """
    for rows in (embeddings, embeddings if gallery is None else gallery):
        if len(rows) != len(images):
            raise DataError(f"{len(rows)} embeddings for {len(images)} images; there must be one each.")
    vectors = comparable(embeddings, metric)
    searched = vectors if gallery is None else comparable(gallery, metric)
    if images.roles is not None:
        searched = searched[queries_and_gallery(images)[1]]

    def find(rows: np.ndarray, k: int, own: np.ndarray) -> np.ndarray:
        if searched is vectors and 2 * len(rows) > len(vectors):  # searching all rows at once halves the products
            return nearest(vectors, vectors, k, np.arange(len(vectors)), memory)[rows]
        return nearest(vectors[rows], searched, k, own, memory)

    return find


def queries_and_gallery(images: ImageSet) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the rows of the queries, the rows of the gallery, and each query's position in the gallery, or -1."""
    rows = np.arange(len(images))
    query_rows = rows if images.roles is None else np.flatnonzero(images.roles != GALLERY)
    gallery_rows = rows if images.roles is None else np.flatnonzero(images.roles != QUERY)
    position = np.full(len(images), -1)
    position[gallery_rows] = np.arange(len(gallery_rows))
    return query_rows, gallery_rows, position[query_rows]


def positives_of(images: ImageSet) -> np.ndarray:
    """Return how many other images of its class each query has in the gallery, int64 ``(Q,)``."""
    assert images.labels is not None
    query_rows, gallery_rows, own = queries_and_gallery(images)
    class_sizes = np.bincount(images.labels[gallery_rows], minlength=len(images.class_names))
    return np.asarray(class_sizes[images.labels[query_rows]] - (own >= 0))


def chance_of(images: ImageSet) -> tuple[float, int]:
    """Return Recall@1 of a random order of labelled images, in [0, 1], and the number of answerable queries."""
    _, gallery_rows, own = queries_and_gallery(images)
    positives, others = positives_of(images), len(gallery_rows) - (own >= 0)
    answerable = positives > 0
    count = int(answerable.sum())
    return (float((positives[answerable] / others[answerable]).mean()) if count else 0.0), count


def require_measurable(images: ImageSet, what: str) -> None:
    """Refuse labelled images on which retrieval cannot be measured, before work is done on them.

    Args:
        images: the images.
        what: what the message calls them, such as "test".

    Raises:
        DataError: the gallery has fewer than two classes, or no image of any query's class.
    """
    if images.labels is None:
        return
    classes = np.unique(images.labels[queries_and_gallery(images)[1]])
    if len(classes) < 2:
        which = f"{images.class_names[classes[0]]!r} only" if len(classes) else "none"
        raise DataError(
            f"The {what} gallery has fewer than two classes ({which}), so retrieval cannot be measured. Give images of "
            "more classes, or change split or validation."
        )
    if not (positives_of(images) > 0).any():
        raise DataError(
            f"No {what} query has another image of its class in the gallery, so retrieval cannot be measured. Give "
            "classes of two images or more, or change split or validation."
        )


def measurable(images: ImageSet) -> bool:
    """Return whether images have labels, of either kind, by which retrieval can be measured."""
    if images.labels is None:
        return images.continuous is not None
    try:
        require_measurable(images, "labelled")
    except DataError:
        return False
    return True


def require_training_images(splits: DataSplits, rule: str) -> None:
    """Refuse data that cannot be used for training or validation.

    Args:
        splits: the data.
        rule: the rule that split it, for the message.

    Raises:
        DataError: there are fewer than two training images, or retrieval among the validation images cannot be
            measured.
    """
    if len(splits.train) < 2:
        found = f"{len(splits.train) or 'no'} training image{'' if len(splits.train) == 1 else 's'}"
        raise DataError(f"{splits.name} has {found} after split {rule!r}; at least 2 are needed. Choose another split.")
    if len(splits.validation):
        require_measurable(splits.validation, "validation")


def require_test_images(splits: DataSplits, rule: str) -> None:
    """Refuse data whose test images cannot be measured.

    Args:
        splits: the data.
        rule: the rule that split it, for the message.

    Raises:
        DataError: it has no images, fewer than two classes, or no query with an image of its class in the gallery.
    """
    if not len(splits.test):
        raise DataError(f"{splits.name} has no test images after split {rule!r}. Choose another split, or label them.")
    require_measurable(splits.test, "test")
