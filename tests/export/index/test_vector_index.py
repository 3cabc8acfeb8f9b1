"""Each kind of index against its definition in numpy; reproducible builds; index files."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import pytest

from export.index.flat import FlatIndex
from export.index.vector_index import OPTIONS, VectorIndex, make_index, parameters_for, read_index, write_index
from zoo.errors import DataError, MissingExtraError, ModelError, OptionError

COUNT, DIM = 301, 12  # odd, so that the median is one of the values


@pytest.fixture(scope="module")
def vectors() -> np.ndarray:
    generator = np.random.default_rng(0)
    centres = generator.normal(size=(20, DIM))[generator.integers(20, size=COUNT)]
    lengths = generator.uniform(0.5, 3, (COUNT, 1))
    return ((centres + 0.6 * generator.normal(size=(COUNT, DIM)) + 1) * lengths).astype(np.float32)


def compared(vectors: np.ndarray, metric: str) -> np.ndarray:
    exact = vectors.astype(np.float64)
    unit = exact / np.linalg.norm(exact, axis=1, keepdims=True) if metric == "cosine" else exact
    return unit.astype(np.float32)


def decoded(vectors: np.ndarray) -> np.ndarray:
    """8 bits a dimension between its smallest and largest value; a code stands for the middle of its step."""
    low, high = vectors.min(axis=0), vectors.max(axis=0)
    codes = np.floor((vectors - low) / (high - low) * np.float32(255))
    return low + (high - low) * (codes + 0.5) / 255


def distances(queries: np.ndarray, gallery: np.ndarray) -> np.ndarray:
    return np.linalg.norm(queries[:, None].astype(np.float64) - gallery[None], axis=2)


def check_scores(scores: np.ndarray, found: np.ndarray, expected: np.ndarray, metric: str) -> None:
    """Compare with distances of all; the order may differ only where float32 cannot tell distances apart."""
    of_found = np.take_along_axis(expected, found, axis=1)
    nearest = np.sort(expected, axis=1)[:, : found.shape[1]]
    np.testing.assert_allclose(of_found, nearest, atol=2e-3 if metric == "euclidean" else 2e-4)
    given = 1 - of_found**2 / 2 if metric == "cosine" else of_found
    np.testing.assert_allclose(scores, given, atol=2e-3 if metric == "euclidean" else 1e-5)


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
@pytest.mark.parametrize("kind", ["flat", "sq8"])
def test_flat_and_sq8_by_their_formulas(vectors: np.ndarray, kind: str, metric: str) -> None:
    gallery = compared(vectors, metric)
    expected = distances(gallery, gallery if kind == "flat" else decoded(gallery))
    scores, found = make_index(vectors, kind, metric).search(vectors, 7)
    assert found.shape == (COUNT, 7)
    check_scores(scores, found, expected, metric)


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
def test_binary_proposes_by_bits_and_orders_by_codes(vectors: np.ndarray, metric: str) -> None:
    gallery = compared(vectors, metric)
    bits = gallery >= np.median(gallery, axis=0)
    hamming = (bits[:, None] != bits[None]).sum(axis=2)
    expected = distances(gallery, decoded(gallery))
    index = make_index(vectors, "binary", metric, {"overfetch": 1})
    scores, found = index.search(vectors, 9)
    for query in range(COUNT):
        others = np.setdiff1d(np.arange(COUNT), found[query])
        assert hamming[query, found[query]].max() <= hamming[query, others].min()
        assert (np.diff(expected[query, found[query]]) >= -1e-4).all()
    assert (scores[:, :-1] >= scores[:, 1:]).all() if metric == "cosine" else (scores[:, :-1] <= scores[:, 1:]).all()
    scores, found = make_index(vectors, "binary", metric, {"overfetch": COUNT}).search(vectors, 9)
    check_scores(scores, found, expected, metric)  # all are candidates


def test_binary_looks_at_as_many_candidates_as_it_is_told(vectors: np.ndarray) -> None:
    index = make_index(vectors, "binary", "cosine", {"overfetch": 3})
    two_of_fifteen = index.search(vectors, 2, as_for=5)[1]
    np.testing.assert_array_equal(two_of_fifteen, index.search(vectors, 15, as_for=5)[1][:, :2])
    every = make_index(vectors, "sq8").search(vectors, 2)[1]
    np.testing.assert_array_equal(index.search(vectors, 2, as_for=COUNT)[1], every)
    assert 0.3 < (two_of_fifteen == every).mean() < 1


@pytest.mark.parametrize("kind", ["hnsw", "ivfpq"])
def test_approximate_kinds_find_most_of_the_nearest(vectors: np.ndarray, kind: str) -> None:
    options = {"nlist": 4, "nprobe": 4} if kind == "ivfpq" else None
    exact = make_index(vectors, "flat").search(vectors, 5)[1]
    found = make_index(vectors, kind, options=options).search(vectors, 5)[1]
    overlap = (found[:, :, None] == exact[:, None, :]).any(axis=2).mean()
    assert overlap > (0.99 if kind == "hnsw" else 0.85)


def test_fewer_lists_searched_find_fewer(vectors: np.ndarray) -> None:
    exact = make_index(vectors, "flat").search(vectors, 5)[1]
    shares = []
    for nprobe in (1, 4, 16):
        found = make_index(vectors, "ivfpq", options={"nlist": 16, "nprobe": nprobe}).search(vectors, 5)[1]
        shares.append((found[:, :, None] == exact[:, None, :]).any(axis=2).mean())
    assert shares[0] < shares[1] <= shares[2]


@pytest.mark.parametrize("kind", list(OPTIONS))
def test_a_row_to_exclude_is_not_found(vectors: np.ndarray, kind: str) -> None:
    index = make_index(vectors, kind)
    rows = np.arange(COUNT)
    plain, without = index.search(vectors, 8)[1], index.search(vectors, 7, exclude=rows)[1]
    assert not (without == rows[:, None]).any()
    if kind != "binary":  # which looks at other numbers of candidates
        for query in rows:
            assert without[query].tolist() == [row for row in plain[query].tolist() if row != query][:7]
    none = index.search(vectors[:3], 7, exclude=np.full(3, -1))[1]
    np.testing.assert_array_equal(none, index.search(vectors[:3], 7)[1])


def test_more_neighbours_than_there_are() -> None:
    gallery = np.eye(3, dtype=np.float32)
    scores, found = make_index(gallery, "flat").search(gallery, 10, exclude=np.array([0, -1, 2]))
    assert found.tolist() == [[1, 2, -1], [1, 0, 2], [0, 1, -1]]
    assert scores[1].tolist() == [1, 0, 0] and np.isnan(scores[0, 2])


def test_ties_go_to_the_lower_row() -> None:
    gallery = np.array([[0, 1], [1, 0], [0, 1], [1, 0], [1, 0]], dtype=np.float32)
    for kind in ("flat", "sq8", "hnsw", "binary"):
        assert make_index(gallery, kind).search(gallery[:2], 5)[1].tolist() == [[0, 2, 1, 3, 4], [1, 3, 4, 0, 2]]


@pytest.mark.parametrize("kind", list(OPTIONS))
def test_the_same_on_any_number_of_threads(vectors: np.ndarray, kind: str) -> None:
    before = faiss.omp_get_max_threads()
    made = []
    try:
        for threads in (1, 2, 3):
            faiss.omp_set_num_threads(threads)
            made.append(faiss.serialize_index(make_index(vectors, kind, seed=1).faiss).tobytes())
            assert faiss.omp_get_max_threads() == threads
    finally:
        faiss.omp_set_num_threads(before)
    assert made[0] == made[1] == made[2]
    other = faiss.serialize_index(make_index(vectors, kind, seed=2).faiss).tobytes()
    assert (other != made[0]) == (kind in ("hnsw", "ivfpq"))


@pytest.mark.parametrize("kind", list(OPTIONS))
def test_files_keep_everything(vectors: np.ndarray, kind: str, tmp_path: Path) -> None:
    index = make_index(vectors, kind, "euclidean")
    file = tmp_path / "index.faiss"
    write_index(index, file)
    assert file.stat().st_size == pytest.approx(index.fixed_bytes + COUNT * index.bytes_per_vector)
    read = read_index(file, kind, "euclidean", index.parameters, index.fixed_bytes)
    assert (len(read), read.dim) == (COUNT, DIM)
    for before, after in zip(index.search(vectors, 4), read.search(vectors, 4), strict=True):
        np.testing.assert_array_equal(before, after)


@pytest.mark.parametrize(("kind", "expected"), [("flat", 4 * DIM), ("sq8", DIM), ("binary", DIM + 2)])
def test_bytes_per_vector_by_hand(vectors: np.ndarray, kind: str, expected: int) -> None:
    assert make_index(vectors, kind).bytes_per_vector == pytest.approx(expected, abs=0.1)


@pytest.mark.parametrize(
    ("count", "dim", "options", "expected"),
    [
        (1_000_000, 64, {}, {"nlist": 4000, "m": 32, "nprobe": 250}),  # 4 sqrt(N), D / 2, nlist / 16
        (2260, 64, {}, {"nlist": 57, "m": 32, "nprobe": 8}),  # N / 39
        (300, 37, {}, {"nlist": 7, "m": 37, "nprobe": 7}),  # 37 is prime
        (300, 100, {"m": 25, "nprobe": None}, {"nlist": 7, "m": 25, "nprobe": 7}),
        (5000, 9, {"nlist": 500}, {"nlist": 500, "m": 9, "nprobe": 32}),
    ],
)
def test_rules_of_ivfpq_by_hand(count: int, dim: int, options: dict[str, Any], expected: dict[str, int]) -> None:
    assert parameters_for("ivfpq", options, count, dim) == expected


@pytest.mark.parametrize(
    ("kind", "options", "count", "message"),
    [
        ("ivfqp", {}, 300, r"'ivfqp'; known are flat, .* Did you mean ivfpq"),
        ("hnsw", {"ef_serch": 3}, 300, r"hnsw has no option 'ef_serch'; it has m, .* Did you mean ef_search"),
        ("flat", {"m": 3}, 300, r"flat has no option 'm'; it has none"),
        ("hnsw", {"m": 1}, 300, "m of an index is 1; .* at least 2"),
        ("binary", {"overfetch": 0}, 300, "overfetch of an index is 0"),
        ("binary", {"overfetch": 2.5}, 300, r"overfetch of an index is 2\.5; .* whole number"),
        ("ivfpq", {"m": 5}, 300, "m of an index is 5, which does not divide the 12 dimensions"),
        ("ivfpq", {}, 255, r"ivfpq with 6 lists needs at least 256 vectors .* there are 255\. Use sq8 or flat\."),
        ("ivfpq", {"nlist": 400}, 300, "400 lists needs at least 400 vectors .* 300.* or fewer lists"),
    ],
)
def test_mistakes_are_named(kind: str, options: dict[str, Any], count: int, message: str) -> None:
    with pytest.raises(OptionError, match=message):
        make_index(np.ones((count, DIM), dtype=np.float32), kind, options=options)


def test_seeds_are_as_large_as_elsewhere(vectors: np.ndarray) -> None:
    assert len(make_index(vectors, "ivfpq", seed=2**32 - 1)) == COUNT


def test_paths_need_not_be_unicode(vectors: np.ndarray, tmp_path: Path) -> None:
    file = tmp_path / os.fsdecode(b"fot\xf3s.faiss")
    index = make_index(vectors, "sq8")
    write_index(index, file)
    read = read_index(file, "sq8", "cosine", {}, index.fixed_bytes)
    np.testing.assert_array_equal(read.search(vectors, 3)[1], index.search(vectors, 3)[1])


def test_what_cannot_be_indexed_or_read(vectors: np.ndarray, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="at least one"):
        make_index(vectors[:0], "flat")
    index = make_index(vectors, "flat")
    broken = vectors[:2].copy()
    broken[1, 0] = np.nan
    with pytest.raises(DataError, match="1 is not finite"):
        index.search(broken, 1)
    (tmp_path / "broken").write_bytes(b"IxF2" + bytes(9))
    for name in ("broken", "missing"):
        with pytest.raises(ModelError, match=f"{name} is missing, or is not an index"):
            read_index(tmp_path / name, "flat", "cosine", {}, 0)
    assert isinstance(index, VectorIndex)


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
def test_flat_is_the_same_without_faiss(vectors: np.ndarray, metric: str, tmp_path: Path, without: Any) -> None:
    gallery = np.concatenate([vectors, vectors[:9]])  # with ties
    by_faiss = make_index(gallery, "flat", metric)
    write_index(by_faiss, tmp_path / "faiss")
    own = np.arange(len(vectors))
    expected = by_faiss.search(vectors, 5), by_faiss.search(vectors, 5, exclude=own)
    sizes = by_faiss.fixed_bytes, by_faiss.bytes_per_vector
    with without("faiss"):
        index = make_index(gallery, "flat", metric)
        assert isinstance(index.faiss, FlatIndex)
        write_index(index, tmp_path / "numpy")
        assert (index.fixed_bytes, index.bytes_per_vector) == sizes
        for made in (index, read_index(tmp_path / "faiss", "flat", metric, {}, index.fixed_bytes)):
            for found, known in zip(
                (made.search(vectors, 5), made.search(vectors, 5, exclude=own)), expected, strict=True
            ):
                np.testing.assert_allclose(found[0], known[0], atol=2e-3)  # faiss squares lengths in float32
                np.testing.assert_array_equal(found[1], known[1])
    assert (tmp_path / "numpy").read_bytes() == (tmp_path / "faiss").read_bytes()


def test_other_kinds_name_the_extra_without_faiss(vectors: np.ndarray, tmp_path: Path, without: Any) -> None:
    write_index(make_index(vectors, "flat"), tmp_path / "index")
    content = (tmp_path / "index").read_bytes()
    with without("faiss"):
        for kind in set(OPTIONS) - {"flat"}:
            with pytest.raises(MissingExtraError, match=rf"kind {kind} needs faiss.*embedding-compressor\[index\]"):
                make_index(vectors, kind)
            with pytest.raises(MissingExtraError, match=f"kind {kind} needs faiss"):
                read_index(tmp_path / "index", kind, "cosine", {}, 0)
        for broken in (b"", b"IxFI" + content[4:], content[:-1], content + b"x"):
            (tmp_path / "index").write_bytes(broken)
            with pytest.raises(ModelError, match="is not an index that this version reads"):
                read_index(tmp_path / "index", "flat", "cosine", {}, 0)
