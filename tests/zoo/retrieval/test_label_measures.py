"""Measures by continuous labels against loops over the definitions, worked examples and properties."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import zoo.retrieval.nearest
from zoo.data import continuous
from zoo.data.continuous import ContinuousLabels, FunctionLabels, MatrixLabels, VectorLabels
from zoo.data.image_set import BOTH, GALLERY, QUERY, ImageSet
from zoo.errors import DataError, OptionError
from zoo.retrieval.label_measures import LabelRetrievalResult, measure_by_labels, random_and_best, random_order


def image_set(labels: ContinuousLabels | None, count: int, roles: np.ndarray | None = None) -> ImageSet:
    pixels = np.zeros((1, 1, 3), dtype=np.uint8)
    return ImageSet([str(i) for i in range(count)], [pixels] * count, roles=roles, continuous=labels)


def check(result: LabelRetrievalResult, embeddings: np.ndarray, distances: np.ndarray, images: ImageSet) -> None:
    """Compare with loops over the definitions; all distances are given."""
    roles = [BOTH] * len(images) if images.roles is None else list(images.roles)
    gallery = [i for i, role in enumerate(roles) if role in (GALLERY, BOTH)]
    queries = [i for i, role in enumerate(roles) if role in (QUERY, BOTH) and set(gallery) - {i}]
    assert result.queries.tolist() == queries
    assert result.gallery_size == len(gallery)
    assert result.left_out == sum(role in (QUERY, BOTH) for role in roles) - len(queries)
    for at, query in enumerate(queries):
        others = [i for i in gallery if i != query]
        found = sorted(others, key=lambda i: (((embeddings[i] - embeddings[query]) ** 2).sum(), i))
        best = sorted(distances[query, i] for i in others)
        depth = result.neighbours.shape[1]
        assert result.neighbours[at].tolist() == (found + [-1] * depth)[:depth]
        for k in result.ks:
            met = [distances[query, i] for i in found[:k]]
            gains = [
                sum(1 / (1 + distance) / math.log2(rank + 1) for rank, distance in enumerate(order, start=1))
                for order in (met, best[:k])
            ]
            assert result.label_distance(k)[at] == pytest.approx(sum(met) / len(met))
            assert result.ndcg(k)[at] == pytest.approx(gains[0] / gains[1])


def absolute(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return abs(np.subtract.outer(a, b))


KINDS: dict[str, Callable[[np.ndarray], ContinuousLabels]] = {
    "vectors": VectorLabels,
    "matrix": lambda numbers: MatrixLabels(absolute(numbers, numbers)),
    "function": lambda numbers: FunctionLabels(numbers, absolute),
}


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=25, deadline=None)
@given(
    count=st.integers(2, 40),
    ties=st.sampled_from(["none", "labels", "embeddings", "both"]),
    roles=st.booleans(),
    ks=st.sampled_from([(1, 2, 10), (3,), (50, 1)]),
    seed=st.integers(0, 9999),
)
def test_measures_against_loops(kind: str, count: int, ties: str, roles: bool, ks: tuple[int, ...], seed: int) -> None:
    generator = np.random.default_rng(seed)
    embeddings = generator.integers(0, 8, (count, 2)).astype(np.float32)
    numbers = generator.normal(size=count)
    if ties in ("labels", "both"):
        numbers = numbers.round()
    if ties in ("embeddings", "both"):
        embeddings = embeddings // 4
    given_roles = generator.choice(np.array([QUERY, GALLERY, BOTH], dtype=object), count) if roles else None
    images = image_set(KINDS[kind](numbers), count, given_roles)
    try:
        result = measure_by_labels(embeddings, images, "euclidean", ks)
    except DataError as error:
        assert "No query has another image in the gallery" in str(error) and roles
        return
    check(result, embeddings, absolute(numbers, numbers), images)
    assert (result.ndcg(max(ks)) <= 1 + 1e-12).all() and (result.ndcg(max(ks)) > 0).all()


def test_by_hand() -> None:
    # Query 0 finds 1, 2, 3 at label distances 3, 0, 1; the best order has 0, 1, 3.
    embeddings = np.array([[0.0], [1], [2], [3]], dtype=np.float32)
    roles = np.array([QUERY, GALLERY, GALLERY, GALLERY], dtype=object)
    images = image_set(VectorLabels(np.array([5.0, 8, 5, 4])), 4, roles)
    result = measure_by_labels(embeddings, images, "euclidean", (1, 2, 3))
    assert result.neighbours.tolist() == [[1, 2, 3]]
    assert result.distances.tolist() == [[3, 0, 1]] and result.ideal.tolist() == [[0, 1, 3]]
    second, third = 1 / math.log2(3), 1 / 2
    expected = [
        0.25,
        (0.25 + second) / (1 + 0.5 * second),
        (0.25 + second + 0.5 * third) / (1 + 0.5 * second + 0.25 * third),
    ]
    assert result.summary() == {
        "ndcg": {"1": pytest.approx(expected[0]), "2": pytest.approx(expected[1]), "3": pytest.approx(expected[2])},
        "mean_label_distance": {"1": 3, "2": 1.5, "3": pytest.approx(4 / 3)},
    }
    assert result.best_order().summary() == {
        "ndcg": {"1": 1, "2": 1, "3": 1},
        "mean_label_distance": {"1": 0, "2": 0.5, "3": pytest.approx(4 / 3)},
    }


def test_fewer_than_k_and_duplicates() -> None:
    images = image_set(VectorLabels(np.array([0.0, 0, 2])), 3)
    result = measure_by_labels(np.zeros((3, 2), dtype=np.float32), images, "euclidean")
    assert result.neighbours.tolist() == [[1, 2] + [-1] * 8, [0, 2] + [-1] * 8, [0, 1] + [-1] * 8]
    assert result.label_distance(10).tolist() == [1, 1, 2]
    assert result.ndcg(10).tolist() == [1, 1, 1]  # among two others every query happens to have the best order
    assert result.ks == tuple(range(1, 11))


def test_the_metric_is_that_of_the_embeddings() -> None:
    # 0 and 2 point the same way, 1 lies nearer to 0.
    embeddings = np.array([[1, 0], [1, 0.5], [9, 0], [0, 1]], dtype=np.float32)
    images = image_set(VectorLabels(np.arange(4.0)), 4)
    assert measure_by_labels(embeddings, images, "cosine").neighbours[0, 0] == 2
    assert measure_by_labels(embeddings, images, "euclidean").neighbours[0, 0] == 1


def test_embeddings_that_are_the_labels_are_the_best_order() -> None:
    vectors = np.random.default_rng(0).normal(size=(300, 3)).astype(np.float32)
    result = measure_by_labels(vectors, image_set(VectorLabels(vectors), 300), "euclidean")
    np.testing.assert_array_equal(result.distances, result.ideal)
    assert result.ndcg_at(10) == 1


def test_small_chunks_give_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = np.random.default_rng(0)
    embeddings, numbers = generator.normal(size=(90, 3)).astype(np.float32), generator.normal(size=90).round(1)
    for kind in KINDS.values():
        whole = measure_by_labels(embeddings, image_set(kind(numbers), 90))
        with monkeypatch.context() as patch:
            patch.setattr(zoo.retrieval.nearest, "CHUNK_BYTES", 2000)
            patch.setattr(continuous, "_CHUNK_NUMBERS", 100)
            chunked = measure_by_labels(embeddings, image_set(kind(numbers), 90))
        for name in ("neighbours", "distances", "ideal"):
            np.testing.assert_array_equal(getattr(chunked, name), getattr(whole, name))


def test_chance_is_that_of_random_orders() -> None:
    generator = np.random.default_rng(0)
    numbers = generator.normal(size=80)
    images = image_set(VectorLabels(numbers), 80)
    result = measure_by_labels(numbers[:, None].astype(np.float32), images, "euclidean")
    dealt = list(random_order(result, images, permutations=200))
    # By loops over random orders of the other images.
    orders = [generator.permutation(np.delete(np.arange(80), query))[:10] for query in range(80) for _ in range(50)]
    distances = np.array([abs(numbers[order] - numbers[at // 50]) for at, order in enumerate(orders)])
    discount = np.log2(np.arange(2, 12))
    gains = (1 / (1 + distances) / discount).sum(axis=1).reshape(80, 50).mean(axis=1)
    ideal = (1 / (1 + result.ideal) / discount).sum(axis=1)
    assert np.mean([one.ndcg_at(10) for one in dealt]) == pytest.approx((gains / ideal).mean(), abs=0.003)
    assert np.mean([one.label_distance_at(5) for one in dealt]) == pytest.approx(distances.mean(), rel=0.02)
    summary = random_and_best(result, images)
    assert summary["random_order"]["ndcg"]["10"] == pytest.approx((gains / ideal).mean(), abs=0.01)
    assert summary["best_order"]["mean_label_distance"]["3"] == pytest.approx(result.ideal[:, :3].mean())


def test_the_spread_of_random_orders_is_the_error_of_a_measurement_by_chance() -> None:
    numbers = np.random.default_rng(0).normal(size=60)
    images = image_set(VectorLabels(numbers), 60)
    by_chance = []
    for seed in range(200):
        # In one dimension neighbours are shared, so queries do not vary on their own.
        embeddings = np.random.default_rng([1, seed]).normal(size=(60, 1)).astype(np.float32)
        by_chance.append(measure_by_labels(embeddings, images, "euclidean").ndcg_at(10))
    result = measure_by_labels(embeddings, images, "euclidean")
    dealt = [one.ndcg_at(10) for one in random_order(result, images, permutations=200)]
    assert np.mean(dealt) == pytest.approx(np.mean(by_chance), abs=0.004)
    assert np.std(dealt) == pytest.approx(np.std(by_chance), rel=0.2)


def test_random_orders_respect_roles() -> None:
    roles = np.array([QUERY] * 6 + [GALLERY] * 7 + [BOTH] * 8, dtype=object)
    generator = np.random.default_rng(0)
    images = image_set(VectorLabels(generator.normal(size=21)), 21, roles)
    result = measure_by_labels(generator.normal(size=(21, 2)).astype(np.float32), images)
    for dealt in random_order(result, images, permutations=5):
        assert sorted(dealt.queries.tolist()) == result.queries.tolist()
        assert (roles[dealt.neighbours] != QUERY).all()
        assert (dealt.neighbours != dealt.queries[:, None]).all()
        np.testing.assert_allclose(dealt.ideal[np.argsort(dealt.queries)], result.ideal)
        assert (dealt.ndcg(10) <= 1 + 1e-12).all()


def test_errors() -> None:
    embeddings, images = np.eye(4, dtype=np.float32), image_set(VectorLabels(np.arange(4.0)), 4)
    with pytest.raises(DataError, match="without continuous labels"):
        measure_by_labels(embeddings, image_set(None, 4))
    with pytest.raises(DataError, match="3 embeddings for 4 images"):
        measure_by_labels(embeddings[:3], images)
    with pytest.raises(DataError, match="No query has another image in the gallery"):
        measure_by_labels(embeddings[:1], images.subset([0]))
    with pytest.raises(DataError, match="Embedding 1 is not finite"):
        measure_by_labels(np.where(np.eye(4) * np.arange(4) == 1, np.nan, embeddings), images)
    with pytest.raises(OptionError, match="'manhattan'; known are cosine and euclidean"):
        measure_by_labels(embeddings, images, "manhattan")
    for ks in ([0, 1], []):
        with pytest.raises(OptionError, match="at least 1"):
            measure_by_labels(embeddings, images, ks=ks)
