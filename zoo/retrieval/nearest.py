"""Exact nearest neighbours among vectors, in bounded memory. Knows arrays alone: data and measures both stand on it.

Neighbours at equal distance are ordered by their index in the gallery. Distances that decide an order are recomputed
in float64, so duplicates are exact ties.
"""

from __future__ import annotations

import numpy as np

from zoo.errors import DataError, require_known
from zoo.extras import is_installed
from zoo.progress import progress

CHUNK_BYTES = 128 << 20
_BRUTE_FORCE_FROM = 4096  # candidates; beyond, one row of all distances costs less than sorting gathered ones


def nearest(queries: np.ndarray, gallery: np.ndarray, k: int, exclude: np.ndarray | None = None) -> np.ndarray:
    """Find the exact k nearest gallery rows by Euclidean distance; ties by lower row.

    Candidates are proposed in float32, by faiss where it is installed and else by numpy; their distances are then
    recomputed in float64, and where the last candidate is too near to rule out a tie across the border, more candidates
    are asked for.

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
    # Candidates are found among centred and scaled vectors: less cancellation, and squares that neither overflow nor
    # vanish. The exact distances are of the vectors as given, since centring would round ties apart.
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
        step = max(1, CHUNK_BYTES // (8 * candidates * max(queries.shape[1], 1)))
        starts = progress(range(0, len(pending), step), "searching", shown=len(pending) > step)
        for start in starts:
            rows = pending[start : start + step]
            if candidates == len(gallery):
                found = np.broadcast_to(np.arange(len(gallery)), (len(rows), len(gallery)))
            else:
                found = _candidates(queries32[rows], gallery32, candidates)
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


def _candidates(queries: np.ndarray, gallery: np.ndarray, count: int) -> np.ndarray:
    """Return the nearest gallery rows as float32 tells, int64 ``(Q, count)`` in any order; count is below G."""
    if is_installed("faiss"):
        import faiss

        found: np.ndarray = faiss.knn(queries, gallery, count, metric=faiss.METRIC_L2)[1]
        return found
    squares = np.einsum("gd,gd->g", gallery, gallery)
    found = np.empty((len(queries), count), dtype=np.int64)
    step = max(1, CHUNK_BYTES // (12 * len(gallery)))  # distances in float32, and their order in int64
    for start in range(0, len(queries), step):
        distances = squares - 2 * (queries[start : start + step] @ gallery.T)  # less the query's own square
        found[start : start + step] = np.argpartition(distances, count - 1, axis=1)[:, :count]
    return found


def squared_distances(queries: np.ndarray, gallery: np.ndarray, found: np.ndarray) -> np.ndarray:
    """Return float64 ``(Q, C)`` distances between each query and its candidates, some candidates at a time."""
    distances = np.empty(found.shape)
    step = max(1, CHUNK_BYTES // (8 * len(queries) * max(queries.shape[1], 1)))
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
