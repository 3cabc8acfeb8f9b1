"""faiss indexes over embeddings, of several kinds with one interface. The flat kind also works without faiss.

All compare by squared Euclidean distance. For the cosine metric vectors have length 1, which gives the same order.

* flat: uncompressed vectors; exact.
* sq8: 8 bits per dimension, between its smallest and largest value in the gallery (faiss's ``QT_8bit``); the codes are
  decoded for comparison.
* ivfpq: inverted lists around ``nlist`` centres, ``nprobe`` of which are searched; ``m`` bytes per vector
  (Jegou et al., "Product Quantization for Nearest Neighbor Search", TPAMI 2011).
* hnsw: a neighbour graph with ``m`` links per vector (Malkov and Yashunin, arXiv:1603.09320); uncompressed vectors.
* binary: one bit per dimension, set by comparison with its median in the gallery; ``overfetch`` times the neighbours
  asked for are found by Hamming distance and reranked by sq8 codes.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from export.index.flat import FlatIndex
from zoo.errors import DataError, ModelError, OptionError, did_you_mean, require_known
from zoo.extras import is_installed, require_extra
from zoo.retrieval.nearest import comparable

# kind -> its options and their defaults; None for those that depend on the number of vectors and dimensions
OPTIONS: dict[str, dict[str, int | None]] = {
    "flat": {},
    "sq8": {},
    "ivfpq": {"nlist": None, "m": None, "nprobe": None},
    "hnsw": {"m": 32, "ef_construction": 200, "ef_search": 64},
    "binary": {"overfetch": 10},
}
_BITS = 8  # per code of the product quantiser
_VECTORS_A_LIST = 39  # vectors that faiss advises per centre in training


@dataclass(frozen=True, eq=False)
class VectorIndex:
    """A trained index with its vectors.

    Attributes:
        kind: one of ``OPTIONS``.
        metric: "cosine" or "euclidean".
        parameters: the options it was made with, including those chosen automatically.
        fixed_bytes: size of what does not grow with the number of vectors, such as centres.
        faiss: the index itself; a ``FlatIndex`` if faiss is not installed.
    """

    kind: str
    metric: str
    parameters: dict[str, int]
    fixed_bytes: int
    faiss: Any

    def __len__(self) -> int:
        return int(self.faiss.ntotal)

    @property
    def dim(self) -> int:
        """Dimensions of the vectors."""
        return int(self.faiss.d)

    @property
    def bytes_per_vector(self) -> float:
        """Bytes that each vector adds to the file."""
        return float((len(_serialized(self.faiss)) - self.fixed_bytes) / len(self))

    def search(
        self, queries: np.ndarray, k: int, exclude: np.ndarray | None = None, as_for: int | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Find the nearest vectors, ties by lower row.

        Args:
            queries: float ``(Q, D)``.
            k: neighbours of each query, at least 1.
            exclude: int ``(Q,)``, one row to leave out for each query, or -1.
            as_for: for ``binary``, examine as many candidates as for this many neighbours; None for k.

        Returns:
            Scores, float32 ``(Q, K)``, and rows, int64 ``(Q, K)``, with K the smaller of k and the number of vectors;
            best first. Scores are cosine similarities or Euclidean distances, as exact as the index stores vectors. If
            fewer neighbours were found, the remaining rows are -1 and their scores NaN.

        Raises:
            DataError: queries are not finite.
        """
        wanted = min(k, len(self))
        own = np.full(len(queries), -1) if exclude is None else exclude
        depth = min(wanted + int((own >= 0).any()), len(self))
        if self.kind == "binary":
            candidates = max(self.parameters["overfetch"] * (as_for or k), depth)
            self.faiss.k_factor = (min(candidates, len(self)) + 0.5) / depth  # faiss multiplies and drops the fraction
        distances, found = self.faiss.search(comparable(queries, self.metric), depth)
        nowhere = (found < 0) | (found == own[:, None])
        distances = np.where(nowhere, np.inf, np.maximum(distances, 0))
        order = np.lexsort((found, distances), axis=1)[:, :wanted]
        distances, found = np.take_along_axis(distances, order, axis=1), np.take_along_axis(found, order, axis=1)
        scores = 1 - distances / 2 if self.metric == "cosine" else np.sqrt(distances)
        missing = np.isinf(distances)
        return np.where(missing, np.nan, scores).astype(np.float32), np.where(missing, -1, found)


