"""Exact nearest neighbours and the measures of image retrieval, in bounded memory.

Measures as in Musgrave et al., "A Metric Learning Reality Check" (arXiv:2003.08505):

* Recall@K: 1 for a query one of whose K nearest other images shares its class, else 0.
* R-Precision: with R images of the query's class in the gallery, the share of them among its R nearest.
* MAP@R: (1/R) sum over i = 1..R of precision@i where the i-th nearest shares the class, and 0 where not.

Neighbours at equal distance are ordered by their index in the gallery. Distances that decide an order are recomputed
in float64, so duplicates are exact ties. Queries without an image of their class in the gallery are left out and
counted.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import faiss
import numpy as np
from tqdm import tqdm

from zoo.data.image_set import GALLERY, QUERY, DataSplits, ImageSet
from zoo.errors import DataError, OptionError, require_known

DEFAULT_KS = (1, 2, 4, 8, 10)
_CHUNK_BYTES = 128 << 20
Find = Callable[[np.ndarray, int, np.ndarray], np.ndarray]
"""How neighbours are found, exactly or by an index. Takes int64 ``(Q,)`` rows of queries in the image set, how many
neighbours k, and for each query its own position in the gallery, or -1; gives int64 ``(Q, k)`` positions in the
gallery, nearest first, never its own, and -1 where there are fewer. The gallery holds the images of
:func:`queries_and_gallery`, in that order."""
_BRUTE_FORCE_FROM = 4096  # candidates; beyond, one row of all distances costs less than sorting gathered ones


@dataclass(frozen=True, eq=False)
class RetrievalResult:
    """Measures per query, so that means, bootstrap intervals and pictures come from one result.

    Attributes:
        queries: int64 ``(Q,)``, the index of each query in the image set.
        neighbours: int64 ``(Q, max K)``, indices in the image set of the nearest gallery images, nearest first; -1
            where the gallery has fewer.
        recall: for each K, bool ``(Q,)``.
        r_precision: float64 ``(Q,)`` in [0, 1].
        average_precision: float64 ``(Q,)`` in [0, 1]; its mean is MAP@R.
        chance: Recall@1 of a random order, in [0, 1].
        gallery_size: images that a query is compared with.
        left_out: queries without an image of their class in the gallery.
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
    embeddings: np.ndarray, images: ImageSet, metric: str = "cosine", ks: Sequence[int] = DEFAULT_KS
) -> RetrievalResult:
    """Measure retrieval among the images of a set.

    Where the set has roles, queries are compared with the gallery; else every image with all others. An image is never
    its own neighbour.

    Args:
        embeddings: float ``(N, D)``, one row per image.
        images: their labels and roles.
        metric: "cosine" or "euclidean".
        ks: the K of Recall@K, each at least 1.

    Raises:
        DataError: no labels, no query with an image of its class in the gallery, or embeddings that are not finite.
        OptionError: unknown metric or K below 1.
    """
    return measure_found(exact(embeddings, images, metric), images, ks)


def exact(embeddings: np.ndarray, images: ImageSet, metric: str, gallery: np.ndarray | None = None) -> Find:
    """Return exact search among the images of a set.

    Args:
        embeddings: float ``(N, D)``, one row per image.
        images: their roles.
        metric: "cosine" or "euclidean".
        gallery: float ``(N, D)``, what another model makes of the same images, if that is to be searched; None for
            the same embeddings.

    Raises:
        DataError: embeddings that are not finite, or not one for each image.
        OptionError: unknown metric.
    """
    for rows in (embeddings, embeddings if gallery is None else gallery):
        if len(rows) != len(images):
            raise DataError(f"{len(rows)} embeddings for {len(images)} images; there must be one each.")
    vectors = comparable(embeddings, metric)
    searched = vectors if gallery is None else comparable(gallery, metric)
    if images.roles is not None:
        searched = searched[queries_and_gallery(images)[1]]
    return lambda rows, k, own: nearest(vectors[rows], searched, k, exclude=own)


