"""From raw pixels to a network's input: the contract that a model folder and an ONNX file carry.

The same module runs in training's evaluation, in the teacher, and inside the ONNX graph, so they cannot drift apart.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from zoo.errors import OptionError

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Preprocessing:
    """How pixels become a network's input. Field names, meanings and roundings are timm's (``pretrained_cfg``).

    Attributes:
        input_size: height and width of the network's input, pixels.
        crop_pct: fraction of the resized image that the crop keeps, in (0, 1]: the shorter side is resized to
            ``input_size / crop_pct``, rounded down, then the centre is cropped (``crop_mode`` "center"), or both sides
            are resized to it regardless of the aspect ratio ("squash").
        interpolation: "bilinear" or "bicubic", antialiased.
        crop_mode: "center" or "squash".
        mean: per channel, of pixels in [0, 1].
        std: per channel, of pixels in [0, 1].
    """

    input_size: tuple[int, int] = (224, 224)
    crop_pct: float = 0.875
    interpolation: str = "bilinear"
    crop_mode: str = "center"
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD

    def __post_init__(self) -> None:
        if min(self.input_size) < 8:
            raise OptionError(f"An image size of {self.input_size} pixels is too small; use at least 8.")
        if not 0 < self.crop_pct <= 1:
            raise OptionError(f"crop_pct is {self.crop_pct}; it must lie in (0, 1].")
        if self.interpolation not in ("bilinear", "bicubic"):
            raise OptionError(f"Interpolation {self.interpolation!r} is not supported; use bilinear or bicubic.")
        if self.crop_mode not in ("center", "squash"):
            raise OptionError(f"Crop mode {self.crop_mode!r} is not supported; use center or squash.")

    @property
    def resized_size(self) -> tuple[int, int]:
        """Return the height and width that an image must cover before the crop, pixels."""
        height, width = self.input_size
        return int(height / self.crop_pct), int(width / self.crop_pct)

    @classmethod
    def of(cls, pretrained_cfg: dict[str, Any]) -> Preprocessing:
        """Read the contract from a timm ``pretrained_cfg``; modes that we do not have become the nearest we have."""
        interpolation = pretrained_cfg.get("interpolation", "bilinear")
        crop_mode = pretrained_cfg.get("crop_mode") or "center"
        _, height, width = pretrained_cfg.get("input_size", (3, 224, 224))
        return cls(
            input_size=(height, width),
            crop_pct=pretrained_cfg.get("crop_pct") or 0.875,
            interpolation=interpolation if interpolation in ("bilinear", "bicubic") else "bilinear",
            crop_mode=crop_mode if crop_mode in ("center", "squash") else "center",
            mean=tuple(pretrained_cfg.get("mean", IMAGENET_MEAN)),
            std=tuple(pretrained_cfg.get("std", IMAGENET_STD)),
        )

    def as_pretrained_cfg(self) -> dict[str, Any]:
        """Return the fields under timm's names."""
        return {
            "input_size": (3, *self.input_size),
            "crop_pct": self.crop_pct,
            "interpolation": self.interpolation,
            "crop_mode": self.crop_mode,
            "mean": self.mean,
            "std": self.std,
        }


class Normalize(nn.Module):
    """Pixels 0..255, ``(N, 3, H, W)`` of any dtype, to float32 with the mean and deviation of the contract."""

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
    """Raw images to a network's input: resize (antialiased), centre crop, normalise."""

    def __init__(self, preprocessing: Preprocessing) -> None:
        super().__init__()
        self.preprocessing = preprocessing
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
        resized_height: Any = target_height  # a number, or a symbol in export
        resized_width: Any = target_width
        if contract.crop_mode == "center":
            # The smallest size that covers the target at the image's own aspect ratio. Whole numbers only, so that
            # eager, symbolic and exported arithmetic agree.
            given_height, given_width = pixels.shape[2], pixels.shape[3]
            resized_height = torch.sym_max(target_height, target_width * given_height // given_width)
            resized_width = torch.sym_max(target_width, target_height * given_width // given_height)
        pixels = functional.interpolate(
            pixels,
            size=(resized_height, resized_width),
            mode=contract.interpolation,
            antialias=True,
            align_corners=False,
        )
        if contract.interpolation == "bicubic":
            pixels = pixels.clamp(0, 255)  # bicubic overshoots; images stored as bytes, as in training, cannot
        top, left = half(resized_height - height), half(resized_width - width)
        cropped = pixels[:, :, top : top + height, left : left + width]
        # Sizes as plain numbers: export would carry the arithmetic above through every layer of the network.
        return cropped.reshape(pixels.shape[0], 3, height, width)


def half(margin: int) -> int:
    """Return half a margin in whole pixels, rounded to the even number as torchvision's centre crop does."""
    return (margin + margin // 2 % 2) // 2
