"""The measures of image retrieval by classes, in bounded memory.

As in Musgrave et al., "A Metric Learning Reality Check" (arXiv:2003.08505):

* Recall@K: 1 if one of a query's K nearest other images has its class, else 0.
* R-Precision: with R images of the query's class in the gallery, the fraction of its R nearest that have the class.
* MAP@R: (1/R) sum over i = 1..R of precision@i if the i-th nearest has the class, else 0.

Neighbours are exact, and ties go to the lower index; see :mod:`zoo.retrieval.nearest`. Queries without an image of
their class in the gallery are left out and counted.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from zoo.data.image_set import ImageSet
from zoo.errors import DataError, OptionError
from zoo.retrieval.nearest import CHUNK_BYTES, MEMORY
from zoo.retrieval.protocol import Find, chance_of, exact, positives_of, queries_and_gallery

DEFAULT_KS = (1, 2, 4, 8, 10)


@dataclass(frozen=True, eq=False)
class RetrievalResult:
    """Measures per query, so that means, bootstrap intervals and pictures come from one result.

    Attributes:
        queries: int64 ``(Q,)``, the index of each query in the image set.
        neighbours: int64 ``(Q, max K)``, indices in the image set of the nearest gallery images, nearest first; -1 if
            the gallery has fewer.
        recall: bool ``(Q,)`` for each K.
        r_precision: float64 ``(Q,)`` in [0, 1].
        average_precision: float64 ``(Q,)`` in [0, 1]; its mean is MAP@R.
        chance: Recall@1 of a random order, in [0, 1].
        gallery_size: number of images in the gallery.
        left_out: number of queries without an image of their class in the gallery.
    """

    queries: np.ndarray
    neighbours: np.ndarray
    recall: dict[int, np.ndarray]
    r_precision: np.ndarray
    average_precision: np.ndarray
    chance: float
    gallery_size: int
    left_out: int

    def recall_at(self, k: int) -> float:
        """Return mean Recall@K in [0, 1]."""
        return float(self.recall[k].mean())

    def summary(self) -> dict[str, Any]:
        """Return the means: ``{"recall": {"1": ...}, "r_precision": ..., "map_at_r": ...}``."""
        return {
            "recall": {str(k): self.recall_at(k) for k in self.recall},
            "r_precision": float(self.r_precision.mean()),
            "map_at_r": float(self.average_precision.mean()),
        }


def measure(
    embeddings: np.ndarray,
    images: ImageSet,
    metric: str = "cosine",
    ks: Sequence[int] = DEFAULT_KS,
    memory: int = MEMORY,
) -> RetrievalResult:
    """Measure retrieval among the images of a set.

    If the set has roles, queries are compared with the gallery; otherwise every image with all others. An image is
    never its own neighbour.

    Args:
        embeddings: float ``(N, D)``, one row per image.
        images: the images, with labels and roles.
        metric: "cosine" or "euclidean".
        ks: the K of Recall@K, each at least 1.
        memory: bytes of memory for the search, beyond the embeddings.

    Raises:
        DataError: there are no labels, no query has an image of its class in the gallery, or embeddings are not finite.
        OptionError: the metric is unknown, or a K is below 1.
    """
    return measure_found(exact(embeddings, images, metric, memory=memory), images, ks)


def measure_found(find: Find, images: ImageSet, ks: Sequence[int] = DEFAULT_KS) -> RetrievalResult:
    """Measure the results of any search, as :func:`measure` does for exact search.

    Args:
        find: the search.
        images: the images, with labels and roles.
        ks: the K of Recall@K, each at least 1.

    Raises:
        DataError: there are no labels, or no query has an image of its class in the gallery.
        OptionError: a K is below 1.
    """
    if images.labels is None:
        raise DataError("Retrieval cannot be measured on images without labels. Give a labelled set.")
    if not ks or min(ks) < 1:
        raise OptionError(f"Recall@K needs K of at least 1, found {list(ks)}.")
    query_rows, gallery_rows, own = queries_and_gallery(images)
    gallery_labels = images.labels[gallery_rows]

    positives = positives_of(images)
    answerable = positives > 0
    left_out = int((~answerable).sum())
    query_rows, own, positives = query_rows[answerable], own[answerable], positives[answerable]
    if not len(query_rows):
        raise DataError("No query has another image of its class in the gallery, so retrieval cannot be measured.")

    largest_k = max(ks)
    depth = int(min(max(largest_k, positives.max()), len(gallery_rows)))
    recall = {k: np.zeros(len(query_rows), dtype=bool) for k in ks}
    r_precision = np.zeros(len(query_rows))
    average_precision = np.zeros(len(query_rows))
    neighbours = np.full((len(query_rows), largest_k), -1, dtype=np.int64)
    ranks = np.arange(1, depth + 1)
    step = max(1, CHUNK_BYTES // (16 * depth))
    for start in range(0, len(query_rows), step):
        part = slice(start, start + step)
        found = find(query_rows[part], depth, own[part])
        matches = (gallery_labels[found] == images.labels[query_rows[part]][:, None]) & (found >= 0)
        for k in ks:
            recall[k][part] = matches[:, :k].any(axis=1)
        within_r = matches & (ranks <= positives[part][:, None])
        precision = np.cumsum(matches, axis=1) / ranks
        r_precision[part] = within_r.sum(axis=1) / positives[part]
        average_precision[part] = (precision * within_r).sum(axis=1) / positives[part]
        kept = found[:, :largest_k]
        neighbours[part, : kept.shape[1]] = np.where(kept >= 0, gallery_rows[kept], -1)
    return RetrievalResult(
        queries=query_rows,
        neighbours=neighbours,
        recall=recall,
        r_precision=r_precision,
        average_precision=average_precision,
        chance=chance_of(images)[0],
        gallery_size=len(gallery_rows),
        left_out=left_out,
    )


def neighbour_overlap(model: np.ndarray, teacher: np.ndarray) -> float:
    """Return the mean fraction of the teacher's nearest neighbours that the model finds too, in any order; in [0, 1].

    Args:
        model: int ``(Q, K)``, neighbours of each query, -1 for none.
        teacher: int ``(Q, K)``, neighbours of the same queries.
    """
    shares = np.zeros(len(model))
    step = max(1, CHUNK_BYTES // (2 * max(model.shape[1] * teacher.shape[1], 1)))
    for start in range(0, len(model), step):
        found, wanted = model[start : start + step], teacher[start : start + step]
        shared = (found[:, :, None] == wanted[:, None, :]) & (found[:, :, None] >= 0)
        shares[start : start + step] = shared.any(axis=2).sum(axis=1) / np.maximum((wanted >= 0).sum(axis=1), 1)
    return float(shares.mean())