def measure_found(find: Find, images: ImageSet, ks: Sequence[int] = DEFAULT_KS) -> RetrievalResult:
    """Measure what a search finds, as :func:`measure` does for the exact one.

    Args:
        find: the search.
        images: the labels and roles of the images.
        ks: the K of Recall@K, each at least 1.

    Raises:
        DataError: no labels, or no query with an image of its class in the gallery.
        OptionError: K below 1.
    """
    if images.labels is None:
        raise DataError("Retrieval cannot be measured on images without labels. Give a labelled set.")
    if not ks or min(ks) < 1:
        raise OptionError(f"Recall@K needs K of at least 1, found {list(ks)}.")
    query_rows, gallery_rows, own = queries_and_gallery(images)
    gallery_labels = images.labels[gallery_rows]

    positives = _positives(images)
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
    step = max(1, _CHUNK_BYTES // (16 * depth))
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


def queries_and_gallery(images: ImageSet) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the rows of the queries, the rows of the gallery, and where each query lies in the gallery, or -1."""
    rows = np.arange(len(images))
    query_rows = rows if images.roles is None else np.flatnonzero(images.roles != GALLERY)
    gallery_rows = rows if images.roles is None else np.flatnonzero(images.roles != QUERY)
    position = np.full(len(images), -1)
    position[gallery_rows] = np.arange(len(gallery_rows))
    return query_rows, gallery_rows, position[query_rows]


def _positives(images: ImageSet) -> np.ndarray:
    """Return how many other images of its class each query has in the gallery, int64 ``(Q,)``."""
    assert images.labels is not None
    query_rows, gallery_rows, own = queries_and_gallery(images)
    class_sizes = np.bincount(images.labels[gallery_rows], minlength=len(images.class_names))
    return np.asarray(class_sizes[images.labels[query_rows]] - (own >= 0))


def chance_of(images: ImageSet) -> tuple[float, int]:
    """Return Recall@1 of a random order of labelled images, in [0, 1], and how many queries can be answered."""
    _, gallery_rows, own = queries_and_gallery(images)
    positives, others = _positives(images), len(gallery_rows) - (own >= 0)
    answerable = positives > 0
    count = int(answerable.sum())
    return (float((positives[answerable] / others[answerable]).mean()) if count else 0.0), count


def require_measurable(images: ImageSet, what: str) -> None:
    """Refuse labelled images that retrieval among says nothing about, before work is done on them.

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
            f"The {what} images to search in are of fewer than two classes ({which}), so a measure of retrieval would "
            "say nothing. Give images of more classes, or divide them otherwise (split, validation)."
        )
    if not (_positives(images) > 0).any():
        raise DataError(
            f"No {what} query has another image of its class in the gallery, so retrieval cannot be measured. Give "
            "classes of two images or more, or divide them otherwise (split, validation)."
        )


def at_least(value: float, limit: float) -> bool:
    """Return whether a mean over queries reaches a limit; in its last digits it is what rounding made of it."""
    return value >= limit - 1e-9


def measurable(images: ImageSet) -> bool:
    """Return whether images have labels of either kind by which retrieval among them can be measured."""
    if images.labels is None:
        return images.continuous is not None
    try:
        require_measurable(images, "labelled")
    except DataError:
        return False
    return True


def require_training_images(splits: DataSplits, rule: str) -> None:
    """Refuse data that nothing can be trained on, or chosen by.

    Args:
        splits: the data.
        rule: that divided it, for the message.

    Raises:
        DataError: there are fewer than two training images, or retrieval among the validation images says nothing.
    """
    if len(splits.train) < 2:
        found = f"{len(splits.train) or 'no'} training image{'' if len(splits.train) == 1 else 's'}"
        raise DataError(f"{splits.name} has {found} after split {rule!r}; it takes 2 at least. Choose another split.")
    if len(splits.validation):
        require_measurable(splits.validation, "validation")


def require_test_images(splits: DataSplits, rule: str) -> None:
    """Refuse data on whose test part nothing can be measured.

    Args:
        splits: the data.
        rule: that divided it, for the message.

    Raises:
        DataError: it has no images, fewer than two classes, or no query with an image of its class in the gallery.
    """
    if not len(splits.test):
        raise DataError(f"{splits.name} has no test images after split {rule!r}. Choose another split, or label them.")
    require_measurable(splits.test, "test")


