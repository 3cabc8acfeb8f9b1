"""Nearest neighbours and measures against exact loops over fractions and an independent library."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pytorch_metric_learning.utils.accuracy_calculator import AccuracyCalculator

import zoo.retrieval.measures
import zoo.retrieval.nearest
from zoo.data.image_set import BOTH, GALLERY, QUERY, ImageSet
from zoo.errors import DataError, OptionError
from zoo.retrieval.measures import RetrievalResult, measure, measure_found
from zoo.retrieval.nearest import nearest
from zoo.retrieval.protocol import exact

KS = (1, 2, 5, 100)


def image_set(labels: np.ndarray, roles: np.ndarray | None = None) -> ImageSet:
    pixels = np.zeros((1, 1, 3), dtype=np.uint8)
    names = [f"class {i}" for i in range(int(labels.max()) + 1)]
    return ImageSet([str(i) for i in range(len(labels))], [pixels] * len(labels), labels.astype(np.int64), names, roles)


def ranking(embeddings: np.ndarray, query: int, gallery: list[int]) -> list[int]:
    """The gallery without the query, by exact squared distance, then by index."""
    exact = [[Fraction(float(value)) for value in row] for row in embeddings]

    def squared_distance(other: int) -> Fraction:
        return sum(((a - b) ** 2 for a, b in zip(exact[query], exact[other], strict=True)), Fraction(0))

    return sorted((i for i in gallery if i != query), key=lambda i: (squared_distance(i), i))


def check(result: RetrievalResult, embeddings: np.ndarray, images: ImageSet) -> None:
    """Compare with loops written from the definitions; embeddings are those that Euclidean distance compares."""
    labels = images.labels
    assert labels is not None
    roles = [BOTH] * len(images) if images.roles is None else list(images.roles)
    gallery = [i for i, role in enumerate(roles) if role in (GALLERY, BOTH)]
    queries: list[int] = []
    chances: list[float] = []
    left_out = 0
    for query in (i for i, role in enumerate(roles) if role in (QUERY, BOTH)):
        ranked = ranking(embeddings, query, gallery)
        matches = [labels[i] == labels[query] for i in ranked]
        positives = sum(matches)
        if not positives:
            left_out += 1
            continue
        at = len(queries)
        queries.append(query)
        chances.append(positives / len(ranked))
        for k in result.recall:
            assert result.recall[k][at] == any(matches[:k])
        precisions = [sum(matches[:i]) / i for i in range(1, positives + 1)]
        assert result.r_precision[at] == pytest.approx(precisions[-1])
        hits = [precision for precision, match in zip(precisions, matches, strict=False) if match]
        assert result.average_precision[at] == pytest.approx(sum(hits) / positives)
        depth = result.neighbours.shape[1]
        assert result.neighbours[at].tolist() == (ranked + [-1] * depth)[:depth]
    assert result.queries.tolist() == queries
    assert (result.left_out, result.gallery_size) == (left_out, len(gallery))
    assert result.chance == pytest.approx(np.mean(chances))


def points(kind: str, count: int, dim: int, generator: np.random.Generator) -> np.ndarray:
    """Embeddings whose order is hard to get right."""
    rows: np.ndarray
    if kind == "grid":  # many ties between different points
        rows = generator.integers(-2, 3, (count, dim))
    elif kind == "duplicates":
        rows = generator.normal(size=(3, dim))[generator.integers(0, 3, count)]
    elif kind == "identical":
        rows = np.tile(generator.normal(size=(1, dim)), (count, 1))
    elif kind == "near":  # steps of 1e-6, far from the origin, so that float32 products cannot tell them apart
        rows = 8 + 2.0**-20 * generator.integers(0, 4, (count, dim))
    elif kind == "two clusters":  # far from each other, so that centring does not help
        rows = 8 * generator.choice([-1, 1], (count, 1)) + 2.0**-20 * generator.integers(0, 40, (count, dim))
    elif kind == "outlier":
        rows = generator.normal(size=(count, dim))
        rows[generator.integers(count)] *= 1e6
    elif kind == "tiny":
        rows = 1e-25 * generator.normal(size=(count, dim))
    elif kind == "huge":
        rows = 1e25 * generator.normal(size=(count, dim))
    else:
        rows = generator.normal(size=(count, dim))
    return rows.astype(np.float32)


KINDS = ["grid", "duplicates", "identical", "near", "two clusters", "outlier", "tiny", "huge", "random"]


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=15, deadline=None)
@given(
    count=st.integers(2, 70),
    classes=st.integers(1, 30),
    dim=st.integers(1, 4),
    roles=st.booleans(),
    ks=st.sampled_from([(1, 2), KS]),  # the nearest few, for which candidates are proposed, or all
    seed=st.integers(0, 9999),
)
def test_measure_against_loops(
    kind: str, count: int, classes: int, dim: int, roles: bool, ks: tuple[int, ...], seed: int
) -> None:
    generator = np.random.default_rng(seed)
    embeddings = points(kind, count, dim, generator)
    labels = generator.integers(0, classes, count)
    given_roles = generator.choice(np.array([QUERY, GALLERY, BOTH], dtype=object), count) if roles else None
    images = image_set(labels, given_roles)
    try:
        result = measure(embeddings, images, "euclidean", ks)
    except DataError as error:
        assert "No query has another image of its class in the gallery" in str(error)
        for i in range(count):
            others = [
                j
                for j in range(count)
                if j != i and labels[j] == labels[i] and (given_roles is None or given_roles[j] != QUERY)
            ]
            assert not others or (given_roles is not None and given_roles[i] == GALLERY)
        return
    check(result, embeddings, images)


@settings(max_examples=20, deadline=None)
@given(count=st.integers(4, 40), seed=st.integers(0, 9999))
def test_cosine_is_euclidean_on_the_sphere(count: int, seed: int) -> None:
    generator = np.random.default_rng(seed)
    embeddings = (generator.normal(size=(count, 5)) * generator.uniform(0.01, 100, (count, 1))).astype(np.float32)
    images = image_set(np.arange(count) % 3)
    unit = embeddings.astype(np.float64)
    unit = (unit / np.linalg.norm(unit, axis=1, keepdims=True)).astype(np.float32)
    check(measure(embeddings, images, "cosine", KS), unit, images)


def test_cosine_ignores_length() -> None:
    # 0 and 2 point the same way, 1 lies nearer to 0.
    embeddings = np.array([[1, 0], [1, 0.5], [9, 0], [0, 1]], dtype=np.float32)
    images = image_set(np.array([0, 1, 0, 1]))
    assert measure(embeddings, images, "cosine").neighbours[0, 0] == 2
    assert measure(embeddings, images, "euclidean").neighbours[0, 0] == 1


def test_by_hand() -> None:
    # On a line: the neighbours of image 0 are 1, 2, 3, 4, of classes b, a, a, b.
    embeddings = np.array([[0.0], [1], [2], [3], [4]], dtype=np.float32)
    result = measure(embeddings, image_set(np.array([0, 1, 0, 0, 1])), "euclidean", [1, 2])
    assert result.neighbours[0].tolist() == [1, 2]
    assert [bool(result.recall[k][0]) for k in (1, 2)] == [False, True]
    assert result.r_precision[0] == 1 / 2  # R = 2, of which the second is right
    assert result.average_precision[0] == (1 / 2) / 2
    # Neighbours of the others: 1: 0 2 3 4 (R = 1); 2: 1 3 0 4; 3: 2 4 1 0; 4: 3 2 1 0 (R = 1).
    assert result.recall[1].tolist() == [False, False, False, True, False]
    assert result.recall_at(2) == 3 / 5
    assert result.summary() == {
        "recall": {"1": 1 / 5, "2": 3 / 5},
        "r_precision": pytest.approx((0.5 + 0 + 0.5 + 0.5 + 0) / 5),
        "map_at_r": pytest.approx((0.25 + 0 + 0.25 + 0.5 + 0) / 5),
    }
    assert result.chance == pytest.approx((2 + 1 + 2 + 2 + 1) / (5 * 4))


def test_roles_separate_queries_from_the_gallery() -> None:
    embeddings = np.array([[0.0], [0.1], [5], [0.3], [5.1]], dtype=np.float32)
    roles = np.array([QUERY, QUERY, GALLERY, BOTH, QUERY], dtype=object)
    result = measure(embeddings, image_set(np.array([0, 0, 1, 0, 1]), roles), "euclidean", [1])
    # Image 1 is nearest to 0 but no gallery image. Image 3 has nobody of its class in the gallery but itself.
    assert result.queries.tolist() == [0, 1, 4]
    assert result.neighbours.tolist() == [[3], [3], [2]]
    assert (result.left_out, result.gallery_size, result.recall_at(1)) == (1, 2, 1.0)


def test_queries_of_one_model_in_the_gallery_of_another_by_hand() -> None:
    # On a line; the other model has moved everything by 1, so that each image is nearest to its right neighbour's left.
    queries = np.array([[0.0], [1], [2.2], [3]], dtype=np.float32)
    images = image_set(np.array([0, 1, 0, 1]))
    find = exact(queries, images, "euclidean", gallery=queries + 1)
    result = measure_found(find, images, [1, 3])
    # The gallery lies at 1, 2, 3.2, 4; own copies are passed over: from 0 to 2, 3.2, 4; from 1 to 1, 3.2, 4 ...
    assert result.neighbours.tolist() == [[1, 2, 3], [0, 2, 3], [1, 0, 3], [2, 1, 0]]
    assert result.recall_at(1) == 0
    roles = np.array([QUERY, GALLERY, GALLERY, BOTH], dtype=object)
    split = image_set(np.array([0, 1, 0, 1]), roles)
    result = measure_found(exact(queries, split, "euclidean", gallery=queries + 1), split, [2])
    assert result.neighbours.tolist() == [[1, 2], [2, 1]] and result.queries.tolist() == [0, 3]
    with pytest.raises(DataError, match="3 embeddings for 4 images"):
        exact(queries, images, "euclidean", gallery=queries[:3])


def test_a_search_that_finds_less_is_measured_so() -> None:
    # It gives the others in order of their index, and of image 0 nothing but the last.
    images = image_set(np.array([0, 0, 1, 0, 1]))

    def find(rows: np.ndarray, k: int, own: np.ndarray) -> np.ndarray:
        found = [[other for other in range(5) if other != row][:k] for row in rows.tolist()]
        return np.array([[4] + [-1] * (k - 1) if row == 0 else of for row, of in zip(rows, found, strict=True)])

    result = measure_found(find, images, [1, 2])
    assert result.neighbours.tolist() == [[4, -1], [0, 2], [0, 1], [0, 1], [0, 1]]
    assert result.recall[1].tolist() == [False, True, False, True, False]
    assert result.r_precision.tolist() == [0, 0.5, 0, 1, 0]  # R = 2, 2, 1, 2, 1
    assert result.average_precision.tolist() == [0, 0.5, 0, 1, 0]


@pytest.mark.parametrize("kind", KINDS)
def test_nearest_few_among_many(kind: str) -> None:
    generator = np.random.default_rng(3)
    gallery, queries = np.split(points(kind, 430, 3, generator), [400])
    exact = ((queries.astype(np.float64)[:, None] - gallery.astype(np.float64)[None]) ** 2).sum(axis=2)
    expected = np.argsort(exact, axis=1, kind="stable")[:, :4]
    np.testing.assert_array_equal(nearest(queries, gallery, 4), expected)


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
def test_against_pytorch_metric_learning(metric: str) -> None:
    generator = np.random.default_rng(0)
    labels = np.concatenate([generator.integers(0, 12, 200), [12]])  # the last is alone in its class
    embeddings = (generator.normal(size=(13, 16))[labels] + 1.5 * generator.normal(size=(201, 16))).astype(np.float32)
    result = measure(embeddings, image_set(labels), metric, [1])
    if metric == "cosine":
        embeddings = embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)
    measures = ("precision_at_1", "r_precision", "mean_average_precision_at_r")
    expected = AccuracyCalculator(include=measures, k="max_bin_count").get_accuracy(embeddings, labels)
    assert 0.2 < expected["mean_average_precision_at_r"] < expected["precision_at_1"] < 0.95
    assert result.left_out == 1
    assert result.recall_at(1) == pytest.approx(expected["precision_at_1"])
    assert result.r_precision.mean() == pytest.approx(expected["r_precision"])
    assert result.average_precision.mean() == pytest.approx(expected["mean_average_precision_at_r"])


def test_query_and_gallery_against_pytorch_metric_learning() -> None:
    generator = np.random.default_rng(1)
    labels = generator.integers(0, 8, 150)
    embeddings = (generator.normal(size=(8, 16))[labels] + 1.5 * generator.normal(size=(150, 16))).astype(np.float32)
    roles = np.array([QUERY] * 50 + [GALLERY] * 100, dtype=object)
    result = measure(embeddings, image_set(labels, roles), "euclidean", [1])
    calculator = AccuracyCalculator(include=("precision_at_1", "mean_average_precision_at_r"), k="max_bin_count")
    expected = calculator.get_accuracy(embeddings[:50], labels[:50], embeddings[50:], labels[50:])
    assert result.recall_at(1) == pytest.approx(expected["precision_at_1"])
    assert result.average_precision.mean() == pytest.approx(expected["mean_average_precision_at_r"])


@pytest.mark.parametrize("kind", KINDS)
def test_small_chunks_give_the_same(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    generator = np.random.default_rng(2)
    embeddings, images = points(kind, 150, 4, generator), image_set(generator.integers(0, 30, 150))
    whole = measure(embeddings, images, "euclidean", [1, 5])
    monkeypatch.setattr(zoo.retrieval.measures, "CHUNK_BYTES", 2000)
    chunked = measure(embeddings, images, "euclidean", [1, 5], memory=2000)
    np.testing.assert_array_equal(chunked.neighbours, whole.neighbours)
    np.testing.assert_array_equal(chunked.average_precision, whole.average_precision)
    np.testing.assert_array_equal(chunked.recall[5], whole.recall[5])


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e200])
def test_embeddings_that_are_not_finite_are_named(value: float) -> None:
    embeddings = np.ones((4, 2))
    embeddings[2, 1] = value
    for metric in ("cosine", "euclidean"):
        with pytest.raises(DataError, match="Embedding 2 is not finite"):
            measure(embeddings, image_set(np.zeros(4)), metric)


def test_errors() -> None:
    embeddings, images = np.eye(4, dtype=np.float32), image_set(np.zeros(4))
    with pytest.raises(DataError, match="without labels"):
        measure(embeddings, images.without_labels())
    with pytest.raises(DataError, match="3 embeddings for 4 images"):
        measure(embeddings[:3], images)
    with pytest.raises(DataError, match="No query has another image"):
        measure(embeddings, image_set(np.arange(4)))
    with pytest.raises(OptionError, match="'manhattan'; known are cosine and euclidean"):
        measure(embeddings, images, "manhattan")
    for ks in ([0, 1], []):
        with pytest.raises(OptionError, match="at least 1"):
            measure(embeddings, images, ks=ks)


def test_overlap_of_neighbours_is_the_same_in_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = np.random.default_rng(0)
    one, other = (np.stack([generator.permutation(20)[:7] for _ in range(50)]) for _ in range(2))
    one[3, 4:] = other[5, 2:] = -1
    expected = [
        len((set(a) & set(b)) - {-1}) / len(set(b) - {-1}) for a, b in zip(one.tolist(), other.tolist(), strict=True)
    ]
    assert zoo.retrieval.measures.neighbour_overlap(one, other) == pytest.approx(np.mean(expected))
    monkeypatch.setattr(zoo.retrieval.measures, "CHUNK_BYTES", 300)
    assert zoo.retrieval.measures.neighbour_overlap(one, other) == pytest.approx(np.mean(expected))
