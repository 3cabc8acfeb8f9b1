"""The preprocessing contract, from raw pixels to a network's input, that model folders and ONNX files carry."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from zoo.errors import OptionError, shown
from zoo.formats.documents import Kind, list_of, maybe, number, require_kinds, whole

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
INTERPOLATIONS = ("bilinear", "bicubic")
CROP_MODES = ("center", "squash", "center-floor")
_SMALLEST, _LARGEST = 8, 4096  # pixels; preprocessing an image of the larger size takes 200 MB
_WORD = Kind("a word", lambda value: isinstance(value, str) and 0 < len(value) < 100)
_SHARE = number("a number in (0, 1]", lambda value: 0 < value <= 1)
_MEAN = list_of(number("a number in [-1000, 1000]", lambda value: abs(value) <= 1000), 3)
_STD = list_of(number("a number in [1e-6, 1000]", lambda value: 1e-6 <= value <= 1000), 3)


@dataclass(frozen=True)
class Preprocessing:
    """How pixels become a network's input. Field names, meanings and roundings are timm's (``pretrained_cfg``).

    Attributes:
        input_size: height and width of the network's input, pixels.
        crop_pct: fraction of the resized image that the crop keeps, in (0, 1]: the shorter side is resized to
            ``input_size / crop_pct``, rounded down, then the centre is cropped (``crop_mode`` "center"), or both sides
            are resized to it regardless of the aspect ratio ("squash").
        interpolation: "bilinear" or "bicubic", antialiased.
        crop_mode: "center" or "squash"; or "center-floor", which timm does not have: like "center", but half an odd
            margin is rounded down, as transformers' processors do, and not to the even pixel.
        mean: mean per channel, of pixels in [0, 1].
        std: standard deviation per channel, of pixels in [0, 1].

    Raises:
        OptionError: a value is of another type, out of range, or leads to images of more than 4096 pixels a side.
    """

    input_size: tuple[int, int] = (224, 224)
    crop_pct: float = 0.875
    interpolation: str = "bilinear"
    crop_mode: str = "center"
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD

    def __post_init__(self) -> None:
        kinds = {"input_size": list_of(whole(-(2**31), 2**31), 2), "mean": _MEAN, "std": _STD}
        try:
            require_kinds(vars(self), kinds)
        except ValueError as error:
            raise OptionError(f"Invalid preprocessing: {error}.") from error
        if min(self.input_size) < _SMALLEST:
            raise OptionError(f"An image size of {self.input_size} pixels is too small; use at least {_SMALLEST}.")
        if not _SHARE.fits(self.crop_pct):
            raise OptionError(f"crop_pct is {shown(self.crop_pct)}; it must lie in (0, 1].")
        if max(self.input_size) / self.crop_pct > _LARGEST:
            raise OptionError(
                f"An image size of {self.input_size} pixels with crop_pct {self.crop_pct:g} resizes images to more "
                f"than {_LARGEST} pixels a side. Use a smaller size, or a larger crop_pct."
            )
        if self.interpolation not in INTERPOLATIONS:
            raise OptionError(f"Interpolation {shown(self.interpolation)} is not supported; use bilinear or bicubic.")
        if self.crop_mode not in CROP_MODES:
            raise OptionError(f"Crop mode {shown(self.crop_mode)} is not supported; use center or squash.")

    @property
    def resized_size(self) -> tuple[int, int]:
        """Return the height and width, in pixels, that the resized image must cover before the crop."""
        height, width = self.input_size
        return int(height / self.crop_pct), int(width / self.crop_pct)

    @classmethod
    def of(cls, pretrained_cfg: Mapping[str, Any]) -> Preprocessing:
        """Read the contract from a timm ``pretrained_cfg``; missing values take timm's defaults.

        Raises:
            OptionError: a value is of another type or length, cannot work, or is an unsupported mode.
        """
        kinds = {
            "input_size": list_of(whole(1, 2**31), 3),
            "crop_pct": maybe(number("a number")),
            "interpolation": maybe(_WORD),
            "crop_mode": maybe(_WORD),
            "mean": _MEAN,
            "std": _STD,
        }
        try:
            require_kinds(pretrained_cfg, {}, kinds)
        except ValueError as error:
            raise OptionError(f"Invalid preprocessing: {error}.") from error
        _, height, width = pretrained_cfg.get("input_size", (3, 224, 224))
        return cls(
            input_size=(height, width),
            crop_pct=pretrained_cfg.get("crop_pct") or 0.875,
            interpolation=pretrained_cfg.get("interpolation") or "bicubic",
            crop_mode=pretrained_cfg.get("crop_mode") or "center",
            mean=tuple(pretrained_cfg.get("mean", IMAGENET_MEAN)),
            std=tuple(pretrained_cfg.get("std", IMAGENET_STD)),
        )

    @classmethod
    def resizing(cls, resized: int, input_size: tuple[int, int], crop_mode: str, **fields: Any) -> Preprocessing:
        """Return the contract that resizes to a number of pixels before the crop; computes ``crop_pct``.

        Args:
            resized: size from which the larger side of the input is cropped, pixels.
            input_size: height and width of the network's input, pixels.
            crop_mode: as in the class.
            fields: the other fields.

        Raises:
            OptionError: the crop is larger than the resized image, or a value cannot work.
        """
        largest = max(input_size)
        if min(input_size) < _SMALLEST or resized > _LARGEST:
            raise OptionError(
                f"Images resized to {shown(resized)} pixels and cropped to {shown(largest)} have no counterpart; sizes "
                f"are {_SMALLEST} to {_LARGEST}."
            )
        if resized < largest:
            raise OptionError(f"Images resized to {resized} pixels cannot be cropped to {largest} without a border.")
        share = largest / resized
        while int(largest / share) < resized:  # rounding down may lose a pixel
            share = math.nextafter(share, 0)
        return cls(input_size=input_size, crop_pct=share, crop_mode=crop_mode, **fields)

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


def with_supported_modes(pretrained_cfg: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """Replace unsupported modes of a timm ``pretrained_cfg``, for a network that will be trained.

    Returns:
        The configuration, and a sentence for each replaced mode.
    """
    config, said = dict(pretrained_cfg), []
    nearest = {"interpolation": "bicubic" if config.get("interpolation") == "lanczos" else "bilinear"}
    nearest["crop_mode"] = "center"
    for name, known in (("interpolation", INTERPOLATIONS), ("crop_mode", CROP_MODES)):
        if config.get(name) and config[name] not in known:
            said.append(f"its {name} {shown(config[name])} is not supported; {nearest[name]} is used instead.")
            config[name] = nearest[name]
    return config, said
