"""Continuous labels: distances, neighbours and digests of each kind, and what is refused."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import zoo.retrieval.nearest
from zoo.data import continuous
from zoo.data.continuous import ContinuousLabels, FunctionLabels, MatrixLabels, VectorLabels
from zoo.data.image_set import DataSplits, ImageSet
from zoo.data.rotations import with_rotations
from zoo.errors import DataError, OptionError


def manhattan(a: list[tuple[float, ...]], b: list[tuple[float, ...]]) -> np.ndarray:
    return np.array([[sum(abs(x - y) for x, y in zip(p, q, strict=True)) for q in b] for p in a])


def by_hand(vectors: np.ndarray, metric: str) -> np.ndarray:
    def distance(a: list[float], b: list[float]) -> float:
        if metric == "euclidean":
            return math.dist(a, b)
        if metric == "manhattan":
            return sum(abs(x - y) for x, y in zip(a, b, strict=True))
        return 1 - sum(x * y for x, y in zip(a, b, strict=True)) / (math.hypot(*a) * math.hypot(*b))

    rows = vectors.tolist()
    return np.array([[distance(a, b) for b in rows] for a in rows])


KINDS: dict[str, Callable[[np.ndarray], ContinuousLabels]] = {
    "euclidean": lambda vectors: VectorLabels(vectors),
    "cosine": lambda vectors: VectorLabels(vectors, "cosine"),
    "matrix": lambda vectors: MatrixLabels(by_hand(vectors, "euclidean").astype(np.float32)),
    "manhattan": lambda vectors: FunctionLabels([tuple(row) for row in vectors.tolist()], manhattan),
}


@pytest.mark.parametrize("kind", KINDS)
def test_parts_of_the_same_labels_follow_each_other(kind: str) -> None:
    labels = KINDS[kind](np.random.default_rng(0).normal(size=(9, 3)))
    first, second = np.array([4, 2, 7]), np.array([8, 0])
    both = labels.subset(first).followed_by(labels.subset(second))
    rows = np.concatenate([first, second])
    expected = labels.distances(rows, rows)
    assert len(both) == 5
    np.testing.assert_array_equal(both.distances(np.arange(5), np.arange(5)), expected)
    np.testing.assert_array_equal(
        both.subset(np.array([3, 1])).distances(np.arange(2), np.arange(2))[0, 1], expected[3, 1]
    )


@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
def test_vectors_follow_others(metric: str) -> None:
    vectors = np.random.default_rng(0).normal(size=(7, 3))
    both = VectorLabels(vectors[:4], metric).followed_by(VectorLabels(vectors[4:], metric))
    whole, rows = VectorLabels(vectors, metric), np.arange(7)
    np.testing.assert_array_equal(both.distances(rows, rows), whole.distances(rows, rows))
    assert both.digest == whole.digest


def test_labels_of_unknown_distance_do_not_follow_each_other() -> None:
    vectors = VectorLabels(np.eye(3))
    for other in (VectorLabels(np.eye(2)), VectorLabels(np.eye(3), "cosine"), MatrixLabels(1 - np.eye(3))):
        for one, two in ((vectors, other), (other, vectors)):
            with pytest.raises(DataError, match=r"unknown \(.*distance.*\)\. Give both vectors of one length"):
                one.followed_by(two)


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=20, deadline=None)
@given(count=st.integers(2, 30), dim=st.integers(1, 4), grid=st.booleans(), seed=st.integers(0, 999))
def test_distances_and_neighbours_against_loops(kind: str, count: int, dim: int, grid: bool, seed: int) -> None:
    generator = np.random.default_rng(seed)
    vectors = generator.normal(size=(count, dim))
    if grid:  # many ties and duplicates
        vectors = generator.integers(1, 3, (count, dim)).astype(float)
    labels = KINDS[kind](vectors)
    expected = by_hand(vectors, {"matrix": "euclidean"}.get(kind, kind))
    rows, others = generator.permutation(count)[: count // 2 + 1], generator.permutation(count)
    distances = labels.distances(rows, others)
    assert distances.dtype == np.float64
    np.testing.assert_allclose(distances, expected[np.ix_(rows, others)], rtol=1e-6, atol=1e-9)
    found = generator.integers(0, count, (len(rows), 3))
    np.testing.assert_array_equal(
        labels.distances_to(rows, found),
        [labels.distances(row[None], of)[0] for row, of in zip(rows, found, strict=True)],
    )
    # A subset, and of that a subset again, keeps what belongs to each image.
    part = labels.subset(others).subset(np.arange(1, count))
    assert len(part) == count - 1
    every = np.arange(count - 1)
    np.testing.assert_array_equal(part.distances(every, every), labels.distances(others[1:], others[1:]))

    k = min(4, count)
    own = np.array([int(np.flatnonzero(others == row)[0]) for row in rows])
    if grid and kind == "cosine":
        return  # directions that are the same differ by rounding there
    for exclude in (None, own):
        nearest = labels.nearest(rows, others, k, exclude)
        for place, row in enumerate(rows):
            ranked = sorted(range(count), key=lambda at: (distances[place, at], at))
            if exclude is not None:
                ranked.remove(exclude[place])
            assert nearest[place].tolist() == [*ranked, -1][:k], (row, distances[place])


@pytest.mark.parametrize("kind", KINDS)
def test_small_chunks_give_the_same(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    vectors = np.random.default_rng(0).normal(size=(60, 3))
    rows = np.arange(60)
    whole = KINDS[kind](vectors)
    expected = whole.distances(rows, rows), whole.nearest(rows, rows, 5, rows), whole.distances_to(rows, rows[:, None])
    monkeypatch.setattr(continuous, "_CHUNK_NUMBERS", 100)
    monkeypatch.setattr(continuous, "_BLOCK", 7)
    monkeypatch.setattr(zoo.retrieval.nearest, "CHUNK_BYTES", 2000)
    labels = KINDS[kind](vectors)
    for part, of_whole in zip(
        (labels.distances(rows, rows), labels.nearest(rows, rows, 5, rows), labels.distances_to(rows, rows[:, None])),
        expected,
        strict=True,
    ):
        np.testing.assert_array_equal(part, of_whole)


def test_what_is_given_is_left_as_it_is() -> None:
    vectors = np.array([[3.0, 4.0], [1.0, 0.0]])
    VectorLabels(vectors, "cosine").distances(np.arange(2), np.arange(2))
    assert vectors.tolist() == [[3, 4], [1, 0]]


def test_one_number_each() -> None:
    labels = VectorLabels(np.array([3, 1, 4]))
    assert labels.distances(np.array([0]), np.array([0, 1, 2])).tolist() == [[0, 2, 1]]
    assert labels.description == "euclidean distance of 1 number"


def test_equal_labels_are_at_distance_zero_exactly() -> None:
    vectors = np.random.default_rng(0).normal(size=(5, 300))[np.repeat(np.arange(5), 4)]
    for metric in ("euclidean", "cosine"):
        distances = VectorLabels(vectors, metric).distances(np.arange(20), np.arange(20))
        assert ((distances == 0) == np.kron(np.eye(5), np.ones((4, 4))).astype(bool)).all()


def test_large_numbers_keep_their_small_differences() -> None:
    # Seconds since 1970, half a second apart; float32 has steps of 128 there.
    labels = VectorLabels(1.7e9 + 0.5 * np.arange(400)[::-1])
    rows = np.arange(400)
    nearest = labels.nearest(rows, rows, 2, exclude=rows)
    assert nearest[0].tolist() == [1, 2] and nearest[200].tolist() == [199, 201] and nearest[399].tolist() == [398, 397]
    assert labels.distances(rows[:1], rows[1:3]).tolist() == [[0.5, 1.0]]


def test_fewer_than_asked_for() -> None:
    for kind in KINDS.values():
        nearest = kind(np.array([[1.0], [2.0], [4.0]])).nearest(np.array([0]), np.array([0, 1, 2]), 5, np.array([0]))
        assert nearest.tolist() == [[1, 2, -1, -1, -1]] or kind is KINDS["cosine"]


def test_digests_tell_labels_apart() -> None:
    vectors = np.random.default_rng(0).normal(size=(30, 2))
    moved = vectors.copy()
    moved[29, 1] += 1e-9
    digests = []
    for kind in KINDS.values():
        labels = kind(vectors)
        assert labels.digest == kind(vectors.copy()).digest and len(labels.digest) == 16
        assert labels.subset(np.arange(30)).digest == labels.digest
        digests += [labels.digest, labels.subset(np.arange(29)).digest, labels.subset(np.arange(30)[::-1]).digest]
        if kind is not KINDS["matrix"]:  # in float32 here
            digests.append(kind(moved).digest)
        assert labels.subset(np.array([], dtype=int)).digest
    assert len(set(digests)) == len(digests)


def images(count: int = 6, **columns: Any) -> ImageSet:
    pixels = np.zeros((2, 2, 3), dtype=np.uint8)
    return ImageSet([f"{i}.png" for i in range(count)], [pixels] * count, **columns)


def test_image_sets_carry_them() -> None:
    labels = VectorLabels(np.arange(6.0))
    whole = images(labels=np.zeros(6, dtype=np.int64), class_names=["a"], continuous=labels)
    for part in (whole.subset([4, 1]), whole.subset([4, 1]).checked(), whole.subset([4, 1]).without_labels()):
        assert part.continuous is not None
        assert part.continuous.distances(np.array([0]), np.array([1])) == 3
    assert with_rotations(whole).continuous is None  # what a turned image's label would be is not known
    with pytest.raises(DataError, match="6 continuous labels for 5 images"):
        images(5, continuous=labels)


def test_the_digest_of_splits_changes_with_them() -> None:
    def splits(vectors: np.ndarray | None) -> DataSplits:
        whole = images(continuous=None if vectors is None else VectorLabels(vectors))
        return DataSplits("a", whole.subset([0, 1, 2]), whole.subset([3]), whole.subset([4, 5]))

    numbers = np.arange(6.0)
    digests = [splits(None).digest, splits(numbers).digest, splits(np.r_[numbers[:5], 9]).digest]
    assert len(set(digests)) == 3
    assert splits(None).digest == replace(splits(None), name="b").digest


@pytest.mark.parametrize(
    ("vectors", "metric", "message"),
    [
        (np.zeros((0, 2)), "euclidean", r"must be numbers \(N, L\), found shape \(0, 2\)"),
        (np.zeros((2, 0)), "euclidean", r"found shape \(2, 0\)"),
        (np.zeros((2, 2, 2)), "euclidean", r"found shape \(2, 2, 2\)"),
        (np.array([["a"], ["b"]]), "euclidean", r"found shape \(2, 1\) of <U1"),
        (np.array([[1.0], [np.nan]]), "euclidean", "Label 1 is not finite"),
        (np.array([[1.0], [2.0], [-np.inf]]), "cosine", "Label 2 is not finite"),
        (np.array([[1e200], [0.0]]), "euclidean", "Label 0 is not finite"),
        (np.array([[1.0, 0], [0, 0]]), "cosine", "Label 1 is zero, which has no direction"),
    ],
)
def test_vectors_that_are_no_labels(vectors: np.ndarray, metric: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        VectorLabels(vectors, metric)


def test_unknown_metrics_are_named() -> None:
    with pytest.raises(OptionError, match=r"'cosin'; known are euclidean and cosine\. Did you mean cosine\?"):
        VectorLabels(np.eye(2), "cosin")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({(1, 2): np.nan, (2, 1): np.nan}, "from Label 1 to Label 2 is nan"),
        ({(0, 2): np.inf, (2, 0): np.inf}, "from Label 0 to Label 2 is inf"),
        ({(0, 1): -1.0, (1, 0): -1.0}, r"from Label 0 to Label 1 is -1\.0"),
        ({(0, 2): 5.0}, r"from Label 0 to Label 2 is 5\.0, and 2\.0 the other way"),
        ({(1, 1): 0.1}, r"from Label 1 to Label 1 is 0\.1"),
    ],
)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_matrices_that_are_no_distances(
    change: dict[tuple[int, int], float], message: str, dtype: type, monkeypatch: pytest.MonkeyPatch
) -> None:
    matrix = np.array([[0, 1, 2], [1, 0, 3], [2, 3, 0]], dtype=dtype)
    MatrixLabels(matrix)
    for place, value in change.items():
        matrix[place] = value
    for chunk in (4, 1000):
        monkeypatch.setattr(continuous, "_CHUNK_NUMBERS", chunk)
        with pytest.raises(DataError, match=message):
            MatrixLabels(matrix)


def test_matrices_of_another_shape() -> None:
    for matrix in (np.zeros((2, 3)), np.zeros(4), np.zeros((0, 0)), np.array([["a"]])):
        with pytest.raises(DataError, match=r"must be numbers \(N, N\)"):
            MatrixLabels(matrix)
    assert MatrixLabels(np.array([[0, 2], [2, 0]])).distances(np.array([0]), np.array([1])) == 2


def test_functions_get_arrays_or_lists_and_no_more_than_a_block() -> None:
    seen: list[tuple[type, int]] = []

    def distance(a: Any, b: Any) -> np.ndarray:
        seen.append((type(a), max(len(a), len(b))))
        return abs(np.subtract.outer(np.asarray(a, dtype=float), np.asarray(b, dtype=float)))

    for labels, kind in ((np.arange(600.0), np.ndarray), (list(range(600)), list)):
        seen.clear()
        rows = np.arange(600)
        distances = FunctionLabels(labels, distance).distances(rows, rows)  # type: ignore[arg-type]
        np.testing.assert_array_equal(distances, abs(rows[:, None] - rows[None, :]))
        assert {one for one, _ in seen} == {kind} and max(size for _, size in seen) == 256


@pytest.mark.parametrize(
    ("distance", "message"),
    [
        (lambda a, b: np.zeros(len(a)), r"gave shape \(3,\) for 3 and 3 labels; it must give \(3, 3\)"),
        (lambda a, b: np.full((len(a), len(b)), np.nan), "gave nan for label 0 and label 0"),
        (lambda a, b: np.subtract.outer(a, b), r"gave -1\.0 for label 0 and label 1"),
        (lambda a, b: np.ones((len(a), len(b))), r"from label 0 to label 0 is 1\.0"),
        (lambda a, b: np.maximum(np.subtract.outer(a, b), 0), "from label 0 to label 1 is 0.*and 1.* the other way"),
    ],
)
def test_functions_that_give_no_distances(distance: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        FunctionLabels(np.arange(3.0), distance)
    with pytest.raises(DataError, match="No continuous labels"):
        FunctionLabels([], distance)


def test_a_matrix_of_truth_values_is_one_of_distances() -> None:
    labels = MatrixLabels(~np.eye(4, dtype=bool))
    rows = np.arange(4)
    assert labels.distances(rows[:1], rows).tolist() == [[0, 1, 1, 1]]
