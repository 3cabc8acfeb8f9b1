"""Reduce dimensions without training, by the principal directions of a set of embeddings.

Shows what a pretrained network achieves at a given number of dimensions, and initialises the head for training.
"""

from __future__ import annotations

import numpy as np

from zoo.errors import DataError
from zoo.retrieval.nearest import comparable


def principal_directions(vectors: np.ndarray, dim: int, metric: str = "cosine") -> np.ndarray:
    """Return the directions in which vectors vary most, in descending order.

    Vectors compared by cosine are L2-normalised first. The projection ``vectors @ directions.T`` subtracts no mean, so
    a linear layer without bias can compute it for inputs of any length; the mean does not affect distances.

    Args:
        vectors: vectors of training images, float ``(N, F)``.
        dim: number of directions; above F, rows of zeros are appended.
        metric: how the vectors are compared, "cosine" or "euclidean".

    Returns:
        float32 ``(dim, F)``, orthonormal rows with fixed signs.

    Raises:
        DataError: vectors are not finite, or there are fewer than two.
    """
    if len(vectors) < 2:
        raise DataError(f"PCA needs at least two vectors, found {len(vectors)}.")
    rows = np.asarray(comparable(vectors, metric), dtype=np.float64)
    centred = rows - rows.mean(axis=0)
    # In ascending order. With fewer vectors than dimensions, the rest is an orthonormal basis of their complement.
    _, basis = np.linalg.eigh(centred.T @ centred / len(rows))
    directions = basis.T[::-1][:dim]
    largest = directions[np.arange(len(directions)), np.abs(directions).argmax(axis=1)]
    directions = directions * np.where(largest < 0, -1.0, 1.0)[:, None]
    padded = np.zeros((dim, rows.shape[1]), dtype=np.float32)
    padded[: len(directions)] = directions
    return padded


def classifier_directions(vectors: np.ndarray, classifier: np.ndarray, dim: int, metric: str = "cosine") -> np.ndarray:
    """Return principal directions of vectors, weighted by how much the pretraining's classifier uses each direction.

    With G the scatter of the classifier's rows, vectors are multiplied by the fourth root of G, half way between
    features and logits. This keeps directions that separated classes in pretraining, even if the training images hardly
    vary in them.

    Args:
        vectors: vectors of training images, float ``(N, F)``.
        classifier: float ``(C, F)``, see :func:`zoo.models.making.classifier_of`.
        dim: number of directions; see :func:`principal_directions`.
        metric: how the vectors are compared, "cosine" or "euclidean".

    Returns:
        float32 ``(dim, F)``, with a mean squared row length of 1.

    Raises:
        DataError: vectors are not finite, or there are fewer than two.
    """
    rows = np.asarray(comparable(vectors, metric), dtype=np.float64)
    centred = classifier.astype(np.float64) - classifier.mean(axis=0)
    values, basis = np.linalg.eigh(centred.T @ centred / len(centred))
    scaling = (basis * np.maximum(values, 0) ** 0.25) @ basis.T
    directions = principal_directions(rows @ scaling, dim, "euclidean").astype(np.float64) @ scaling
    return _of_unit_length(directions, rows.shape[1])


def _of_unit_length(directions: np.ndarray, features: int) -> np.ndarray:
    """Scale directions to a mean squared row length of 1; zero-padded rows are ignored."""
    length = float(np.sqrt((directions[:features] ** 2).sum(axis=1).mean()))
    return (directions / (length or 1.0)).astype(np.float32)


def discriminant_directions(
    vectors: np.ndarray, labels: np.ndarray, dim: int, shrinkage: float, metric: str = "cosine"
) -> np.ndarray:
    """Return directions in which classes differ, scaled down where images of one class vary.

    Whitens the scatter within classes, shrunk towards a multiple of the identity (within-class covariance
    normalisation, Hatch et al., Interspeech 2006; shrinkage as in Ledoit and Wolf, 2004), and returns the principal
    directions of the result. Every class has the same weight. With shrinkage 1 nothing is whitened, and the result is
    the plain principal directions.

    Args:
        vectors: vectors of training images, float ``(N, F)``.
        labels: class of each vector, int ``(N,)``.
        dim: number of directions; see :func:`principal_directions`.
        shrinkage: in [0, 1]; 0 for the scatter unchanged, 1 for a multiple of the identity. With fewer images than
            dimensions it must be above 0.
        metric: how the vectors are compared, "cosine" or "euclidean".

    Returns:
        float32 ``(dim, F)``, with a mean squared row length of 1.

    Raises:
        DataError: vectors are not finite, or no class has two images.
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
