"""The base class of teachers: :class:`Teacher`. A teacher is always in eval mode and never gets gradients."""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from zoo.data.image_set import ImageSet
from zoo.errors import OptionError
from zoo.formats.onnx_metadata import OnnxMetadata
from zoo.progress import progress


class Teacher(ABC):
    """A model that a student learns from.

    Attributes:
        name: name for reports.
        metric: how its embeddings are compared, "cosine" or "euclidean".
        digest: changes when the teacher does.
        input_size: height and width of the views that it needs, or None for any.
        notes: assumptions and other facts about it, in sentences for log and report.
        continuous: whether it learned from continuous labels, which then judge it even if there are classes.
        runtime: what runs it, for reports; "" if unknown.
        source: shown in reports instead of the name the user gave; "" to show that.
        ships: whether, when validated as a model, it is the product that will ship, so that gates apply to it.
    """

    name: str
    metric: str
    digest: str
    input_size: tuple[int, int] | None = None
    notes: tuple[str, ...] = ()
    continuous: bool = False
    ships: bool = False
    runtime: str = ""
    source: str = ""

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
        """Embed training views like :meth:`embed_views`, and return the feature maps too, for losses on maps.

        Returns:
            float32 ``(N, D)``, and float maps ``(N, C, H', W')`` from the first stage to the last.

        Raises:
            OptionError: the teacher has no feature maps.
        """
        raise OptionError(
            f"Teacher {self.name} gives no feature maps. Take a model folder or a timm model as the teacher, or a loss "
            "of embeddings alone, such as relaxed_contrastive."
        )

    def precision_on(self, device: torch.device) -> str:
        """Return the precision in which views are embedded on a device, or "" if it cannot be chosen."""
        return ""

    def to(self, device: torch.device) -> Teacher:
        """Move to a device, if applicable."""
        return self

    def compile(self) -> Teacher:
        """Compile the forward pass of views, if applicable."""
        return self

    def parameters(self) -> int | None:
        """Return the number of parameters, or None if unknown."""
        return None


class PixelsTeacher(Teacher):
    """A model that a runtime other than torch runs image by image: pixels in, a vector out.

    Attributes:
        path: its file, or None.
        dim: dimensions of its vectors, or None if unknown before the first one.
        made_by_export: the file's metadata if ``export`` made it, else None.
    """

    path: Path | None = None
    dim: int | None = None
    made_by_export: OnnxMetadata | None = None

    @abstractmethod
    def embed_pixels(self, pixels: np.ndarray) -> np.ndarray:
        """Embed one image, uint8 ``(H, W, 3)``; float32 ``(1, D)``."""

    @abstractmethod
    def with_threads(self, threads: int) -> PixelsTeacher:
        """Return a copy of this teacher that runs on the CPU with this number of threads per inference."""

    def embed_images(self, images: ImageSet) -> np.ndarray:
        return np.concatenate(
            [self.embed_pixels(images.pixels(index)) for index in progress(range(len(images)), "embedding")]
        )

    def embed_views(self, views: Tensor, indices: Tensor, images: ImageSet) -> Tensor:
        return torch.from_numpy(np.concatenate([self.embed_pixels(view) for view in pixels_of(views)])).to(views.device)


def pixels_of(views: Tensor) -> np.ndarray:
    """Return views ``(N, 3, H, W)`` as images, ``(N, H, W, 3)``."""
    return views.cpu().permute(0, 2, 3, 1).contiguous().numpy()


def resize_views(views: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize uint8 views ``(N, 3, H, W)`` with antialiasing; return float32 0..255."""
    pixels = views.float()
    if tuple(pixels.shape[2:]) == tuple(size):
        return pixels
    return functional.interpolate(pixels, size=size, mode="bilinear", antialias=True, align_corners=False)
