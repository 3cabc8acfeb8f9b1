"""Neighbours where float32 or faiss alone would get them wrong."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

import zoo.retrieval.measures
import zoo.retrieval.nearest
from zoo.retrieval.nearest import nearest


@pytest.fixture(params=["faiss", "numpy"], autouse=True)
def proposed_by(request: pytest.FixtureRequest, without: Any) -> Iterator[None]:
    """Candidates of either kind."""
    with without(*(["faiss"] if request.param == "numpy" else [])):
        yield


def test_float64_is_compared_as_it_is() -> None:
    # Steps of 2**-30 at 1: float32 sees one point.
    gallery = 1 + 2.0**-30 * np.random.default_rng(0).permutation(400)[:, None]
    expected = np.argsort(gallery[:, 0], kind="stable")[:5]
    assert nearest(np.ones((1, 1)), gallery, 5)[0].tolist() == expected.tolist()


def test_ties_go_to_the_lower_index_even_among_thousands(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = np.random.default_rng(0)
    far = generator.normal(size=(500, 8)) + 10
    gallery = np.concatenate([far, np.zeros((3000, 8)), far]).astype(np.float32)
    queries = np.zeros((3, 8), dtype=np.float32)
    expected = np.arange(500, 520)
    for limit in (16, 10**9):
        monkeypatch.setattr(zoo.retrieval.nearest, "_BRUTE_FORCE_FROM", limit)
        found = nearest(queries, gallery, 20, exclude=np.array([-1, 500, 3000]))
        assert found[0].tolist() == expected.tolist()
        assert found[1].tolist() == (expected + 1).tolist()
        assert found[2].tolist() == expected.tolist()


def test_distances_that_float32_cannot_tell_apart() -> None:
    # Points on a sphere around the query: all orders are the same to float32, one is right.
    gallery = np.random.default_rng(0).normal(size=(400, 3))
    gallery = (gallery / np.linalg.norm(gallery, axis=1, keepdims=True)).astype(np.float32)
    order = np.argsort((gallery.astype(np.float64) ** 2).sum(axis=1), kind="stable")
    assert nearest(np.zeros((1, 3), dtype=np.float32), gallery, 3)[0].tolist() == order[:3].tolist()
