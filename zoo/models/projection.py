"""Fewer dimensions without training: the principal directions of a set of embeddings.

What a network is worth as it comes, at a given number of dimensions, and where a trained head begins.
"""

from __future__ import annotations

import numpy as np

from zoo.errors import DataError
from zoo.retrieval.nearest import comparable


def principal_directions(vectors: np.ndarray, dim: int, metric: str = "cosine") -> np.ndarray:
    """Return the directions in which vectors vary most, most first.

    Vectors compared by cosine are L2-normalised first. The projection ``vectors @ directions.T`` takes no mean away, so
    that a linear layer without bias can do it whatever the length of its input; distances stay what they were.

    Args:
        vectors: float ``(N, F)``, of training images.
        dim: how many directions. Where it is above F, rows of zeros follow: more dimensions hold nothing more.
        metric: "cosine" or "euclidean", how the vectors are compared.

    Returns:
        float32 ``(dim, F)``, orthonormal rows, of fixed signs.

    Raises:
        DataError: vectors that are not finite, or fewer than two.
    """
    if len(vectors) < 2:
        raise DataError(f"Principal directions need two vectors at least, found {len(vectors)}.")
    rows = np.asarray(comparable(vectors, metric), dtype=np.float64)
    centred = rows - rows.mean(axis=0)
    # Ascending order; with fewer vectors than dimensions the rest is an orthonormal basis of what they leave out.
    _, basis = np.linalg.eigh(centred.T @ centred / len(rows))
    directions = basis.T[::-1][:dim]
    largest = directions[np.arange(len(directions)), np.abs(directions).argmax(axis=1)]
    directions = directions * np.where(largest < 0, -1.0, 1.0)[:, None]
    padded = np.zeros((dim, rows.shape[1]), dtype=np.float32)
    padded[: len(directions)] = directions
    return padded
