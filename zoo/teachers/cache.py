"""A teacher whose embeddings of views are kept on disk, so that a second student does not wait for them again."""

from __future__ import annotations

import hashlib
import io
import logging
import math
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from zoo.data.image_set import ImageSet
from zoo.files import replacing, require_writable
from zoo.formats.arrays import read_header
from zoo.paths import given_path
from zoo.teachers.base import Teacher

log = logging.getLogger(__name__)


_MARK = b"sha256 "


def write_entry(embeddings: np.ndarray, file: Path) -> None:
    """Write embeddings as ``.npy``, followed by their SHA-256, which readers of ``.npy`` ignore."""
    content = io.BytesIO()
    np.save(content, np.ascontiguousarray(embeddings), allow_pickle=False)
    file.write_bytes(content.getvalue() + _MARK + hashlib.sha256(content.getvalue()).hexdigest().encode())


def read_entry(file: Path, count: int) -> np.ndarray:
    """Return the embeddings in an entry, float32 ``(count, D)``; entries of earlier versions have no digest.

    Raises:
        ValueError: it is broken, damaged (names both digests), or has another number of views.
        OSError: it cannot be read.
    """
    content = file.read_bytes()
    opened = io.BytesIO(content)
    shape, by_columns, dtype = read_header(opened)
    size, start = math.prod(shape) * dtype.itemsize, opened.tell()
    if dtype != np.float32 or by_columns or len(shape) != 2 or shape[0] != count or start + size > len(content):
        raise ValueError(f"it has {dtype} {shape} in {len(content)} bytes where {count} embeddings belong")
    whole, rest = content[: start + size], content[start + size :]
    found = hashlib.sha256(whole).hexdigest()
    if rest and rest != _MARK + found.encode():
        said = rest.removeprefix(_MARK).decode("ascii", errors="replace")
        raise ValueError(f"its digest is {found[:16]}, and it says {said[:16]}")
    embeddings = np.frombuffer(whole, np.float32, offset=start).reshape(shape).copy()
    if not np.isfinite(embeddings).all():
        raise ValueError("it has embeddings that are not finite")
    return embeddings


def read_if_whole(file: Path, count: int, what: str) -> np.ndarray | None:
    """Return the embeddings in an entry, or None if it is missing or cannot be read; the latter is logged.

    Args:
        file: file of the entry.
        count: how many embeddings it must have.
        what: what will be embedded again, for the log: "its batch".
    """
    if not file.is_file():
        return None
    try:
        return read_entry(file, count)
    except (OSError, ValueError) as error:
        log.warning("%s cannot be read (%s); embedding %s again", file, error, what)
        return None


class CachedTeacher(Teacher):
    """Returns another teacher's embeddings, from a folder if the same batch of views was embedded before.

    Views depend only on data, augmentation and seed. Students of one teacher that share these and the input size see
    the same batches, whatever their architecture, loss and learning rate: a search over those runs the teacher only
    once. The key consists of the teacher's digest and precision and the pixels themselves, so any change of weights,
    data or augmentation is noticed. Feature maps are not kept.

    Args:
        teacher: the teacher to cache.
        folder: where batches are kept, one ``.npy`` file each, float32 ``(N, D)`` and a digest: ``4 * D`` bytes per
            view, so ``4 * D * views * images`` per epoch.

    Raises:
        OptionError: the folder cannot be written to.
    """

    def __init__(self, teacher: Teacher, folder: str | Path) -> None:
        require_writable(folder)
        self.teacher = teacher
        self.folder = given_path(folder)
        self.name, self.metric, self.digest = teacher.name, teacher.metric, teacher.digest
        self.input_size, self.continuous, self.notes = teacher.input_size, teacher.continuous, teacher.notes
        self.runtime, self.source, self.ships = teacher.runtime, teacher.source, teacher.ships

    def embed_images(self, images: ImageSet) -> np.ndarray:
        return self.teacher.embed_images(images)

    def embed_views(self, views: Tensor, indices: Tensor, images: ImageSet) -> Tensor:
        file = self._file(views)
        found = read_if_whole(file, len(views), "its batch")
        if found is not None:
            return torch.from_numpy(found).to(views.device)
        embeddings = self.teacher.embed_views(views, indices, images)
        with replacing(file) as temporary:
            write_entry(embeddings.cpu().numpy(), temporary)
        return embeddings

    def embed_views_with_maps(self, views: Tensor, indices: Tensor, images: ImageSet) -> tuple[Tensor, list[Tensor]]:
        return self.teacher.embed_views_with_maps(views, indices, images)

    def precision_on(self, device: torch.device) -> str:
        return self.teacher.precision_on(device)

    def to(self, device: torch.device) -> Teacher:
        self.teacher.to(device)
        return self

    def compile(self) -> Teacher:
        self.teacher.compile()
        return self

    def parameters(self) -> int | None:
        return self.teacher.parameters()

    def _file(self, views: Tensor) -> Path:
        precision = self.teacher.precision_on(views.device)
        hashed = hashlib.sha256(f"{precision} {tuple(views.shape)} {views.dtype}".encode())
        hashed.update(views.cpu().contiguous().numpy().tobytes())
        return self.folder / self.digest / f"{hashed.hexdigest()[:32]}.npy"