def make_index(
    vectors: np.ndarray, kind: str, metric: str = "cosine", options: Mapping[str, Any] | None = None, seed: int = 0
) -> VectorIndex:
    """Train and fill an index. Same vectors, options and seed give the same index on any number of threads.

    Args:
        vectors: float ``(N, D)``.
        kind: one of ``OPTIONS``.
        metric: "cosine" or "euclidean".
        options: options of the kind; see :func:`parameters_for`.
        seed: seed for the centres and the graph.

    Raises:
        OptionError: unknown kind or option, an invalid value, or fewer vectors than the kind needs.
        MissingExtraError: the kind needs faiss, which is not installed.
        DataError: no vectors, or vectors that are not finite.
    """
    if not len(vectors):
        raise DataError("An index needs at least one vector.")
    parameters = parameters_for(kind, options, *vectors.shape)
    vectors = comparable(vectors, metric)
    if not is_installed("faiss"):
        fixed_bytes = len(_serialized(FlatIndex(vectors[:0])))
        return VectorIndex(kind, metric, parameters, fixed_bytes, FlatIndex(vectors))
    index = _empty(kind, parameters, vectors.shape[1], seed)
    with _one_thread():  # several threads would add up, and build the graph, in no fixed order
        index.train(vectors)
        fixed_bytes = len(_serialized(index))
        index.add(vectors)
    return VectorIndex(kind, metric, parameters, fixed_bytes, index)


def milliseconds_per_query(index: VectorIndex, queries: np.ndarray, k: int, runs: int) -> float | None:
    """Return the median time to search k neighbours of one query on one thread, in ms; None without runs.

    Args:
        index: the index.
        queries: float ``(Q, D)``, used in turn.
        k: neighbours to find.
        runs: timed searches.
    """
    taken = []
    with _one_thread():
        for run in range(-5, runs):  # the first five warm up
            query = queries[run % len(queries)][None]
            start = time.perf_counter()
            index.search(query, k)
            if run >= 0:
                taken.append(1000 * (time.perf_counter() - start))
    return round(float(np.median(taken)), 4) if taken else None


def write_index(index: VectorIndex, path: Path) -> None:
    """Write the faiss file."""
    if isinstance(index.faiss, FlatIndex):
        path.write_bytes(index.faiss.to_bytes())
        return
    import faiss

    with open(path, "wb") as file:  # faiss itself opens only files whose names are valid Unicode
        faiss.write_index(index.faiss, faiss.PyCallbackIOWriter(file.write))  # type: ignore[attr-defined]


def read_index(path: Path, kind: str, metric: str, parameters: dict[str, int], fixed_bytes: int) -> VectorIndex:
    """Read the faiss file of an index; the other arguments are the attributes it was written with.

    Raises:
        ModelError: the file is missing or broken.
        MissingExtraError: the kind needs faiss, which is not installed.
    """
    _require_faiss(kind)
    read: Any
    try:
        if is_installed("faiss"):
            import faiss

            reader = f"faiss {faiss.__version__}"
            with open(path, "rb") as file:
                read = faiss.read_index(faiss.PyCallbackIOReader(file.read))  # type: ignore[attr-defined]
        else:
            reader = "this version"
            read = FlatIndex.of_bytes(path.read_bytes())
        return VectorIndex(kind, metric, parameters, fixed_bytes, read)
    # errors of faiss and of FlatIndex, and what wrong sizes in a broken file lead to
    except (OSError, RuntimeError, MemoryError, ValueError) as error:
        raise ModelError(f"{path} is missing, or is not an index that {reader} reads. Build it again.") from error


