"""Vectors in the format that a page reads: rows of floats, or of bytes with an offset and a step per dimension."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from zoo.errors import DataError
from zoo.retrieval.nearest import comparable

KINDS = ("flat", "sq8")
_STEPS = 255


@dataclass(frozen=True, eq=False)
class Packed:
    """Vectors in a file.

    Attributes:
        kind: "flat" or "sq8".
        content: the vectors, row by row: little-endian float32, or uint8.
        offset: D values; None for flat.
        scale: D values; None for flat. A code c stands for ``offset + scale * c``.
    """

    kind: str
    content: bytes
    offset: list[float] | None = None
    scale: list[float] | None = None


def pack(vectors: np.ndarray, kind: str, metric: str) -> Packed:
    """Pack vectors.

    sq8 is faiss's ``QT_8bit``: the range of each dimension is divided into 255 steps. A code is the number of a value's
    step and stands for the middle of that step.

    Args:
        vectors: float ``(N, D)``.
        kind: one of ``KINDS``.
        metric: "cosine", which normalises them to length 1, or "euclidean".

    Raises:
        DataError: no vectors, or vectors that are not finite.
    """
    if not len(vectors):
        raise DataError("A page needs at least one image in its gallery.")
    vectors = comparable(vectors, metric)
    if kind == "flat":
        return Packed(kind, vectors.astype("<f4").tobytes())
    least = vectors.min(axis=0)
    span = vectors.max(axis=0) - least
    shares = (vectors - least) / np.where(span > 0, span, 1)
    codes = np.clip((shares * _STEPS).astype(np.int64), 0, _STEPS).astype(np.uint8)
    step = span.astype(np.float64) / _STEPS
    return Packed(kind, codes.tobytes(), (least + step / 2).tolist(), step.tolist())
