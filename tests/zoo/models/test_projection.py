"""Principal directions, against numpy's own decomposition and hand-made vectors."""

from __future__ import annotations

import numpy as np
import pytest

from zoo.errors import DataError
from zoo.models.projection import principal_directions


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
