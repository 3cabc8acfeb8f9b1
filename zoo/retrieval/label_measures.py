"""Measures of retrieval by continuous labels, in bounded memory.

As in Kim et al., "Deep Metric Learning Beyond Binary Supervision" (arXiv:1904.09626), section 5, with D_y(q, i) the
distance between the labels of query q and its i-th nearest image:

* mean label distance at K: (1/K) sum over i = 1..K of D_y(q, i); lower is better.
* nDCG@K: (1/Z) sum over i = 1..K of r_i / log2(i + 1), with the relevance r_i = 1 / (1 + D_y(q, i)) and Z the same sum
  over the K images with the nearest labels, so that the best order has 1.

Neighbours are exact, ties go to the lower index, and a query never finds itself, as in :mod:`zoo.retrieval`. If a
gallery has fewer than K images, both measures use those there are.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from zoo.data.image_set import ImageSet
from zoo.errors import DataError, OptionError
from zoo.retrieval.nearest import MEMORY
from zoo.retrieval.protocol import Find, exact, queries_and_gallery

LABEL_KS = tuple(range(1, 11))
NDCG_K = 10
"""The K of the nDCG that chooses checkpoints and is used for retention."""


@dataclass(frozen=True, eq=False)
class LabelRetrievalResult:
    """Label distances of the images that each query found and should have found; the measures follow from both.

    Attributes:
        ks: the K of the measures.
        queries: int64 ``(Q,)``, the index of each query in the image set.
        neighbours: int64 ``(Q, max K)``, indices in the image set of the nearest gallery images, nearest first; -1 if
            the gallery has fewer.
        distances: float64 ``(Q, max K)``, label distances between queries and neighbours; infinite if missing.
        ideal: float64 ``(Q, max K)``, the smallest possible label distances, ascending; infinite if missing.
        gallery_size: number of images in the gallery.
        left_out: number of queries without another image in the gallery.
    """

    ks: tuple[int, ...]
    queries: np.ndarray
    neighbours: np.ndarray
    distances: np.ndarray
    ideal: np.ndarray
    gallery_size: int
    left_out: int

    def label_distance(self, k: int) -> np.ndarray:
        """Return the mean label distance of each query's k nearest, float64 ``(Q,)``."""
        return _mean_distance(self.distances[:, :k])

    def ndcg(self, k: int) -> np.ndarray:
        """Return nDCG@k of each query, float64 ``(Q,)`` in (0, 1]."""
        return _gain(self.distances[:, :k]) / _gain(self.ideal[:, :k])

    def ndcg_at(self, k: int) -> float:
        """Return mean nDCG@k in (0, 1]."""
        return float(self.ndcg(k).mean())

    def label_distance_at(self, k: int) -> float:
        """Return the mean label distance of the k nearest, over all queries."""
        return float(self.label_distance(k).mean())

    def summary(self) -> dict[str, Any]:
        """Return the means: ``{"ndcg": {"1": ...}, "mean_label_distance": {"1": ...}}``."""
        return {
            "ndcg": {str(k): self.ndcg_at(k) for k in self.ks},
            "mean_label_distance": {str(k): self.label_distance_at(k) for k in self.ks},
        }

    def best_order(self) -> LabelRetrievalResult:
        """Return the result of the best possible order, without its neighbours."""
        return replace(self, neighbours=np.full_like(self.neighbours, -1), distances=self.ideal)


def measure_by_labels(
    embeddings: np.ndarray,
    images: ImageSet,
    metric: str = "cosine",
    ks: Sequence[int] = LABEL_KS,
    memory: int = MEMORY,
) -> LabelRetrievalResult:
    """Measure retrieval among the images of a set by their continuous labels.

    If the set has roles, queries are compared with the gallery; otherwise every image with all others.

    Args:
        embeddings: float ``(N, D)``, one row per image.
        images: the images, with continuous labels and roles.
        metric: how embeddings are compared, "cosine" or "euclidean".
        ks: the K of the measures, each at least 1.
        memory: bytes of memory for the search, beyond the embeddings.

    Raises:
        DataError: there are no continuous labels, no query has another image in the gallery, or embeddings are not
            finite.
        OptionError: the metric is unknown, or a K is below 1.
    """
    return measure_found_by_labels(exact(embeddings, images, metric, memory=memory), images, ks)


