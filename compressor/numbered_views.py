"""A fixed set of views that a student sees repeatedly, so that the teacher embeds each only once."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import torch

from zoo.data.image_set import ImageSet
from zoo.errors import OptionError
from zoo.models.embedding import fastest_device
from zoo.teachers.base import Teacher
from zoo.teachers.stored_views import StoredViews
from zoo.training.batches.augmentation import Views


@dataclass(frozen=True)
class NumberedViews:
    """The number of views of each image, and the folder that stores the teacher's embeddings of them."""

    count: int
    folder: str | Path

    def stored(
        self, teacher: Teacher, images: ImageSet, shown: Views, data_digest: str, with_maps: bool = False
    ) -> StoredViews:
        """Return the store of the teacher's embeddings of the views: those computed so far, and space for the others.

        Args:
            teacher: embeds the views.
            images: the training images.
            shown: their views.
            data_digest: digest of their data.
            with_maps: whether the loss needs feature maps too.

        Raises:
            OptionError: feature maps are needed, the folder cannot be written to, or the disk is too full.
        """
        if with_maps:
            raise OptionError(
                "teacher_views keeps embeddings, and this loss needs the teacher's feature maps. Leave teacher_views "
                "out, or choose a loss of embeddings alone."
            )
        device = fastest_device()
        blank = torch.zeros(1, 3, *shown.size, dtype=torch.uint8, device=device)
        first = torch.zeros(1, dtype=torch.int64, device=device)
        dim = teacher.to(device).embed_views(blank, first, images).shape[1]
        made_by = {
            "data": data_digest,
            "precision": teacher.precision_on(device),
            "augment": [shown.augment, shown.min_crop, *shown.size, shown.seed],
            "torchvision": version("torchvision"),  # whose transforms make the views
        }
        return StoredViews(self.folder, teacher, images, self.count, dim, made_by)