def retention_interval(
    model: np.ndarray, teacher: np.ndarray, resamples: int, seed: int = 0, confidence: float = 0.95
) -> tuple[float, float]:
    """Return the percentile interval of mean(model) / mean(teacher), queries resampled in pairs.

    Resamples in which the teacher's mean is 0 have no ratio and are left out; where all are, both ends are 0.

    Args:
        model: ``(Q,)``, of each query hit or miss (bool), or a score of 0 or more (float).
        teacher: ``(Q,)``, of the same queries.
        resamples: number of bootstrap samples.
        seed: of the resampling.
        confidence: coverage of the interval, in (0, 1).
    """
    draw = _resampled_hits if model.dtype == bool else _resampled_scores
    kept, reference = draw(model, teacher, resamples, np.random.default_rng(seed))
    ratios = kept[reference > 0] / reference[reference > 0]  # no ratio to a teacher who finds nothing
    if not len(ratios):
        return 0.0, 0.0
    low, high = np.quantile(ratios, [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low), float(high)


def drop_interval(
    model: np.ndarray, reference: np.ndarray, resamples: int, seed: int = 0, confidence: float = 0.95
) -> tuple[float, float]:
    """Return the percentile interval of mean(reference) - mean(model), queries resampled in pairs.

    Args:
        model: ``(Q,)``, of each query hit or miss (bool), or a score (float).
        reference: ``(Q,)``, of the same queries.
        resamples: number of bootstrap samples.
        seed: of the resampling.
        confidence: coverage of the interval, in (0, 1).
    """
    draw = _resampled_hits if model.dtype == bool else _resampled_scores
    kept, expected = draw(model, reference, resamples, np.random.default_rng(seed))
    low, high = np.quantile((expected - kept) / len(model), [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low), float(high)


def _resampled_hits(
    model: np.ndarray, teacher: np.ndarray, resamples: int, generator: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Return how many hits both have in each sample of the queries, ``(resamples,)``."""
    # A query has one of four outcomes, so drawing queries with replacement is a multinomial over four counts.
    both, only_model = (model & teacher).sum(), (model & ~teacher).sum()
    only_teacher = (~model & teacher).sum()
    counts = np.array([both, only_model, only_teacher, len(model) - both - only_model - only_teacher])
    drawn = generator.multinomial(len(model), counts / len(model), size=resamples)
    return drawn[:, 0] + drawn[:, 1], drawn[:, 0] + drawn[:, 2]


def _resampled_scores(
    model: np.ndarray, teacher: np.ndarray, resamples: int, generator: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Return the sums of both scores over each sample of the queries, ``(resamples,)``."""
    sums = np.empty((2, resamples))
    for sample in range(resamples):  # one at a time: all the samples' queries together may be many
        times = np.bincount(generator.integers(len(model), size=len(model)), minlength=len(model))
        sums[:, sample] = times @ model, times @ teacher
    return sums[0], sums[1]


def neighbour_overlap(model: np.ndarray, teacher: np.ndarray) -> float:
    """Return the mean share of the teacher's nearest neighbours that the model finds too, order aside; in [0, 1].

    Args:
        model: int ``(Q, K)``, neighbours of each query, -1 for none.
        teacher: int ``(Q, K)``, of the same queries.
    """
    shares = np.zeros(len(model))
    step = max(1, _CHUNK_BYTES // (2 * max(model.shape[1] * teacher.shape[1], 1)))
    for start in range(0, len(model), step):
        found, wanted = model[start : start + step], teacher[start : start + step]
        shared = (found[:, :, None] == wanted[:, None, :]) & (found[:, :, None] >= 0)
        shares[start : start + step] = shared.any(axis=2).sum(axis=1) / np.maximum((wanted >= 0).sum(axis=1), 1)
    return float(shares.mean())


def nearest(queries: np.ndarray, gallery: np.ndarray, k: int, exclude: np.ndarray | None = None) -> np.ndarray:
    """Find the exact k nearest gallery rows by Euclidean distance; ties by lower row.

    faiss proposes candidates in float32; their distances are then recomputed in float64, and where the last candidate
    is too near to rule out a tie across the border, more candidates are asked for.

    Args:
        queries: float32 or float64 ``(Q, D)``.
        gallery: the same ``(G, D)``.
        k: neighbours of each query, 1..G.
        exclude: int ``(Q,)``, a gallery row that is not to be found for each query, or -1.

    Returns:
        int64 ``(Q, k)``, -1 where a query has fewer than k neighbours.
    """
    if exclude is None:
        exclude = np.full(len(queries), -1)
    # faiss gets centred and scaled vectors: less cancellation, and squares that neither overflow nor vanish. The exact
    # distances are of the vectors as given, since centring would round ties apart.
    centre = gallery.mean(axis=0, dtype=np.float64).astype(gallery.dtype)
    queries32, gallery32 = queries - centre, gallery - centre
    scale = float(max(-queries32.min(), queries32.max(), -gallery32.min(), gallery32.max())) or 1.0
    queries32 /= queries32.dtype.type(scale)
    gallery32 /= gallery32.dtype.type(scale)
    queries32, gallery32 = queries32.astype(np.float32, copy=False), gallery32.astype(np.float32, copy=False)
    squares = np.einsum("gd,gd->g", gallery32, gallery32).max()
    result = np.full((len(queries), k), -1, dtype=np.int64)
    pending = np.arange(len(queries))
    candidates = min(k + 9, len(gallery))
    while len(pending):
        if candidates > _BRUTE_FORCE_FROM and candidates < len(gallery):
            candidates = len(gallery)
        unsettled = []
        step = max(1, _CHUNK_BYTES // (8 * candidates * max(queries.shape[1], 1)))
        starts = tqdm(range(0, len(pending), step), desc="searching", leave=False, disable=len(pending) <= step)
        for start in starts:
            rows = pending[start : start + step]
            if candidates == len(gallery):
                found = np.broadcast_to(np.arange(len(gallery)), (len(rows), len(gallery)))
            else:
                _, found = faiss.knn(queries32[rows], gallery32, candidates, metric=faiss.METRIC_L2)
            distances = squared_distances(queries[rows], gallery, found)
            distances[found == exclude[rows][:, None]] = np.inf
            order = np.lexsort((found, distances), axis=1)
            found = np.take_along_axis(found, order, axis=1)
            distances = np.take_along_axis(distances, order, axis=1)
            best = np.where(np.isinf(distances[:, :k]), -1, found[:, :k])
            result[rows, : best.shape[1]] = best
            if candidates < len(gallery):
                finite_last = np.where(np.isinf(distances[:, -1]), distances[:, -2], distances[:, -1])
                noise = 1e-5 * scale**2 * ((queries32[rows].astype(np.float64) ** 2).sum(axis=1) + squares)
                unsettled.append(rows[finite_last - distances[:, k - 1] <= noise])
        pending = np.concatenate(unsettled) if unsettled else pending[:0]
        candidates = min(4 * candidates, len(gallery))
    return result


def squared_distances(queries: np.ndarray, gallery: np.ndarray, found: np.ndarray) -> np.ndarray:
    """Return float64 ``(Q, C)`` distances between each query and its candidates, some candidates at a time."""
    distances = np.empty(found.shape)
    step = max(1, _CHUNK_BYTES // (8 * len(queries) * max(queries.shape[1], 1)))
    for start in range(0, found.shape[1], step):
        part = slice(start, start + step)
        difference = gallery[found[:, part]].astype(np.float64)
        difference -= queries[:, None, :]
        distances[:, part] = np.einsum("qcd,qcd->qc", difference, difference)
    return distances


def comparable(embeddings: np.ndarray, metric: str) -> np.ndarray:
    """Return float32 vectors whose Euclidean distance orders as the metric does."""
    with np.errstate(over="ignore"):
        vectors = np.ascontiguousarray(embeddings, dtype=np.float32)
    finite = np.isfinite(vectors).all(axis=1)
    if not finite.all():
        row = int(np.argmin(finite))
        raise DataError(f"Embedding {row} is not finite; the model is broken or training diverged (lower the rate).")
    require_known("metric", metric, ("cosine", "euclidean"))
    if metric == "euclidean":
        return vectors
    norms = np.linalg.norm(vectors.astype(np.float64), axis=1, keepdims=True)
    return (vectors / np.maximum(norms, 1e-12)).astype(np.float32)
