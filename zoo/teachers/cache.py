"""A teacher whose embeddings of views are kept on disk, so that a second student of it need not wait for it."""

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
    """Write embeddings as ``.npy``, and behind them, where readers do not look, the SHA-256 of what comes before."""
    content = io.BytesIO()
    np.save(content, np.ascontiguousarray(embeddings), allow_pickle=False)
    file.write_bytes(content.getvalue() + _MARK + hashlib.sha256(content.getvalue()).hexdigest().encode())


def read_entry(file: Path, count: int) -> np.ndarray:
    """Return the embeddings that an entry holds, of an earlier version without a digest too; float32 ``(count, D)``.

    Raises:
        ValueError: it is broken, damaged (names both digests), or of another number of views.
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
    """Return the embeddings that an entry holds; None where there is none, or one that cannot be read, which is logged.

    Args:
        file: of the entry.
        count: how many embeddings it must have.
        what: is embedded again, for the log: "its batch".
    """
    if not file.is_file():
        return None
    try:
        return read_entry(file, count)
    except (OSError, ValueError) as error:
        log.warning("%s cannot be read (%s); embedding %s again", file, error, what)
        return None


class CachedTeacher(Teacher):
    """Gives what another teacher gives, from a folder where a batch of views was embedded before.

    Views follow from data, augmentation and seed alone. Students of one teacher that share these, and whose input size
    makes the views as large, see the same batches whatever their architecture, loss and rate: a search over those runs
    the teacher once. The key is made of the teacher's digest and precision and of the pixels themselves, so a change
    of weights, of the data or of how views are made is noticed. Feature maps are not kept.

    Args:
        teacher: the other one.
        folder: where batches are kept, one ``.npy`` file each, float32 ``(N, D)`` and a digest: ``4 * D`` bytes a
            view, so ``4 * D * views * images`` an epoch.

    Raises:
        OptionError: the folder cannot be written to.
    """

    def __init__(self, teacher: Teacher, folder: str | Path) -> None:
        require_writable(folder)
        self.teacher = teacher
        self.folder = given_path(folder)
        self.name, self.metric, self.digest = teacher.name, teacher.metric, teacher.digest
        self.input_size, self.continuous, self.notes = teacher.input_size, teacher.continuous, teacher.notes

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