def parameters_for(kind: str, options: Mapping[str, Any] | None, count: int, dim: int) -> dict[str, int]:
    """Return all options of a kind of index, with a choice for those not given.

    Defaults of ivfpq: ``nlist`` is 4 sqrt(N), but leaves 39 vectors per list, as faiss advises. ``nprobe`` is a
    sixteenth of the lists, at least 8. ``m`` is the smallest divisor of the dimensions that is at least half of them.

    Args:
        kind: one of ``OPTIONS``.
        options: the options given; those missing or None are chosen.
        count: number of vectors.
        dim: their dimensions.

    Raises:
        OptionError: unknown kind or option, an invalid value, or fewer vectors than the kind needs.
        MissingExtraError: the kind needs faiss, which is not installed.
    """
    require_known("kind of index", kind, OPTIONS)
    _require_faiss(kind)
    known = OPTIONS[kind]
    given = {name: value for name, value in (options or {}).items() if value is not None}
    for name, value in given.items():
        if name not in known:
            has = f"it has {', '.join(known)}" if known else "it has none"
            raise OptionError(f"An index of kind {kind} has no option {name!r}; {has}.{did_you_mean(name, known)}")
        least = 2 if (kind, name) == ("hnsw", "m") else 1
        if not isinstance(value, int) or isinstance(value, bool) or not least <= value < 2**31:
            raise OptionError(f"{name} of an index is {value!r}; it must be a whole number of at least {least}.")
    chosen: dict[str, int] = {name: value for name, value in (known | given).items() if value is not None}
    if kind == "ivfpq":
        nlist = chosen.setdefault("nlist", max(1, min(round(4 * math.sqrt(count)), count // _VECTORS_A_LIST)))
        m = chosen.setdefault("m", next(m for m in range(math.ceil(dim / 2), dim + 1) if dim % m == 0))
        chosen.setdefault("nprobe", min(nlist, max(8, math.ceil(nlist / 16))))
        if dim % m:
            raise OptionError(
                f"m of an index is {m}, which does not divide the {dim} dimensions. Choose one that does."
            )
        needed = max(2**_BITS, nlist)
        if count < needed:
            raise OptionError(
                f"An index of kind ivfpq with {nlist} lists needs at least {needed} vectors to train "
                f"on, but there are {count}. Use sq8 or flat{', or fewer lists' if nlist > 2**_BITS else ''}."
            )
    return chosen


def _require_faiss(kind: str) -> None:
    if kind != "flat":
        require_extra("index", f"An index of kind {kind}")


def _serialized(index: Any) -> bytes | np.ndarray:
    if isinstance(index, FlatIndex):
        return index.to_bytes()
    import faiss

    serialized: np.ndarray = faiss.serialize_index(index)
    return serialized


def _empty(kind: str, parameters: Mapping[str, int], dim: int, seed: int) -> Any:
    import faiss

    index: Any
    if kind == "flat":
        index = faiss.IndexFlatL2(dim)
    elif kind == "sq8":
        index = faiss.IndexScalarQuantizer(dim, faiss.ScalarQuantizer.QT_8bit, faiss.METRIC_L2)
    elif kind == "ivfpq":
        index = faiss.IndexIVFPQ(faiss.IndexFlatL2(dim), dim, parameters["nlist"], parameters["m"], _BITS)
        index.nprobe = parameters["nprobe"]
        for clustering in (index.cp, index.pq.cp):
            clustering.seed = seed % 2**31  # an int
            clustering.min_points_per_centroid = 1  # no warnings: fewer vectors per centre only separate them better
    elif kind == "hnsw":
        index = faiss.IndexHNSWFlat(dim, parameters["m"], faiss.METRIC_L2)
        index.hnsw.efConstruction, index.hnsw.efSearch = parameters["ef_construction"], parameters["ef_search"]
        index.hnsw.rng = faiss.RandomGenerator(seed)  # type: ignore[attr-defined]
    else:
        bits = faiss.IndexLSH(dim, dim, False, True)  # not rotated, thresholds at the medians
        index = faiss.IndexRefine(bits, _empty("sq8", {}, dim, seed))
        index.k_factor = parameters["overfetch"]
    return index


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    """Restrict faiss, if installed, to one thread."""
    if not is_installed("faiss"):
        yield
        return
    import faiss

    before = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(1)
    try:
        yield
    finally:
        faiss.omp_set_num_threads(before)
