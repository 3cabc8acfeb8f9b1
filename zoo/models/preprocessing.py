"""Turn raw pixels into a network's input, in torch.

The same module runs in validation, in the teacher and inside the ONNX graph, so they cannot drift apart.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from zoo.formats.preprocessing import IMAGENET_MEAN, IMAGENET_STD, Preprocessing

__all__ = ["IMAGENET_MEAN", "IMAGENET_STD", "Normalize", "Preprocess", "Preprocessing", "half"]


class Normalize(nn.Module):
    """Normalises pixels 0..255, ``(N, 3, H, W)`` of any dtype, to float32 by the contract's mean and std."""

    mean: Tensor
    std: Tensor

    def __init__(self, preprocessing: Preprocessing) -> None:
        super().__init__()
        self.register_buffer("mean", 255 * torch.tensor(preprocessing.mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", 255 * torch.tensor(preprocessing.std).view(1, 3, 1, 1), persistent=False)

    def forward(self, pixels: Tensor) -> Tensor:
        """Return float32 ``(N, 3, H, W)``."""
        return (pixels.float() - self.mean) / self.std


class Preprocess(nn.Module):
    """Turns raw images into a network's input: resize, centre crop, normalise.

    Args:
        preprocessing: the contract.
        antialias: the contract requires True; False shows what a resize without antialiasing would change.
    """

    def __init__(self, preprocessing: Preprocessing, antialias: bool = True) -> None:
        super().__init__()
        self.preprocessing = preprocessing
        self.antialias = antialias
        self.normalize = Normalize(preprocessing)

    def forward(self, image: Tensor) -> Tensor:
        """Prepare a batch of images of one size.

        Args:
            image: uint8 ``(N, H, W, 3)``, RGB; any H and W.

        Returns:
            float32 ``(N, 3, height, width)`` of the contract's input size.
        """
        return self.normalize(self.resize(image.permute(0, 3, 1, 2).float()))

    def resize(self, pixels: Tensor) -> Tensor:
        """Resize and crop pixels 0..255, ``(N, 3, H, W)`` float32, to the contract's input size."""
        contract = self.preprocessing
        height, width = contract.input_size
        target_height, target_width = contract.resized_size
        resized_height: Any = target_height  # an integer, or a symbol in export
        resized_width: Any = target_width
        if contract.crop_mode != "squash":
            # The smallest size that covers the target at the image's aspect ratio, in integers, so that eager, symbolic
            # and exported arithmetic agree. For square targets timm rounds the longer side down, like torchvision; for
            # others, to the nearest.
            of = quotient if target_height == target_width else rounded_quotient
            given_height, given_width = pixels.shape[2], pixels.shape[3]
            resized_height = torch.sym_max(target_height, of(target_width * given_height, given_width))
            resized_width = torch.sym_max(target_width, of(target_height * given_width, given_height))
        pixels = functional.interpolate(
            pixels,
            size=(resized_height, resized_width),
            mode=contract.interpolation,
            antialias=self.antialias,
            align_corners=False,
        )
        if contract.interpolation == "bicubic":
            pixels = pixels.clamp(0, 255)  # bicubic overshoots; bytes, as in training, cannot
        halved = floor_half if contract.crop_mode == "center-floor" else half
        top, left = halved(resized_height - height), halved(resized_width - width)
        cropped = pixels[:, :, top : top + height, left : left + width]
        # Fix the sizes as plain integers; otherwise export carries the arithmetic above through every layer.
        return cropped.reshape(pixels.shape[0], 3, height, width)


def half(margin: int) -> int:
    """Return half a margin in whole pixels, rounded half to even like torchvision's centre crop."""
    return (margin + margin // 2 % 2) // 2


def floor_half(margin: int) -> int:
    """Return half a margin in whole pixels, rounded down."""
    return margin // 2


def quotient(dividend: int, divisor: int) -> int:
    """Return an integer quotient, rounded down."""
    return dividend // divisor


def rounded_quotient(dividend: int, divisor: int) -> int:
    """Return an integer quotient, rounded to the nearest, half to even."""
    is_odd = dividend // divisor % 2
    return (2 * dividend + divisor - 1 + is_odd) // (2 * divisor)
