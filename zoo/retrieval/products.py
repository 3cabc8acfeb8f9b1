"""Candidates for nearest neighbours by matrix products, in bfloat16 if the processor supports it, with a proven bound.

With queries q and gallery vectors g, centred and scaled, the product of (q, 1, -|q|^2 / 2) and (g, -|g|^2 / 2, 1) is
-|q - g|^2 / 2: the nearer g, the closer it is to 0, and the smaller its rounding error. A product p of rounded vectors
differs from it by at most

    E(q, g) = |q| r_g + r_q |g'| + 2^-23 (D + 6) (|q| |g| + |q|^2 / 2 + |g|^2 / 2)   and   u |p|,

with g' the rounded g, r the norms of the rounding residuals (Cauchy-Schwarz; the last term of E is the largest error of
any order of summation in float32), and u the rounding of p itself. If all candidates have a p of at least s, any other
vector with |g| <= R has a squared distance of at least -2 (s + u |s| + E(q, R)), and any with |g| > R of (R - |q|)^2.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from zoo.progress import progress
from zoo.versions import has_bfloat16

_GROUP = 16  # columns are inspected only if the maximum of their group is large enough
_PARTS = 3  # numbers that hold half a squared norm: three of bfloat16's 8 bits lose 2^-27 of it
_QUERIES, _COLUMNS = 4096, 8192  # largest size of a product; larger ones are no faster
_STEPS = (2, 6, 20)  # queries are batched by their number of promising groups, up to these
_FAR = 3.0  # times the median norm
_CACHED = 4 << 20  # bytes that stay in the cache
_TINY = 1e-30  # bfloat16 instructions flush smaller numbers to 0
_ROUNDING = {torch.bfloat16: 2.0**-8, torch.float32: 2.0**-23}


@dataclass(frozen=True)
class _Side:
    """Vectors as one side of the product, with the norms that bound its error."""

    vectors: Tensor  # (N, D + 6)
    norms: Tensor  # float32 (N,), before rounding
    residuals: Tensor  # float32 (N,), norms of the rounding residuals


class Products:
    """Finds candidates among the rows of a gallery, a part of it at a time.

    Args:
        gallery: float32 or float64 ``(G, D)``; may be memory-mapped.
        centre: ``(D,)``, subtracted from all vectors.
        scale: a power of two that scales centred coordinates of gallery and queries into [-2, 2].
        memory: bytes of working memory.
        rounded: use bfloat16 if the processor supports it; else float32.
    """

    def __init__(self, gallery: np.ndarray, centre: np.ndarray, scale: float, memory: int, rounded: bool) -> None:
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.dtype = torch.bfloat16 if rounded and self.device.type == "cpu" and has_bfloat16() else torch.float32
        self.gallery, self.centre, self.scale, self.memory = gallery, centre, scale, memory
        row_bytes = gallery.shape[1] * (gallery.itemsize + 8) + 64
        self.columns = min(_multiple(memory // 4 // row_bytes), _multiple(len(gallery) + _GROUP - 1), _COLUMNS)
        self.norms = torch.empty(len(gallery), device=self.device)
        self.residuals = torch.empty(len(gallery), device=self.device)
        keep = len(gallery) * (gallery.shape[1] + 2 * _PARTS) * self.dtype.itemsize <= memory // 2
        self.sides: Tensor | None = None
        if keep:
            self.sides = torch.empty(len(gallery), gallery.shape[1] + 2 * _PARTS, dtype=self.dtype, device=self.device)
        for start in range(0, len(gallery), self.columns):
            side = self._side(gallery[start : start + self.columns])
            part = slice(start, start + self.columns)
            self.norms[part], self.residuals[part] = side.norms, side.residuals
            if self.sides is not None:
                self.sides[part] = side.vectors
        # A few distant vectors would make the bound useless for all others.
        self.radius = _FAR * float(self.norms.median())
        ordinary = self.norms <= self.radius
        self.longest = float(self.norms[ordinary].max())
        self.roughest = float(self.residuals[ordinary].max())

    def queries_at_once(self, count: int) -> int:
        """Return how many queries, with ``count`` candidates each, fit into the memory."""
        quarter = self.memory // 4
        value = self.dtype.itemsize
        each = max(self.columns * value, count * _GROUP * (value + 8), self.gallery.shape[1] * 16)
        return max(1, min(_QUERIES, quarter // each))

    def find(self, queries: np.ndarray, k: int, count: int, exclude: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Find the rows that can be among the k nearest, and a lower bound for the distance of all others.

        Args:
            queries: float32 or float64 ``(Q, D)``.
            k: number of neighbours wanted.
            count: number of candidates, at least k and below G.
            exclude: int64 ``(Q,)``, the gallery row to exclude for each query, or -1.

        Returns:
            int64 ``(Q, count)`` rows, -1 for rows that cannot be among the k nearest; and float64 ``(Q,)``, a lower
            bound of the squared distance of all rows that are not candidates, infinite if there are none.
        """
        side = self._side(queries)
        left = _as_left(side.vectors)
        own = torch.from_numpy(exclude).to(self.device)
        best = _Best.none(len(queries), count, self.dtype, self.device)
        room = torch.empty(len(queries), self.columns, dtype=self.dtype, device=self.device)
        for start in range(0, len(self.gallery), self.columns):
            products = self._products(left, start, start + self.columns, room)
            _leave_out(products, own, start)
            best.see(products, _maxima(products), start)
        return self._possible(best, side, k)

    def serves_both_ways(self, count: int) -> bool:
        """Return whether the candidates of all gallery rows fit into the memory; ``find_in_gallery`` needs that."""
        return len(self.gallery) * count * (8 + self.dtype.itemsize) <= self.memory // 4

    def find_in_gallery(
        self, k: int, count: int, exclude: np.ndarray
    ) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """Do the same as ``find`` for the gallery's own rows with half the products: each serves a row and a column.

        Args:
            k: number of neighbours wanted.
            count: number of candidates, at least k and below G.
            exclude: int64 ``(G,)``, each row's own number, or -1.

        Yields:
            The rows of some queries, and what ``find`` returns for them.
        """
        best = _Best.none(len(self.gallery), count, self.dtype, self.device)
        own = torch.from_numpy(exclude).to(self.device)
        step = _multiple(self.queries_at_once(count))
        room = torch.empty(step, self.columns, dtype=self.dtype, device=self.device)
        for first in progress(range(0, len(self.gallery), step), "searching", shown=len(self.gallery) > step):
            block = slice(first, min(first + step, len(self.gallery)))
            side = self._side(self.gallery[block])
            left = _as_left(side.vectors)
            of_rows = best.part(block)
            for start in range(first, len(self.gallery), self.columns):
                products = self._products(left, start, start + self.columns, room[: len(left)])
                beside = min(max(block.stop - start, 0), products.shape[1])  # columns that are also rows of the block
                _leave_out(products, own[block], start)
                of_rows.see(products, _maxima(products), start)
                later = products[:, beside:].T
                columns = slice(start + beside, start + products.shape[1])
                if len(later):
                    best.part(columns).see(later, _maxima_of_columns(products[:, beside:]), first)
            yield np.arange(block.start, block.stop), *self._possible(of_rows, side, k)

    def _products(self, left: Tensor, start: int, stop: int, room: Tensor) -> Tensor:
        """Return the products of all rows of ``left`` with a part of the gallery, summed in float32."""
        right = self._side(self.gallery[start:stop]).vectors if self.sides is None else self.sides[start:stop]
        products = room[:, : len(right)]
        precision = torch.get_float32_matmul_precision()
        torch.set_float32_matmul_precision("highest")
        try:
            return torch.mm(left, right.T, out=products)
        finally:
            torch.set_float32_matmul_precision(precision)

    def _possible(self, best: _Best, side: _Side, k: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the rows that can be among the k nearest, and the lower bound for the distance of all others."""
        values, none = best.values.double(), best.values.isinf()
        norms, residuals = side.norms.double()[:, None], side.residuals.double()[:, None]
        rounding = _ROUNDING[self.dtype] * values.abs()
        of_rows = best.rows.clamp(min=0)
        error = self._error(norms, residuals, self.norms[of_rows].double(), self.residuals[of_rows].double())
        surely = (values - rounding - error).topk(k, dim=1).values[:, -1:]
        rows = best.rows.masked_fill(none | (values + rounding + error < surely), -1)
        error = self._error(norms, residuals, self.longest, self.roughest)
        near = -2 * (values + rounding + error)[:, -1]
        far = (0.995 * self.radius - 1.005 * norms[:, 0]).clamp(min=0).square()  # norms err a little
        floor = torch.where(none[:, -1], torch.inf, torch.minimum(near, far) * self.scale**2)
        return rows.cpu().numpy(), floor.cpu().numpy()

    def _error(
        self, norms: Tensor, residuals: Tensor, others: Tensor | float, their_residuals: Tensor | float
    ) -> Tensor:
        """Return E of the module's docstring, enlarged a little because norms are taken before rounding."""
        summed = norms * others + (norms.square() + others**2) / 2
        terms = self.gallery.shape[1] + 2 * _PARTS
        return 1.005 * (norms * their_residuals + residuals * others + 2.0**-23 * terms * summed + _TINY)

    def _side(self, vectors: np.ndarray) -> _Side:
        """Return vectors as the right side of the product: (g, -|g|^2 / 2 in parts, ones)."""
        exact = torch.from_numpy(((vectors - self.centre) / self.scale).astype(np.float32, copy=False)).to(self.device)
        side = torch.ones(len(exact), exact.shape[1] + 2 * _PARTS, dtype=self.dtype, device=self.device)
        side[:, : exact.shape[1]] = exact
        half = exact.square().sum(dim=1) / 2
        norms = (2 * half).sqrt()
        for part in range(_PARTS):
            side[:, exact.shape[1] + part] = -half
            half += side[:, exact.shape[1] + part]
        exact -= side[:, : exact.shape[1]]
        return _Side(side, norms, torch.linalg.vector_norm(exact, dim=1))


def pair_distances(
    queries: np.ndarray, gallery: np.ndarray, pairs: tuple[np.ndarray, np.ndarray], scale: float, memory: int
) -> np.ndarray:
    """Return float64 ``(P,)`` squared distances of pairs of rows, accurate to a relative error of (D + 4) 2^-24.

    Args:
        queries: float32 ``(Q, D)``.
        gallery: float32 ``(G, D)``.
        pairs: int64 ``(P,)`` rows of the queries, and ``(P,)`` rows of the gallery.
        scale: a power of two that scales centred coordinates into [-2, 2].
        memory: bytes of working memory.
    """
    distances = np.empty(len(pairs[0]))
    step = max(1, min(memory // 4, _CACHED) // (8 * max(queries.shape[1], 1)))
    left, right = (_tensor(side) for side in (queries, gallery))
    for start in range(0, len(distances), step):
        one, other = (torch.from_numpy(rows[start : start + step]) for rows in pairs)
        difference = right.index_select(0, other).sub_(left.index_select(0, one)).div_(scale)
        distances[start : start + step] = torch.linalg.vecdot(difference, difference).numpy()
    return distances * scale**2


def _tensor(array: np.ndarray) -> Tensor:
    """Return a read-only array as a tensor, without a copy and without torch's warning about it."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        return torch.from_numpy(np.asarray(array))


@dataclass
class _Best:
    """The largest products of each query so far, in descending order, and their gallery rows."""

    values: Tensor  # (Q, C)
    rows: Tensor  # int64 (Q, C)

    @staticmethod
    def none(queries: int, count: int, dtype: torch.dtype, device: torch.device) -> _Best:
        """Return the state before any product: -inf for row -1."""
        shape = (queries, count)
        return _Best(
            torch.full(shape, -torch.inf, dtype=dtype, device=device),
            torch.full(shape, -1, dtype=torch.int64, device=device),
        )

    def part(self, queries: slice) -> _Best:
        """Return a view for some queries, which can be changed in place."""
        return _Best(self.values[queries], self.rows[queries])

    def see(self, products: Tensor, maxima: Tensor, start: int) -> None:
        """Merge in the products of more gallery rows.

        The largest products are in the groups with the largest maxima, so only these groups are inspected, and only if
        they exceed the smallest of the best so far.

        Args:
            products: ``(Q, R)``.
            maxima: maxima of each query's groups of products; see :func:`_maxima`.
            start: number of the first of these rows.
        """
        groups = maxima.shape[1]
        promising = (maxima > self.values[:, -1:]).sum(dim=1)
        least = 0
        for most in sorted({*_STEPS, groups}):  # batch queries that have similarly many promising groups
            queries = ((promising > least) & (promising <= most)).nonzero()[:, 0]
            least = most
            if len(queries):
                chosen = maxima[queries].topk(min(most, groups, self.values.shape[1]), dim=1, sorted=False).indices
                self._merge(products, queries, chosen, torch.arange(_GROUP, device=maxima.device) * groups, start)
        rest = torch.arange(groups * _GROUP, products.shape[1], device=maxima.device)
        if len(rest):
            everyone = torch.arange(len(products), device=maxima.device)
            self._merge(products, everyone, rest.expand(len(products), -1), rest[:1] * 0, start)

    def _merge(self, products: Tensor, queries: Tensor, columns: Tensor, steps: Tensor, start: int) -> None:
        """Merge in some queries' products: ``(Q,)`` queries, ``(Q, R)`` columns plus each of ``(S,)`` steps."""
        columns = (columns[:, :, None] + steps).flatten(1)
        values = torch.cat([self.values[queries], products[queries[:, None], columns]], dim=1)
        rows = torch.cat([self.rows[queries], columns + start], dim=1)
        greatest, place = values.topk(self.values.shape[1], dim=1)
        self.values[queries] = greatest
        self.rows[queries] = rows.gather(1, place)


def _leave_out(products: Tensor, own: Tensor, start: int) -> None:
    """Exclude each query's own row if it is among the columns, which begin with row ``start``."""
    here = ((own >= start) & (own < start + products.shape[1])).nonzero()[:, 0]
    products[here, own[here] - start] = -torch.inf


def _as_left(vectors: Tensor) -> Tensor:
    """Convert vectors from the right side of the product to the left side: half squares and ones change places."""
    given, halves, ones = vectors.split((vectors.shape[1] - 2 * _PARTS, _PARTS, _PARTS), dim=1)
    return torch.cat([given, ones, halves], dim=1)


def _maxima(products: Tensor) -> Tensor:
    """Return ``(Q, R // 16)`` maxima of groups of columns: group i is i, i + R // 16, i + 2 (R // 16) and so on."""
    groups = products.shape[1] // _GROUP
    return products[:, : groups * _GROUP].unflatten(1, (_GROUP, groups)).amax(dim=1)


def _maxima_of_columns(products: Tensor) -> Tensor:
    """Return ``_maxima`` of the transpose, read in memory order."""
    groups = products.shape[0] // _GROUP
    return products[: groups * _GROUP].unflatten(0, (_GROUP, groups)).amax(dim=0).T.contiguous()


def _multiple(number: int) -> int:
    """Round a number down to whole groups, at least one."""
    return max(_GROUP, number // _GROUP * _GROUP)
