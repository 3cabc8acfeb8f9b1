"""A teacher whose embeddings of views are kept on disk, so that a second student of it need not wait for it."""

from __future__ import annotations

import hashlib
import logging
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from zoo.data.image_set import ImageSet
from zoo.files import replacing, require_writable
from zoo.teachers.base import Teacher

log = logging.getLogger(__name__)


class CachedTeacher(Teacher):
    """Gives what another teacher gives, from a folder where a batch of views was embedded before.

    Views follow from data, augmentation and seed alone. Students of one teacher that share these, and whose input size
    makes the views as large, see the same batches whatever their architecture, loss and rate: a search over those runs
    the teacher once. The key is made of the teacher's digest and precision and of the pixels themselves, so a change
    of weights, of the data or of how views are made is noticed. Feature maps are not kept.

    Args:
        teacher: the other one.
        folder: where batches are kept, one ``.npy`` file each, float32 ``(N, D)``: ``4 * D`` bytes a view, so
            ``4 * D * views * images`` an epoch.

    Raises:
        OptionError: the folder cannot be written to.
    """

    def __init__(self, teacher: Teacher, folder: str | Path) -> None:
        require_writable(folder)
        self.teacher = teacher
        self.folder = Path(folder)
        self.name, self.metric, self.digest = teacher.name, teacher.metric, teacher.digest
        self.input_size, self.continuous = teacher.input_size, teacher.continuous

    def embed_images(self, images: ImageSet) -> np.ndarray:
        return self.teacher.embed_images(images)

    def embed_views(self, views: Tensor, indices: Tensor, images: ImageSet) -> Tensor:
        file = self._file(views)
        if file.is_file():
            try:
                return torch.from_numpy(np.load(file, allow_pickle=False)).to(views.device)
            except (OSError, ValueError, EOFError) as error:
                log.warning("%s cannot be read (%s); its batch is embedded anew", file, error)
        embeddings = self.teacher.embed_views(views, indices, images)
        with replacing(file) as temporary:
            np.save(temporary, embeddings.cpu().numpy())
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
