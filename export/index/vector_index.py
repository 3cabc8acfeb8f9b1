"""faiss indexes over embeddings: made by kind, searched as one. Of kind flat they are made without faiss, too.

All compare by squared Euclidean distance; where the metric is cosine, of vectors of length 1, where it orders alike.

* flat: the vectors as they are; exact.
* sq8: 8 bits a dimension, between its smallest and largest value in the gallery (faiss's ``QT_8bit``); the codes are
  decoded to be compared.
* ivfpq: lists of vectors around ``nlist`` centres, ``nprobe`` of which are searched; in a list, ``m`` bytes a vector
  (Jegou et al., "Product Quantization for Nearest Neighbor Search", TPAMI 2011).
* hnsw: a graph of near vectors, ``m`` links each (Malkov and Yashunin, arXiv:1603.09320); vectors as they are.
* binary: one bit a dimension, below its median in the gallery or not; ``overfetch`` times the neighbours asked for are
  found by Hamming distance and put in order by sq8 codes.
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

# kind -> its options and their defaults; None for those chosen by the number of vectors and dimensions
OPTIONS: dict[str, dict[str, int | None]] = {
    "flat": {},
    "sq8": {},
    "ivfpq": {"nlist": None, "m": None, "nprobe": None},
    "hnsw": {"m": 32, "ef_construction": 200, "ef_search": 64},
    "binary": {"overfetch": 10},
}
_BITS = 8  # of a code of the product quantiser
_VECTORS_A_LIST = 39  # what faiss wants at least to train a centre


@dataclass(frozen=True, eq=False)
class VectorIndex:
    """A trained index with its vectors.

    Attributes:
        kind: one of ``OPTIONS``.
        metric: "cosine" or "euclidean".
        parameters: the options it was made with, those chosen included.
        fixed_bytes: of what does not grow with the vectors, such as centres.
        faiss: the index itself; a ``FlatIndex`` where faiss is not installed.
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
        """What each vector adds to the file, bytes."""
        return float((len(_serialized(self.faiss)) - self.fixed_bytes) / len(self))

    def search(
        self, queries: np.ndarray, k: int, exclude: np.ndarray | None = None, as_for: int | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Find the nearest vectors, ties by lower row.

        Args:
            queries: float ``(Q, D)``.
            k: neighbours of each query, at least 1.
            exclude: int ``(Q,)``, a row that is not to be found for each query, or -1.
            as_for: look at as many candidates as for this many neighbours; None for k. Of ``binary`` only.

        Returns:
            Scores, float32 ``(Q, K)``, and rows, int64 ``(Q, K)``, with K the smaller of k and the number of vectors;
            best first, and -1 where fewer were found. Scores are cosine similarities or Euclidean distances, as far as
            the index knows them; those of no neighbour are NaN.

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
    """Train an index and fill it: the same one for the same vectors, options and seed, on any number of threads.

    Args:
        vectors: float ``(N, D)``.
        kind: one of ``OPTIONS``.
        metric: "cosine" or "euclidean".
        options: of the kind; see :func:`parameters_for`.
        seed: of the centres and the graph.

    Raises:
        OptionError: unknown kind or option, a value that cannot be, or fewer vectors than the kind needs.
        MissingExtraError: the kind needs faiss, and it is not installed.
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
    with _one_thread():  # sums of several threads, and a graph that several build, come out in no fixed order
        index.train(vectors)
        fixed_bytes = len(_serialized(index))
        index.add(vectors)
    return VectorIndex(kind, metric, parameters, fixed_bytes, index)


def milliseconds_per_query(index: VectorIndex, queries: np.ndarray, k: int, runs: int) -> float | None:
    """Return the median time of a search for k neighbours of one query on one thread, in ms; None without runs.

    Args:
        index: what is searched.
        queries: float ``(Q, D)``, taken in turn.
        k: neighbours asked for.
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

    with open(path, "wb") as file:  # faiss itself opens files of Unicode names only
        faiss.write_index(index.faiss, faiss.PyCallbackIOWriter(file.write))  # type: ignore[attr-defined]


def read_index(path: Path, kind: str, metric: str, parameters: dict[str, int], fixed_bytes: int) -> VectorIndex:
    """Read the faiss file of an index; the rest is what was known when it was written.

    Raises:
        ModelError: the file is missing or broken.
        MissingExtraError: the kind needs faiss, and it is not installed.
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
    # faiss's own and ours, and what sizes in a broken file lead to
    except (OSError, RuntimeError, MemoryError, ValueError) as error:
        raise ModelError(f"{path} is missing, or is not an index that {reader} reads. Build it again.") from error


def parameters_for(kind: str, options: Mapping[str, Any] | None, count: int, dim: int) -> dict[str, int]:
    """Return all options of a kind of index, chosen where they are not given.

    Of ivfpq, 4 sqrt(N) lists, but no more than have 39 vectors each, as faiss advises; a sixteenth of the lists are
    searched, 8 at least; and a byte for every two dimensions, the smallest number of bytes that divides them.

    Args:
        kind: one of ``OPTIONS``.
        options: those given; None, or a value of None, for those to be chosen.
        count: how many vectors there will be.
        dim: their dimensions.

    Raises:
        OptionError: unknown kind or option, a value that cannot be, or fewer vectors than the kind needs.
        MissingExtraError: the kind needs faiss, and it is not installed.
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
            clustering.min_points_per_centroid = 1  # no warnings: fewer vectors than faiss likes are told apart better
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
    """Have faiss, where it is installed, work on one thread."""
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
