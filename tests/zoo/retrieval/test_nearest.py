"""Nearest neighbours in cases that float32 or faiss alone would get wrong."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import zoo.retrieval.measures
import zoo.retrieval.nearest
import zoo.retrieval.products
from zoo.retrieval.nearest import nearest


@pytest.fixture(params=["bfloat16", "float32", "faiss", "numpy"], autouse=True)
def proposed_by(request: pytest.FixtureRequest, without: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Candidates of every kind."""
    monkeypatch.setattr(zoo.retrieval.products, "has_bfloat16", lambda: request.param == "bfloat16")
    if request.param in ("faiss", "numpy"):
        monkeypatch.setattr(zoo.retrieval.nearest, "_WITH_TORCH", False)
    with without(*(["faiss"] if request.param == "numpy" else [])):
        yield request.param


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


def brute_force(queries: np.ndarray, gallery: np.ndarray, k: int, exclude: np.ndarray) -> np.ndarray:
    distances = ((queries[:, None].astype(np.float64) - gallery[None].astype(np.float64)) ** 2).sum(axis=2)
    distances[np.arange(len(queries)), exclude] = np.inf
    return np.argsort(distances, axis=1, kind="stable")[:, :k]


def clusters(seed: int) -> np.ndarray:
    """Vectors of 40 classes, some of them twice, one far away, all far from the origin."""
    generator = np.random.default_rng(seed)
    vectors = generator.normal(size=(40, 24))[generator.integers(0, 40, 700)] + 0.3 * generator.normal(size=(700, 24))
    vectors[600:650] = vectors[100:150]
    vectors[333] *= 1000
    return (vectors + 5).astype(np.float32)


@pytest.mark.parametrize("memory", [1 << 18, 256 << 20])
@pytest.mark.parametrize("k", [1, 10, 60])
def test_as_by_all_distances_whatever_the_memory(k: int, memory: int) -> None:
    vectors = clusters(0)
    own = np.arange(len(vectors))
    expected = brute_force(vectors, vectors, k, own)
    np.testing.assert_array_equal(nearest(vectors, vectors, k, own, memory), expected)  # among themselves
    np.testing.assert_array_equal(nearest(vectors.copy(), vectors, k, own, memory), expected)
    np.testing.assert_array_equal(
        nearest(vectors[:3], vectors, k, own[:3][::-1].copy(), memory),
        brute_force(vectors[:3], vectors, k, own[:3][::-1]),
    )


def test_memory_mapped_vectors(tmp_path: Path) -> None:
    vectors = clusters(1)
    np.save(tmp_path / "vectors.npy", vectors)
    mapped = np.load(tmp_path / "vectors.npy", mmap_mode="r")
    own = np.arange(len(vectors))
    np.testing.assert_array_equal(nearest(mapped, mapped, 7, own), brute_force(vectors, vectors, 7, own))


@pytest.mark.parametrize("scale", [1e-18, 1.0, 1e18])
@pytest.mark.parametrize("both_ways", [False, True])
def test_the_bound_holds(both_ways: bool, scale: float, proposed_by: str) -> None:
    if both_ways and proposed_by in ("faiss", "numpy"):
        pytest.skip("of products alone")
    vectors = (scale * clusters(2)).astype(np.float32)
    own, k, count = np.arange(len(vectors)), 5, 12
    centre, spread = zoo.retrieval.nearest._frame(vectors, vectors, 1 << 20)
    finder: Any
    if proposed_by in ("faiss", "numpy"):
        finder = zoo.retrieval.nearest._WithoutTorch(vectors, centre, spread, 1 << 18)
    else:
        finder = zoo.retrieval.products.Products(vectors, centre, spread, 1 << 18, rounded=True)
        assert finder.dtype == getattr(torch, proposed_by)
    exact = ((vectors[:, None].astype(np.float64) - vectors[None]) ** 2).sum(axis=2)
    exact[own, own] = np.inf
    within = np.sort(exact, axis=1)[:, k - 1]
    if both_ways:
        parts = list(finder.find_in_gallery(k, count, own))
        assert sum(len(rows) for rows, _, _ in parts) == len(vectors)
    else:
        parts = [(rows, *finder.find(vectors[rows], k, count, rows)) for rows in np.array_split(own, 4)]
    decided = 0
    for rows, found, floor in parts:
        for row, candidates, least in zip(rows, found, floor, strict=True):
            assert row not in candidates
            candidates = candidates[candidates >= 0]
            others = np.setdiff1d(own, candidates)
            # All others are beyond the floor, or beyond the k-th nearest.
            assert (exact[row, others] >= min(least, within[row])).all()
            decided += bool(within[row] < least)
            assert least <= np.sort(exact[row])[count]
    assert decided > 0.5 * len(vectors)


@pytest.mark.parametrize("dim", [16, 512, 2048])
def test_the_bound_without_torch_allows_for_any_order_of_summation(dim: int, proposed_by: str) -> None:
    if proposed_by not in ("faiss", "numpy"):
        pytest.skip("see test_the_bound_holds")
    vectors = np.random.default_rng(0).normal(size=(60, dim)).astype(np.float32)
    centre, spread = zoo.retrieval.nearest._frame(vectors, vectors, 1 << 20)
    finder = zoo.retrieval.nearest._WithoutTorch(vectors, centre, spread, 1 << 20)
    _, floor = finder.find(vectors, 5, 20, np.full(60, -1))
    exact = ((vectors[:, None].astype(np.float64) - vectors[None]) ** 2).sum(axis=2)
    farthest = np.sort(exact, axis=1)[:, 19]
    norms = np.linalg.norm(vectors - centre, axis=1).astype(np.float64)
    # A float32 sum of n terms errs by up to n 2^-24 times the sum of their magnitudes (Higham 2002, section 3.1): here
    # |q|^2, |g|^2 and 2 q.g, of D terms each, and their sum.
    worst = 2.0**-24 * (dim + 2) * (norms + norms.max()) ** 2
    assert (floor <= farthest - worst).all() and (floor >= farthest - 4 * worst).all()
