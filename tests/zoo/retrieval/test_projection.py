"""Principal directions, against numpy's own decomposition and hand-made vectors."""

from __future__ import annotations

import numpy as np
import pytest

from zoo.errors import DataError
from zoo.retrieval.projection import classifier_directions, discriminant_directions, principal_directions


def test_directions_are_those_of_most_variance() -> None:
    generator = np.random.default_rng(0)
    vectors = generator.normal(size=(500, 6)) * np.array([5, 1, 3, 0.1, 2, 0.5]) + 100
    found = principal_directions(vectors, 3, "euclidean")
    _, _, expected = np.linalg.svd(vectors - vectors.mean(axis=0), full_matrices=False)
    assert np.abs(np.abs((found * expected[:3]).sum(axis=1)) - 1).max() < 1e-5
    assert np.abs(found @ found.T - np.eye(3)).max() < 1e-6


def test_cosine_normalises_first() -> None:
    """A long vector counts no more than a short one: of three directions, the two with most vectors are kept."""
    axes = np.eye(3)
    vectors = np.concatenate([np.tile(axes[0], (50, 1)), np.tile(axes[1], (50, 1)), 1000 * axes[2:]])
    kept = principal_directions(vectors, 1, "cosine")[0]
    assert np.allclose(np.abs(kept), [0.5**0.5, 0.5**0.5, 0], atol=0.02)
    assert np.abs(principal_directions(vectors, 1, "euclidean")[0])[2] > 0.99


def test_all_dimensions_keep_all_cosines() -> None:
    vectors = np.random.default_rng(1).normal(size=(40, 8))
    projected = vectors @ principal_directions(vectors, 8).T
    assert np.allclose(projected @ projected.T, vectors @ vectors.T, atol=1e-4)


def test_more_dimensions_than_there_are_hold_zeros() -> None:
    vectors = np.random.default_rng(1).normal(size=(5, 3))
    found = principal_directions(vectors, 6)
    assert found.shape == (6, 3)
    assert not found[3:].any()
    assert np.allclose(found[:3] @ found[:3].T, np.eye(3), atol=1e-6)


def test_fewer_vectors_than_dimensions_still_give_orthonormal_rows() -> None:
    vectors = np.random.default_rng(2).normal(size=(4, 10))
    found = principal_directions(vectors, 7)
    assert np.allclose(found @ found.T, np.eye(7), atol=1e-6)


def test_one_vector_is_refused() -> None:
    with pytest.raises(DataError, match="two vectors"):
        principal_directions(np.ones((1, 3)), 2)


def two_classes(count: int = 400) -> tuple[np.ndarray, np.ndarray]:
    """Return vectors whose classes differ along the second axis, and all images much more along the first."""
    generator = np.random.default_rng(0)
    labels = np.arange(count) % 2
    vectors = generator.normal(size=(count, 3)) * np.array([10, 0.5, 0.5])
    vectors[:, 1] += 4 * labels
    return vectors, labels


def test_discriminant_directions_find_what_tells_classes_apart() -> None:
    vectors, labels = two_classes()
    found = discriminant_directions(vectors, labels, 1, 0.01, "euclidean")[0]
    assert abs(found[1]) > 0.95
    assert np.abs(principal_directions(vectors, 1, "euclidean")[0])[0] > 0.99  # which variance alone does not


def test_full_shrinkage_keeps_the_principal_directions() -> None:
    vectors, labels = two_classes()
    found = discriminant_directions(vectors, labels, 2, 1.0, "euclidean")
    assert np.allclose(found, principal_directions(vectors, 2, "euclidean"), atol=1e-5)


def test_whitening_gives_unit_scatter_within_classes() -> None:
    """Without shrinkage and with all dimensions, images of one class differ alike in every direction."""
    vectors, labels = two_classes()
    projected = vectors @ discriminant_directions(vectors, labels, 3, 0.0, "euclidean").T.astype(float)
    residuals = np.concatenate([projected[labels == c] - projected[labels == c].mean(axis=0) for c in (0, 1)])
    scatter = residuals.T @ residuals
    assert np.allclose(scatter / scatter[0, 0], np.eye(3), atol=1e-4)


def test_classes_of_one_image_are_refused() -> None:
    with pytest.raises(DataError, match="No class has two images"):
        discriminant_directions(np.eye(3), np.arange(3), 2, 0.5)


def test_classifier_directions_keep_what_the_classifier_looks_at() -> None:
    """Of two axes that vary alike, the one that the classifier's rows differ in comes first."""
    vectors = np.random.default_rng(3).normal(size=(300, 3)) * np.array([1.0, 1.0, 0.2])
    classifier = np.array([[0.1, 3.0, 0], [0.1, -3.0, 0], [-0.2, 0, 0]])
    assert np.abs(classifier_directions(vectors, classifier, 1, "euclidean")[0]).argmax() == 1


def test_classifier_that_looks_at_all_alike_gives_principal_directions() -> None:
    vectors = np.random.default_rng(4).normal(size=(300, 4)) * np.array([4, 3, 2, 1])
    classifier = np.concatenate([np.eye(4), -np.eye(4)])
    found = classifier_directions(vectors, classifier, 2, "euclidean")
    assert np.allclose(found, principal_directions(vectors, 2, "euclidean"), atol=1e-5)
