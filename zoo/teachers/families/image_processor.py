"""Translate transformers' image processors (``preprocessor_config.json``) to our contract. Needs no transformers."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from zoo.errors import ModelError, OptionError, first_line
from zoo.formats.documents import read_document, shown
from zoo.formats.preprocessing import Preprocessing

FILE = "preprocessor_config.json"
_INTERPOLATIONS = {2: "bilinear", 3: "bicubic", "bilinear": "bilinear", "bicubic": "bicubic"}  # PIL's numbers
_SQUASHED_FROM = 384  # pixels; ConvNeXt's processor crops below and squashes from here on
# Flags for changes of pixels that the contract cannot express.
_FOREIGN = ("do_pad", "do_thumbnail", "do_align_long_axis", "do_split_image", "do_image_splitting", "do_color_quantize")


def preprocessing_from(said: Mapping[str, Any]) -> Preprocessing:
    """Return the preprocessing that a processor's configuration describes.

    Args:
        said: the content of ``preprocessor_config.json``: ``size`` (a number, ``shortest_edge``, or ``height`` and
            ``width``), ``crop_size``, ``resample`` (PIL's number), ``rescale_factor``, ``image_mean``, ``image_std``,
            and flags that begin with ``do_``.

    Raises:
        ValueError: a value has no counterpart here, or cannot work; names it.
    """
    for flag in _FOREIGN:
        if said.get(flag):
            raise ValueError(f"{flag} has no counterpart")
    if not said.get("do_resize", True):
        raise ValueError("do_resize is false, so that images keep their sizes")
    resample = said.get("resample", 3 if "crop_size" in said else 2)
    if resample not in _INTERPOLATIONS:
        raise ValueError(f"resample is {shown(resample)}; bilinear (2) and bicubic (3) have a counterpart")
    fields = {"interpolation": _INTERPOLATIONS[resample], **_normalisation(said)}
    crops = bool(said.get("do_center_crop", "crop_size" in said and said["crop_size"] is not None))
    edge, exact = _size(said.get("size", 224), crops)
    try:
        share = said.get("crop_pct")
        if edge is not None and isinstance(share, int | float) and not crops:
            if edge >= _SQUASHED_FROM:
                return Preprocessing((edge, edge), 1.0, crop_mode="squash", **fields)
            if not share > 0:
                raise ValueError(f"crop_pct is {shown(share)}; it must be above 0")
            return Preprocessing.resizing(int(edge / share), (edge, edge), "center-floor", **fields)
        if edge is not None:
            if not crops:
                raise ValueError("size is shortest_edge without a crop, so that images keep their aspect ratios")
            crop = _sides(said.get("crop_size", edge))
            if crop[0] != crop[1]:
                raise ValueError(f"crop_size is {crop} of a shortest edge, which has a counterpart for squares alone")
            return Preprocessing.resizing(edge, crop, "center-floor", **fields)
        assert exact is not None
        crop = _sides(said["crop_size"]) if crops and said.get("crop_size") else exact
        if crop[0] * exact[1] != crop[1] * exact[0]:
            raise ValueError(f"crop_size {crop} has another aspect ratio than size {exact}")
        if crop != exact and any((whole - part) % 4 == 3 for whole, part in zip(exact, crop, strict=True)):
            raise ValueError(f"the margin between size {exact} and crop_size {crop} is halved in another way")
        return Preprocessing.resizing(max(exact), crop, "squash", **fields)
    except OptionError as error:
        raise ValueError(first_line(error)) from error


def preprocessing_beside(folders: list[Path], lenient: bool = False) -> Preprocessing | None:
    """Return the preprocessing in the first ``preprocessor_config.json`` in these folders, or None without one.

    Args:
        folders: the folders, nearest first.
        lenient: also return None if it cannot be translated, because options replace it.

    Raises:
        ModelError: it cannot be read or translated.
    """
    for folder in folders:
        file = folder / FILE
        if file.is_file():
            try:
                return preprocessing_from(read_document(file))
            except (OSError, ValueError, TypeError, KeyError, AttributeError, ArithmeticError) as error:
                if lenient:
                    return None
                raise ModelError(
                    f"{file} cannot be followed ({first_line(error)}). Give the preprocessing as options, such as "
                    "#size=224,mean=0.5,std=0.5,resize=squash, or remove the file."
                ) from error
    return None


def _size(size: Any, crops: bool) -> tuple[int | None, tuple[int, int] | None]:
    """Return the shortest edge, or the exact height and width."""
    if isinstance(size, int):  # written by older versions
        return (size, None) if crops else (None, (size, size))
    if not isinstance(size, Mapping):
        raise ValueError(f"size is {shown(size)}; it must be a number or an object")
    given = {name for name, value in size.items() if value is not None}
    if given == {"shortest_edge"}:
        return int(size["shortest_edge"]), None
    if given == {"height", "width"}:
        return None, (int(size["height"]), int(size["width"]))
    raise ValueError(
        f"size has {', '.join(sorted(given)) or 'nothing'}; shortest_edge, or height and width, have a counterpart"
    )


def _sides(size: Any) -> tuple[int, int]:
    if isinstance(size, int):
        return size, size
    if isinstance(size, Mapping) and {"height", "width"} <= size.keys():
        return int(size["height"]), int(size["width"])
    raise ValueError(f"crop_size is {shown(size)}; it must be a number, or have height and width")


def _normalisation(said: Mapping[str, Any]) -> dict[str, Any]:
    """Return mean and std for pixels in [0, 1] that are equivalent to the processor's rescale factor, mean and std."""
    factor = float(said.get("rescale_factor", 1 / 255)) if said.get("do_rescale", True) else 1.0
    mean, std = [0.0] * 3, [1.0] * 3
    if said.get("do_normalize", said.get("image_mean") is not None):
        mean, std = (_three(said.get(name), name) for name in ("image_mean", "image_std"))
    if abs(255 * factor - 1) < 1e-6:
        return {"mean": tuple(mean), "std": tuple(std)}
    return {
        "mean": tuple(value / (255 * factor) for value in mean),
        "std": tuple(value / (255 * factor) for value in std),
    }


def _three(values: Any, name: str) -> list[float]:
    found = [values] * 3 if isinstance(values, int | float) else list(values or [])
    if len(found) != 3:
        raise ValueError(f"{name} has {len(found)} values; images have 3 channels")
    return [float(value) for value in found]
