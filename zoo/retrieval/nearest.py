"""Exact nearest neighbours among vectors, in bounded memory. Uses arrays only, so data and measures can both use it.

Neighbours at equal distance are ordered by their index in the gallery. Candidates come from matrix products in low
precision, with a bound on how near any other vector can be. Distances that decide an order are computed in float64, so
duplicates are exact ties, and the result does not depend on how the candidates were found.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator
from typing import Protocol

import numpy as np

from zoo.errors import DataError, require_known
from zoo.extras import is_installed
from zoo.progress import progress

MEMORY = 128 << 20
"""Bytes of working memory, beyond the vectors themselves."""
CHUNK_BYTES = 128 << 20
_FAR = 3.0  # times the median norm, as in products
_BRUTE_FORCE_FROM = 4096  # candidates; from here on, computing all distances costs less than sorting candidates
_WORTH_TORCH = 1e10  # from this many multiplications on, importing torch pays off
_WITH_TORCH = is_installed("torch")


class _Finder(Protocol):
    """Proposes candidates; see :meth:`zoo.retrieval.products.Products.find`."""

    def queries_at_once(self, count: int) -> int: ...

    def find(self, queries: np.ndarray, k: int, count: int, exclude: np.ndarray) -> tuple[np.ndarray, np.ndarray]: ...

    def serves_both_ways(self, count: int) -> bool: ...

    def find_in_gallery(
        self, k: int, count: int, exclude: np.ndarray
    ) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]: ...


class _OneWay:
    """A finder that computes the distance of two gallery rows once for each of them."""

    def serves_both_ways(self, count: int) -> bool:
        return False

    def find_in_gallery(
        self, k: int, count: int, exclude: np.ndarray
    ) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        raise NotImplementedError


def nearest(
    queries: np.ndarray, gallery: np.ndarray, k: int, exclude: np.ndarray | None = None, memory: int = MEMORY
) -> np.ndarray:
    """Find the exact k nearest gallery rows by Euclidean distance; ties go to the lower row.

    Candidates come from bfloat16 products if the processor supports them, from a GPU if there is one, and without torch
    from faiss or numpy. Queries whose candidates may lack a neighbour are searched again, in float32, with four times
    as many candidates, until none can be missing.

    Args:
        queries: float32 or float64 ``(Q, D)``.
        gallery: the same ``(G, D)``; may be memory-mapped.
        k: neighbours of each query, 1..G.
        exclude: int ``(Q,)``, the gallery row to exclude for each query, or -1.
        memory: bytes of working memory, beyond the vectors.

    Returns:
        int64 ``(Q, k)``, -1 if a query has fewer than k neighbours.
    """
    exclude = np.full(len(queries), -1) if exclude is None else np.asarray(exclude, dtype=np.int64)
    result = np.full((len(queries), k), -1, dtype=np.int64)
    if not len(queries) or not len(gallery):
        return result
    centre, scale = _frame(queries, gallery, memory)
    count = k + k // 2 + 14
    pending = np.arange(len(queries))
    rounded = True
    while len(pending):
        unsettled = []
        finder = _finder(gallery, centre, scale, memory, rounded, len(pending), count)
        for rows, found, floor in _candidates(finder, queries, gallery, pending, k, count, exclude):
            found, distances = _in_order(queries[rows], gallery, found, scale, memory)
            best = np.where(np.isinf(distances[:, :k]), -1, found[:, :k])
            result[rows, : best.shape[1]] = best
            farthest = distances[:, :k].max(axis=1, initial=0.0) if distances.shape[1] >= k else np.inf
            unsettled.append(rows[~((farthest < floor) | (floor == np.inf))])
        pending = np.concatenate(unsettled)
        count, rounded = 4 * count, False
    return result


def _candidates(
    finder: _Finder,
    queries: np.ndarray,
    gallery: np.ndarray,
    pending: np.ndarray,
    k: int,
    count: int,
    exclude: np.ndarray,
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Yield rows of the pending queries, their candidates, and the smallest squared distance that others can have."""
    among_themselves = queries is gallery and len(pending) == len(gallery) and finder.serves_both_ways(count)
    if among_themselves and ((exclude < 0) | (exclude == pending)).all():
        yield from finder.find_in_gallery(k, count, exclude)
        return
    step = finder.queries_at_once(count)
    for start in progress(range(0, len(pending), step), "searching", shown=len(pending) > step):
        rows = pending[start : start + step]
        yield rows, *finder.find(queries[rows], k, count, exclude[rows])


