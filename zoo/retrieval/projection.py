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
        raise DataError(f"PCA needs at least two vectors, found {len(vectors)}.")
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


def classifier_directions(vectors: np.ndarray, classifier: np.ndarray, dim: int, metric: str = "cosine") -> np.ndarray:
    """Return principal directions of vectors that are scaled by how much the pretraining's classifier looks at each.

    With G the scatter of the classifier's rows, vectors are compared after multiplication by the fourth root of G: half
    way between the features and the logits. Directions that the pretraining told classes apart by are kept, also
    where the training images hardly vary in them.

    Args:
        vectors: float ``(N, F)``, of training images.
        classifier: float ``(C, F)``, see :func:`zoo.models.making.classifier_of`.
        dim: how many directions; see :func:`principal_directions`.
        metric: "cosine" or "euclidean", how the vectors are compared.

    Returns:
        float32 ``(dim, F)``, of mean squared row length 1.

    Raises:
        DataError: vectors that are not finite, or fewer than two.
    """
    rows = np.asarray(comparable(vectors, metric), dtype=np.float64)
    centred = classifier.astype(np.float64) - classifier.mean(axis=0)
    values, basis = np.linalg.eigh(centred.T @ centred / len(centred))
    scaling = (basis * np.maximum(values, 0) ** 0.25) @ basis.T
    directions = principal_directions(rows @ scaling, dim, "euclidean").astype(np.float64) @ scaling
    return _of_unit_length(directions, rows.shape[1])


def _of_unit_length(directions: np.ndarray, features: int) -> np.ndarray:
    """Return directions scaled to a mean squared row length of 1; rows beyond the features, zeros, do not count."""
    length = float(np.sqrt((directions[:features] ** 2).sum(axis=1).mean()))
    return (directions / (length or 1.0)).astype(np.float32)


def discriminant_directions(
    vectors: np.ndarray, labels: np.ndarray, dim: int, shrinkage: float, metric: str = "cosine"
) -> np.ndarray:
    """Return directions in which classes differ, scaled down where images of one class differ among themselves.

    The scatter within classes, shrunk towards a multiple of the identity, is whitened (within-class covariance
    normalisation, Hatch et al., Interspeech 2006; shrinkage as in Ledoit and Wolf, 2004); the principal directions of
    what results are kept. Every class counts alike. With shrinkage 1 nothing is whitened, and what is kept are the
    principal directions.

    Args:
        vectors: float ``(N, F)``, of training images.
        labels: int ``(N,)``, the class of each.
        dim: how many directions; see :func:`principal_directions`.
        shrinkage: 0 for the scatter as it is, 1 for a multiple of the identity; in [0, 1]. With fewer images than
            dimensions it must be above 0.
        metric: "cosine" or "euclidean", how the vectors are compared.

    Returns:
        float32 ``(dim, F)``, of mean squared row length 1.

    Raises:
        DataError: vectors that are not finite, or no class of two images.
    """
    rows = np.asarray(comparable(vectors, metric), dtype=np.float64)
    classes, which, sizes = np.unique(labels, return_inverse=True, return_counts=True)
    if sizes.max(initial=0) < 2:
        raise DataError("No class has two images, so how images of one class differ is unknown.")
    means = np.stack([rows[which == index].mean(axis=0) for index in range(len(classes))])
    within = np.zeros((rows.shape[1], rows.shape[1]))
    for index in np.flatnonzero(sizes > 1):
        residuals = rows[which == index] - means[index]
        within += residuals.T @ residuals / ((sizes[index] - 1) * np.count_nonzero(sizes > 1))
    scale = np.trace(within) / len(within) or 1.0
    values, basis = np.linalg.eigh((1 - shrinkage) * within + shrinkage * scale * np.eye(len(within)))
    whitening = (basis * (np.maximum(values, 1e-9 * scale) / scale) ** -0.5) @ basis.T
    directions = principal_directions(rows @ whitening, dim, "euclidean").astype(np.float64) @ whitening
    return _of_unit_length(directions, rows.shape[1])
