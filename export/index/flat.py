"""The flat index in numpy, for devices without faiss: exact search, and faiss's own file format.

The file is what ``faiss.write_index`` writes for an ``IndexFlatL2`` (faiss/impl/index_write.cpp): the letters ``IxF2``,
the dimensions, the number of vectors, two unread fields, whether it is trained, the metric, and the vectors.
"""

from __future__ import annotations

import struct

import numpy as np

from zoo.retrieval.nearest import nearest, squared_distances

_HEADER = struct.Struct("<4siqqq?iQ")
_UNREAD = 1 << 20  # written twice, in fields that only older versions of faiss used
_L2 = 1


class FlatIndex:
    """Uncompressed vectors, searched by squared Euclidean distance; members are named as in ``faiss.IndexFlatL2``.

    Attributes:
        vectors: float32 ``(N, D)``.
    """

    def __init__(self, vectors: np.ndarray) -> None:
        self.vectors = vectors

    @property
    def ntotal(self) -> int:
        """Number of vectors."""
        return len(self.vectors)

    @property
    def d(self) -> int:
        """Dimensions of the vectors."""
        return int(self.vectors.shape[1])

    def search(self, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """Return squared distances, float32, and rows, int64, of each query's k nearest vectors, both ``(Q, k)``."""
        rows = nearest(queries, self.vectors, k)
        return squared_distances(queries, self.vectors, rows).astype(np.float32), rows

    def to_bytes(self) -> bytes:
        """Return the content of the file."""
        head = (b"IxF2", self.d, self.ntotal, _UNREAD, _UNREAD, True, _L2, self.vectors.size)
        return _HEADER.pack(*head) + self.vectors.astype("<f4").tobytes()

    @classmethod
    def of_bytes(cls, content: bytes) -> FlatIndex:
        """Read the content of a file.

        Raises:
            ValueError: it is another kind of index, or broken.
        """
        if len(content) < _HEADER.size:
            raise ValueError("it is too short")
        letters, dim, count, _, _, _, metric, size = _HEADER.unpack_from(content)
        whole = dim > 0 and count >= 0 and size == dim * count and len(content) == _HEADER.size + 4 * size
        if letters != b"IxF2" or metric != _L2 or not whole:
            raise ValueError("it is no whole flat index of Euclidean distances")
        return cls(np.frombuffer(content, "<f4", offset=_HEADER.size).reshape(count, dim).astype(np.float32))