def _frame(queries: np.ndarray, gallery: np.ndarray, memory: int) -> tuple[np.ndarray, float]:
    """Return the mean of the gallery, and a power of two that scales all centred coordinates into [-2, 2].

    Centring and scaling reduce cancellation, and keep squares from overflowing or vanishing.
    """
    step = max(1, memory // 4 // (16 * max(gallery.shape[1], 1)))
    total = np.zeros(gallery.shape[1])
    for start in range(0, len(gallery), step):
        total += gallery[start : start + step].sum(axis=0, dtype=np.float64)
    centre = (total / len(gallery)).astype(gallery.dtype)
    largest = 0.0
    for vectors in (queries, gallery):
        for start in range(0, len(vectors), step):
            part = vectors[start : start + step] - centre
            largest = max(largest, -float(part.min(initial=0)), float(part.max(initial=0)))
    return centre, math.ldexp(1.0, math.frexp(largest)[1] - 1) if largest else 1.0


def _finder(
    gallery: np.ndarray, centre: np.ndarray, scale: float, memory: int, rounded: bool, queries: int, count: int
) -> _Finder:
    """Return the fastest finder of ``count`` candidates for each query."""
    if count >= min(len(gallery), _BRUTE_FORCE_FROM):
        return _Everything(len(gallery), memory)
    if _WITH_TORCH and ("torch" in sys.modules or queries * float(gallery.size) > _WORTH_TORCH):
        from zoo.retrieval.products import Products

        return Products(gallery, centre, scale, memory, rounded)
    return _WithoutTorch(gallery, centre, scale, memory)


class _Everything(_OneWay):
    """Proposes the whole gallery."""

    def __init__(self, size: int, memory: int) -> None:
        self.size, self.memory = size, memory

    def queries_at_once(self, count: int) -> int:
        return max(1, self.memory // 4 // (32 * self.size))

    def find(self, queries: np.ndarray, k: int, count: int, exclude: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        found = np.tile(np.arange(self.size), (len(queries), 1))
        found[found == exclude[:, None]] = -1
        return found, np.full(len(queries), np.inf)


class _WithoutTorch(_OneWay):
    """Proposes the nearest rows in float32, by faiss if it is installed, else by numpy."""

    def __init__(self, gallery: np.ndarray, centre: np.ndarray, scale: float, memory: int) -> None:
        self.centre, self.scale, self.memory = centre, scale, memory
        self.gallery = self._scaled(gallery)
        self.squares = np.einsum("gd,gd->g", self.gallery, self.gallery)
        norms = np.sqrt(self.squares, dtype=np.float64)
        self.radius = _FAR * float(
            np.median(norms)
        )  # a few distant vectors would make the bound useless for all others
        self.longest = float(norms[norms <= self.radius].max())
        self.error = 2.0**-23 * (gallery.shape[1] + 6)  # of products and squares, as docs/exact-search.md proves

    def queries_at_once(self, count: int) -> int:
        return max(1, self.memory // 2 // (8 * count * max(self.gallery.shape[1], 1)))

    def find(self, queries: np.ndarray, k: int, count: int, exclude: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        scaled = self._scaled(queries)
        own = np.einsum("qd,qd->q", scaled, scaled)
        if is_installed("faiss"):
            import faiss

            distances, found = faiss.knn(scaled, self.gallery, count, metric=faiss.METRIC_L2)
            farthest = distances[:, -1].astype(np.float64)
        else:
            found = np.empty((len(queries), count), dtype=np.int64)
            farthest = np.empty(len(queries))
            step = max(1, self.memory // 2 // (12 * len(self.gallery)))  # bytes of a distance and its order
            for start in range(0, len(queries), step):
                part = slice(start, start + step)
                distances = self.squares - 2 * (scaled[part] @ self.gallery.T)  # without the query's own square
                found[part] = np.argpartition(distances, count - 1, axis=1)[:, :count]
                farthest[part] = np.take_along_axis(distances, found[part], axis=1).max(axis=1) + own[part]
        norms = np.sqrt(own, dtype=np.float64)
        near = farthest - self.error * (norms + self.longest) ** 2
        far = np.maximum((1 - self.error) * self.radius - (1 + self.error) * norms, 0) ** 2
        found = np.where(found == exclude[:, None], -1, found)
        return found, np.minimum(near, far) * self.scale**2

    def _scaled(self, vectors: np.ndarray) -> np.ndarray:
        scaled: np.ndarray = ((vectors - self.centre) / self.scale).astype(np.float32, copy=False)
        return scaled


def _in_order(
    queries: np.ndarray, gallery: np.ndarray, found: np.ndarray, scale: float, memory: int
) -> tuple[np.ndarray, np.ndarray]:
    """Sort candidates by exact distance, ties by lower row; return them and their distances.

    Args:
        queries: float32 or float64 ``(Q, D)``.
        gallery: the same ``(G, D)``.
        found: int64 ``(Q, C)`` rows of the gallery, -1 for none.
        scale: scale of the coordinates; see :func:`_frame`.
        memory: bytes of working memory.

    Returns:
        int64 ``(Q, C)`` rows, and float64 ``(Q, C)`` squared distances: computed in float64 if that decides an order,
        else accurate to float32. Missing candidates come last, at infinite distance.
    """
    there = found >= 0
    distances = np.full(found.shape, np.inf)
    if gallery.dtype == np.float32 and _WITH_TORCH and "torch" in sys.modules:
        from zoo.retrieval.products import pair_distances

        one, place = np.nonzero(there)
        distances[one, place] = pair_distances(queries, gallery, (one, found[one, place]), scale, memory)
        found, distances = _sorted(found, distances)
        # Candidates that float32 cannot separate from the one before or after.
        apart = 4 * (gallery.shape[1] + 4) * 2.0**-24
        with np.errstate(invalid="ignore"):
            near = np.diff(distances, axis=1) <= apart * distances[:, 1:]
        undecided = np.zeros(found.shape, dtype=bool)
        undecided[:, 1:] |= near
        undecided[:, :-1] |= near
        undecided &= np.isfinite(distances)
    else:
        undecided = there
    one, place = np.nonzero(undecided)
    distances[one, place] = _exact_distances(queries, gallery, one, found[one, place], memory)
    return _sorted(found, distances)


def _sorted(found: np.ndarray, distances: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    order = np.lexsort((found, distances), axis=1)
    return np.take_along_axis(found, order, axis=1), np.take_along_axis(distances, order, axis=1)


def _exact_distances(
    queries: np.ndarray, gallery: np.ndarray, one: np.ndarray, other: np.ndarray, memory: int
) -> np.ndarray:
    """Return float64 ``(P,)`` squared distances between rows ``one`` of the queries and ``other`` of the gallery."""
    distances = np.empty(len(one))
    step = max(1, memory // 4 // (16 * max(queries.shape[1], 1)))
    for start in range(0, len(one), step):
        part = slice(start, start + step)
        difference = gallery[other[part]].astype(np.float64)
        difference -= queries[one[part]]
        distances[part] = np.einsum("pd,pd->p", difference, difference)
    return distances


def squared_distances(queries: np.ndarray, gallery: np.ndarray, found: np.ndarray) -> np.ndarray:
    """Return float64 ``(Q, C)`` squared distances between each query and its candidates, in bounded memory."""
    one = np.repeat(np.arange(len(queries)), found.shape[1])
    return _exact_distances(queries, gallery, one, found.ravel(), CHUNK_BYTES).reshape(found.shape)


def comparable(embeddings: np.ndarray, metric: str) -> np.ndarray:
    """Return float32 vectors whose Euclidean distances have the same order as the metric.

    Raises:
        DataError: an embedding is not finite.
        OptionError: the metric is unknown.
    """
    with np.errstate(over="ignore"):
        vectors = np.ascontiguousarray(embeddings, dtype=np.float32)
    finite = np.isfinite(vectors).all(axis=1)
    if not finite.all():
        row = int(np.argmin(finite))
        raise DataError(f"Embedding {row} is not finite; the model is broken or training diverged (lower the rate).")
    require_known("metric", metric, ("cosine", "euclidean"))
    if metric == "euclidean":
        return vectors
    unit = np.empty_like(vectors)
    step = max(1, CHUNK_BYTES // 8 // (16 * max(vectors.shape[1], 1)))
    for start in range(0, len(vectors), step):
        part = vectors[start : start + step].astype(np.float64)
        part /= np.maximum(np.linalg.norm(part, axis=1, keepdims=True), 1e-12)
        unit[start : start + step] = part
    return unit
