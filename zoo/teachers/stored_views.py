"""Stored embeddings of a fixed number of views of each image: computed once, then read from a file."""

from __future__ import annotations

import hashlib
import json
import logging
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from zoo.data.image_set import ImageSet
from zoo.errors import OptionError
from zoo.files import replacing, require_writable, reserve
from zoo.formats.arrays import read_header
from zoo.paths import given_path
from zoo.teachers.base import Teacher

log = logging.getLogger(__name__)


class StoredViews:
    """Embeddings of views, by image and number of the view, in a memory-mapped file.

    A resumed run reuses earlier embeddings; so does another student of the same teacher that sees the same views. Each
    row has a checksum: rows that were written incompletely or have changed are embedded again.

    Args:
        folder: where the file is kept; it takes ``4 * (D + 1)`` bytes per view, reserved at once.
        teacher: the teacher to embed with.
        images: the training images.
        views: number of views of each image.
        dim: the teacher's dimensions D.
        made_by: everything besides the teacher's weights that the views and their embeddings depend on, such as the
            digest of the data, augmentation, size, seed and precision, ready for JSON.

    Raises:
        OptionError: the folder cannot be written to, or the disk has too little room.
    """

    def __init__(
        self, folder: str | Path, teacher: Teacher, images: ImageSet, views: int, dim: int, made_by: dict[str, Any]
    ) -> None:
        require_writable(folder)
        self.teacher, self.images = teacher, images
        shape = (len(images), views, dim)
        key = hashlib.sha256(json.dumps([teacher.digest, list(images.ids), shape, made_by], sort_keys=True).encode())
        stem = given_path(folder) / f"views-{key.hexdigest()[:32]}"
        self._vectors = _opened(stem.with_suffix(".npy"), shape, np.dtype(np.float32))
        self._checksums = _opened(stem.with_suffix(".crc.npy"), shape[:2], np.dtype(np.uint32))
        known = int((self._checksums != 0).sum())
        log.info(
            "%s: %d views of %d images in %.1f MB, %d of them embedded before",
            stem.with_suffix(".npy"),
            views,
            len(images),
            (self._vectors.nbytes + self._checksums.nbytes) / 1e6,
            known,
        )

    def embed(self, views: Tensor, indices: Tensor, numbers: Tensor) -> Tensor:
        """Return the teacher's embeddings of views; only those not stored are computed.

        Args:
            views: uint8 ``(N, 3, H, W)``.
            indices: int64 ``(N,)``, the image that each view shows.
            numbers: int64 ``(N,)``, the number of the view, from 0.

        Returns:
            float32 ``(N, D)``.
        """
        rows, which = indices.cpu().numpy(), numbers.cpu().numpy()
        found = np.asarray(self._vectors[rows, which])
        missing = np.flatnonzero(_checksums_of(found) != self._checksums[rows, which])
        if len(missing):
            chosen = torch.from_numpy(missing).to(views.device)
            embedded = self.teacher.embed_views(views[chosen], indices[chosen], self.images).cpu().numpy()
            found[missing] = embedded
            self._vectors[rows[missing], which[missing]] = embedded
            self._checksums[rows[missing], which[missing]] = _checksums_of(embedded)  # written after the vectors
        return torch.from_numpy(found).to(views.device)


def _checksums_of(rows: np.ndarray) -> np.ndarray:
    """Return the CRC-32 of each row, uint32 ``(N,)``; never 0, which marks a row that was not written."""
    return np.array([zlib.crc32(row.tobytes()) or 1 for row in rows], dtype=np.uint32)


def _opened(file: Path, shape: tuple[int, ...], dtype: np.dtype[Any]) -> np.ndarray:
    """Return the array in a file, memory-mapped for reading and writing; create it with zeros if needed."""
    if file.is_file():
        try:
            with file.open("rb") as opened:
                held, by_columns, kind = read_header(opened)
                start = opened.tell()
            if (held, kind, by_columns) != (shape, dtype, False):
                raise ValueError(f"it has {kind} {held}")
            if file.stat().st_size != start + dtype.itemsize * int(np.prod(shape)):
                raise ValueError("it was cut off")
            return np.lib.format.open_memmap(file, mode="r+")
        except (OSError, ValueError) as error:
            log.warning("%s cannot be used (%s); embedding its views again", file, error)
    size = dtype.itemsize * int(np.prod(shape))
    try:
        with replacing(file) as temporary, temporary.open("r+b") as opened:
            said = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
            np.lib.format.write_array_header_1_0(opened, said)
            opened.flush()
            reserve(opened.fileno(), opened.tell() + size)
    except OSError as error:
        raise OptionError(
            f"{file.parent} has no room for {size / 1e6:,.0f} MB of the teacher's embeddings "
            f"({error.strerror or error}). Set fewer teacher_views, or set teacher_cache to a folder with more room."
        ) from error
    return np.lib.format.open_memmap(file, mode="r+")