def measure_found_by_labels(find: Find, images: ImageSet, ks: Sequence[int] = LABEL_KS) -> LabelRetrievalResult:
    """Measure the results of any search, as :func:`measure_by_labels` does for exact search.

    Args:
        find: the search.
        images: the images, with continuous labels and roles.
        ks: the K of the measures, each at least 1.

    Raises:
        DataError: there are no continuous labels, or no query has another image in the gallery.
        OptionError: a K is below 1.
    """
    if images.continuous is None:
        raise DataError("Retrieval cannot be measured by label distance without continuous labels. Give them.")
    if not ks or min(ks) < 1:
        raise OptionError(f"nDCG@K needs K of at least 1, found {list(ks)}.")
    queries, gallery, own = queries_and_gallery(images)
    answerable = len(gallery) - (own >= 0) > 0
    left_out = int((~answerable).sum())
    queries, own = queries[answerable], own[answerable]
    if not len(queries):
        raise DataError("No query has another image in the gallery, so retrieval cannot be measured.")
    depth = max(ks)
    found = find(queries, min(depth, len(gallery)), own)
    found = np.pad(found, ((0, 0), (0, depth - found.shape[1])), constant_values=-1)
    best = images.continuous.nearest(queries, gallery, depth, exclude=own)
    neighbours = np.where(found >= 0, gallery[found], -1)
    return LabelRetrievalResult(
        ks=tuple(sorted(ks)),
        queries=queries,
        neighbours=neighbours,
        distances=_distances_to(images, queries, neighbours),
        ideal=_distances_to(images, queries, np.where(best >= 0, gallery[best], -1)),
        gallery_size=len(gallery),
        left_out=left_out,
    )


def random_order(
    result: LabelRetrievalResult, images: ImageSet, permutations: int = 30, seed: int = 0
) -> Iterator[LabelRetrievalResult]:
    """Yield the results of the same embeddings assigned to the images at random.

    Their mean is chance, and their standard deviation the standard error of one measurement by chance. Neighbourhoods
    stay the same, so images that are near to many count as in the measurement itself.

    Args:
        result: measured on ``images``.
        images: the images; embeddings are permuted among images of the same role.
        permutations: number of permutations.
        seed: seed of the permutations.
    """
    generator = np.random.default_rng(seed)
    place = np.full(len(images), -1)
    place[result.queries] = np.arange(len(result.queries))
    roles = np.full(len(images), "") if images.roles is None else images.roles
    for _ in range(permutations):
        owner = np.arange(len(images))
        for role in np.unique(roles.astype(str)):
            rows = np.flatnonzero(roles == role)
            owner[rows] = generator.permutation(rows)
        queries = owner[result.queries]
        neighbours = np.where(result.neighbours >= 0, owner[result.neighbours], -1)
        yield replace(
            result,
            queries=queries,
            neighbours=neighbours,
            distances=_distances_to(images, queries, neighbours),
            ideal=result.ideal[place[queries]],
        )


def random_and_best(result: LabelRetrievalResult, images: ImageSet, seed: int = 0) -> dict[str, Any]:
    """Return the measures of random and best order: ``{"random_order": summary, "best_order": summary}``."""
    summaries = [dealt.summary() for dealt in random_order(result, images, seed=seed)]
    chance = {
        measure: {k: float(np.mean([summary[measure][k] for summary in summaries])) for k in of_k}
        for measure, of_k in summaries[0].items()
    }
    return {"random_order": chance, "best_order": result.best_order().summary()}


def _distances_to(images: ImageSet, queries: np.ndarray, neighbours: np.ndarray) -> np.ndarray:
    assert images.continuous is not None
    distances = images.continuous.distances_to(queries, np.maximum(neighbours, 0))
    return np.where(neighbours >= 0, distances, np.inf)


def _mean_distance(distances: np.ndarray) -> np.ndarray:
    there = np.isfinite(distances)
    total: np.ndarray = np.where(there, distances, 0).sum(axis=1)
    return total / there.sum(axis=1)


def _gain(distances: np.ndarray) -> np.ndarray:
    """Return the discounted cumulative gain of ranked label distances; infinite ones have no gain."""
    discounts = np.log2(np.arange(2, distances.shape[1] + 2))
    gain: np.ndarray = (1 / (1 + distances) / discounts).sum(axis=1)
    return gain
