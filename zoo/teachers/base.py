"""What a teacher is: :class:`Teacher`. It is always in eval mode and never gets gradients."""

from __future__ import annotations

from abc import ABC, abstractmethod

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from zoo.data.image_set import ImageSet
from zoo.errors import OptionError


class Teacher(ABC):
    """What a student learns from.

    Attributes:
        name: for reports.
        metric: how its embeddings are compared, "cosine" or "euclidean".
        digest: changes when the teacher does.
        input_size: height and width it wants views in, or None for any.
        notes: what is assumed of it, or to be known about it, in sentences for log and report.
        continuous: it is known to have learned from continuous labels, so that these judge it, classes or not.
    """

    name: str
    metric: str
    digest: str
    input_size: tuple[int, int] | None = None
    notes: tuple[str, ...] = ()
    continuous: bool = False

    @abstractmethod
    def embed_images(self, images: ImageSet) -> np.ndarray:
        """Embed whole images as at test time; float32 ``(N, D)``."""

    @abstractmethod
    def embed_views(self, views: Tensor, indices: Tensor, images: ImageSet) -> Tensor:
        """Embed training views, without gradient.

        Args:
            views: uint8 ``(N, 3, H, W)``.
            indices: int64 ``(N,)``, the image in ``images`` that each view shows.
            images: the training images.

        Returns:
            float32 ``(N, D)``.
        """

    def embed_views_with_maps(self, views: Tensor, indices: Tensor, images: ImageSet) -> tuple[Tensor, list[Tensor]]:
        """Embed training views as :meth:`embed_views` does, and return the feature maps on the way, for losses of maps.

        Returns:
            float32 ``(N, D)``, and float maps ``(N, C, H', W')`` from the first stage to the last.

        Raises:
            OptionError: the teacher has no feature maps to give.
        """
        raise OptionError(
            f"Teacher {self.name} gives no feature maps. Take a model folder or a timm model as the teacher, or a loss "
            "of embeddings alone, such as relaxed_contrastive."
        )

    def precision_on(self, device: torch.device) -> str:
        """Return the precision that views are embedded in on a device, "" where there is no choice of it."""
        return ""

    def to(self, device: torch.device) -> Teacher:
        """Move to a device, where that applies."""
        return self

    def compile(self) -> Teacher:
        """Have the views' forward pass compiled, where that applies."""
        return self

    def parameters(self) -> int | None:
        """Return the number of parameters, or None if unknown."""
        return None


def resize_views(views: Tensor, size: tuple[int, int]) -> Tensor:
    """Bring uint8 views ``(N, 3, H, W)`` to a size, as float32 0..255, antialiased."""
    pixels = views.float()
    if tuple(pixels.shape[2:]) == tuple(size):
        return pixels
    return functional.interpolate(pixels, size=size, mode="bilinear", antialias=True, align_corners=False)
