"""Continuous labels: labels with a distance between any two, such as poses, places or captions, instead of classes."""

from __future__ import annotations

import copy
import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from zoo.errors import DataError, require_known
from zoo.retrieval.nearest import nearest, squared_distances

LABEL_METRICS = ("euclidean", "cosine")
_CHUNK_NUMBERS = 1 << 22
_TOLERANCE = 1e-6  # for asymmetry and a non-zero diagonal, as a fraction of the largest distance
_BLOCK = 256  # the most labels that a distance function gets on each side
_SPOT_CHECKS = 16


class ContinuousLabels(ABC):
    """The labels of a set's images, one each, described by the distances between them.

    Rows are indices of images, 0..N-1. Distances are finite, 0 or more, symmetric, and 0 from a label to itself.

    Attributes:
        description: description of the distance, for reports.
    """

    description: str

    def __init__(self, count: int) -> None:
        self._rows = np.arange(count)  # position of each image's label in the original labels
        self._origin = object()  # the same in all subsets

    def __len__(self) -> int:
        return len(self._rows)

    def subset(self, rows: np.ndarray) -> ContinuousLabels:
        """Return the labels of these images, in this order, sharing the underlying data."""
        part = copy.copy(self)
        part._rows = self._rows[rows]
        return part

    def followed_by(self, others: ContinuousLabels) -> ContinuousLabels:
        """Return these labels and then others, which are subsets of the same labels, or vectors as these are.

        Raises:
            DataError: the distances between the two are unknown.
        """
        if self._origin is not others._origin:
            raise DataError(
                f"Distances between the continuous labels of two parts are unknown ({self.description} and "
                f"{others.description}). Give both vectors of one length and metric, or subsets of the same labels."
            )
        both = copy.copy(self)
        both._rows = np.concatenate([self._rows, others._rows])
        return both

    def distances(self, rows: np.ndarray, others: np.ndarray) -> np.ndarray:
        """Return the distances between each of ``rows`` (A,) and each of ``others`` (B,), float64 ``(A, B)``."""
        return self._between(self._rows[rows], self._rows[others])

    def distances_to(self, rows: np.ndarray, found: np.ndarray) -> np.ndarray:
        """Return the distances between each of ``rows`` (A,) and its images ``found`` (A, C), float64 ``(A, C)``."""
        distances = np.empty(found.shape)
        for place, (row, those) in enumerate(zip(self._rows[rows], self._rows[found], strict=True)):
            distances[place] = self._between(row[None], those)[0]
        return distances

    def nearest(self, rows: np.ndarray, among: np.ndarray, k: int, exclude: np.ndarray | None = None) -> np.ndarray:
        """Find the k images of ``among`` with the nearest labels; ties go to the lower position, as in zoo.retrieval.

        Args:
            rows: int ``(A,)``.
            among: int ``(B,)``.
            k: at least 1.
            exclude: int ``(A,)``, the position in ``among`` to exclude for each row, or -1.

        Returns:
            int64 ``(A, k)``, positions in ``among``, nearest first; -1 if there are fewer.
        """
        result = np.full((len(rows), k), -1, dtype=np.int64)
        step = max(1, _CHUNK_NUMBERS // max(len(among), 1))
        for start in range(0, len(rows), step):
            part = slice(start, start + step)
            distances = self.distances(rows[part], among)
            if exclude is not None:
                excluded = np.flatnonzero(exclude[part] >= 0)
                distances[excluded, exclude[part][excluded]] = np.inf
            order = np.argsort(distances, axis=1, kind="stable")[:, :k]
            there = np.isfinite(np.take_along_axis(distances, order, axis=1))
            result[part, : order.shape[1]] = np.where(there, order, -1)
        return result

    @property
    def digest(self) -> str:
        """Return 16 hexadecimal digits that change if a label or the distance changes."""
        hashed = hashlib.sha256(self.description.encode())
        for numbers in self._content():
            hashed.update(np.ascontiguousarray(numbers).tobytes())
        return hashed.hexdigest()[:16]

    @abstractmethod
    def _between(self, rows: np.ndarray, others: np.ndarray) -> np.ndarray:
        """Return the same as ``distances``, for positions in the original labels."""

    @abstractmethod
    def _content(self) -> Iterator[np.ndarray]:
        """Yield numbers that identify these labels."""


class VectorLabels(ContinuousLabels):
    """A vector for each image.

    Args:
        vectors: float ``(N, L)``, or ``(N,)`` for one number each.
        metric: "euclidean", or "cosine" for 1 - cos, which lies in [0, 2].
        names: how messages name each row; empty for its number.

    Raises:
        DataError: there are no vectors, one is not finite, or, with cosine, one has length 0.
        OptionError: the metric is unknown.
    """

    def __init__(self, vectors: np.ndarray, metric: str = "euclidean", names: Sequence[str] = ()) -> None:
        require_known("label metric", metric, LABEL_METRICS)
        given = np.asarray(vectors)
        if given.ndim not in (1, 2) or not given.size or given.dtype.kind not in "biuf":
            raise DataError(
                f"Continuous labels must be numbers (N, L), found shape {given.shape} of {given.dtype}. "
                "Give a row of numbers for each image."
            )
        self._vectors = np.ascontiguousarray(given.reshape(len(given), -1), dtype=np.float64)
        super().__init__(len(self._vectors))
        with np.errstate(over="ignore"):
            squares = np.einsum("nl,nl->n", self._vectors, self._vectors)
        self._require(np.isfinite(4 * squares), names, "is not finite. Fix it, or leave the image out.")
        self.metric = metric
        if metric == "cosine":
            # Half the squared distance of unit vectors is 1 - cos, with less rounding error near 0.
            self._require(squares > 0, names, "is zero, which has no direction. Leave it out, or compare by euclidean.")
            self._vectors = self._vectors / np.sqrt(squares)[:, None]
        length = self._vectors.shape[1]
        self.description = f"{metric} distance of {length} {'number' if length == 1 else 'numbers'}"

    def followed_by(self, others: ContinuousLabels) -> ContinuousLabels:
        if not isinstance(others, VectorLabels) or self.description != others.description:
            return super().followed_by(others)
        both = copy.copy(self)
        both._vectors = np.concatenate([self._vectors[self._rows], others._vectors[others._rows]])
        both._rows, both._origin = np.arange(len(both._vectors)), object()
        return both

    @staticmethod
    def _require(right: np.ndarray, names: Sequence[str], what: str) -> None:
        if not right.all():
            raise DataError(f"{_named(names, int(np.argmin(right)))} {what}")

    def distances_to(self, rows: np.ndarray, found: np.ndarray) -> np.ndarray:
        return self._to_each(self._rows[rows], self._vectors, self._rows[found])

    def nearest(self, rows: np.ndarray, among: np.ndarray, k: int, exclude: np.ndarray | None = None) -> np.ndarray:
        result = np.full((len(rows), k), -1, dtype=np.int64)
        queries, gallery = self._vectors[self._rows[rows]], self._vectors[self._rows[among]]
        found = nearest(queries, gallery, min(k, len(among)), exclude)
        result[:, : found.shape[1]] = found
        return result

    def _between(self, rows: np.ndarray, others: np.ndarray) -> np.ndarray:
        every = np.broadcast_to(np.arange(len(others)), (len(rows), len(others)))
        return self._to_each(rows, self._vectors[others], every)

    def _to_each(self, rows: np.ndarray, vectors: np.ndarray, found: np.ndarray) -> np.ndarray:
        distances = np.empty(found.shape)
        step = max(1, _CHUNK_NUMBERS // max(found.shape[1] * vectors.shape[1], 1))
        for start in range(0, len(rows), step):
            part = slice(start, start + step)
            distances[part] = squared_distances(self._vectors[rows[part]], vectors, found[part])
        if self.metric == "cosine":
            distances /= 2
            return distances
        return np.sqrt(distances, out=distances)

    def _content(self) -> Iterator[np.ndarray]:
        yield self._vectors[self._rows]


class MatrixLabels(ContinuousLabels):
    """Labels given by their precomputed distances.

    Args:
        matrix: float ``(N, N)``, symmetric, with a diagonal of zeros; not copied.
        names: how messages name each row; empty for its number.

    Raises:
        DataError: the matrix is not square or not symmetric, or a distance is not finite, negative, or not 0 on the
            diagonal.
    """

    description = "given distances"

    def __init__(self, matrix: np.ndarray, names: Sequence[str] = ()) -> None:
        matrix = np.asarray(matrix)
        if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1] or not matrix.size or matrix.dtype.kind not in "biuf":
            raise DataError(f"Label distances must be numbers (N, N), found shape {matrix.shape} of {matrix.dtype}.")
        matrix = matrix if matrix.dtype.kind == "f" else matrix.astype(np.float64)
        _require_distances(matrix, names)
        self._matrix = matrix
        super().__init__(len(matrix))

    def distances_to(self, rows: np.ndarray, found: np.ndarray) -> np.ndarray:
        distances: np.ndarray = self._matrix[self._rows[rows][:, None], self._rows[found]]
        return distances.astype(np.float64)

    def _between(self, rows: np.ndarray, others: np.ndarray) -> np.ndarray:
        return self._matrix[np.ix_(rows, others)].astype(np.float64)

    def _content(self) -> Iterator[np.ndarray]:
        for row in self._rows:
            yield self._matrix[row, self._rows]


class FunctionLabels(ContinuousLabels):
    """Labels of any kind and a function that returns their distances; for use from Python.

    Distances are computed each time they are needed. If the function is slow, compute them once:
    ``MatrixLabels(labels.distances(rows, rows))`` with ``rows = np.arange(len(labels))``.

    Args:
        labels: N labels; the function gets parts of an array as arrays, others as lists.
        distance: takes A labels and B labels, at most 256 each, and returns their distances, ``(A, B)``.

    Raises:
        DataError: there are no labels, or the function returns invalid distances: checked here on some labels, and
            whenever it is used.
    """

    description = "distance function"

    def __init__(self, labels: Sequence[Any] | np.ndarray, distance: Callable[[Any, Any], np.ndarray]) -> None:
        if not len(labels):
            raise DataError("No continuous labels were given; there must be one for each image.")
        self._labels = labels
        self._distance = distance
        super().__init__(len(labels))
        some = self._spots()
        _require_distances(self._between(some, some), [f"label {row}" for row in some])

    def _between(self, rows: np.ndarray, others: np.ndarray) -> np.ndarray:
        distances = np.empty((len(rows), len(others)))
        for top in range(0, len(rows), _BLOCK):
            for left in range(0, len(others), _BLOCK):
                block = distances[top : top + _BLOCK, left : left + _BLOCK]
                a, b = rows[top : top + _BLOCK], others[left : left + _BLOCK]
                found = np.asarray(self._distance(self._of(a), self._of(b)), dtype=np.float64)
                if found.shape != block.shape:
                    raise DataError(
                        f"The distance function gave shape {found.shape} for {len(a)} and {len(b)} labels; "
                        f"it must give {block.shape}."
                    )
                wrong = ~(np.isfinite(found) & (found >= 0))
                if wrong.any():
                    i, j = np.argwhere(wrong)[0]
                    raise DataError(
                        f"The distance function gave {found[i, j]} for label {a[i]} and label {b[j]}; distances are "
                        "finite and 0 or more."
                    )
                block[:] = found
        return distances

    def _of(self, rows: np.ndarray) -> Any:
        return self._labels[rows] if isinstance(self._labels, np.ndarray) else [self._labels[row] for row in rows]

    def _spots(self) -> np.ndarray:
        """Return up to 16 of the rows, evenly spaced."""
        return self._rows[np.unique(np.linspace(0, len(self), _SPOT_CHECKS, endpoint=False).astype(int))[: len(self)]]

    def _content(self) -> Iterator[np.ndarray]:
        # Labels of any kind cannot be hashed; the distances of all from some are enough.
        yield self._between(self._spots(), self._rows)


def _require_distances(matrix: np.ndarray, names: Sequence[str]) -> None:
    """Raise a DataError that names two rows unless all are valid distances; checks in bounded memory."""
    remedy = "Distances are finite, 0 or more, the same both ways, and 0 from a label to itself."
    largest = float(np.fmax.reduce(matrix, axis=None))
    step = max(1, _CHUNK_NUMBERS // len(matrix))
    for start in range(0, len(matrix), step):
        block, across = matrix[start : start + step], matrix[:, start : start + step].T
        with np.errstate(invalid="ignore"):
            wrong = ~((block >= 0) & (abs(block - across) <= _TOLERANCE * largest)) | ~np.isfinite(block)
        own = np.arange(start, start + len(block))
        wrong[own - start, own] |= block[own - start, own] > _TOLERANCE * largest
        if wrong.any():
            i, j = np.argwhere(wrong)[0]
            raise DataError(
                f"The distance from {_named(names, int(start + i))} to {_named(names, int(j))} is {block[i, j]}, and "
                f"{across[i, j]} the other way. {remedy}"
            )


def _named(names: Sequence[str], row: int) -> str:
    return names[row] if names else f"Label {row}"
