"""Decode a file, a PIL image or an array into pixels. All images are decoded here.

Needs numpy and Pillow only, because the edge runtime uses it too.
"""

from __future__ import annotations

import errno
import io
import os
import re
import stat
import struct
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from zoo.errors import DataError, first_line
from zoo.paths import expanded

_KINDS = ("avif", "bmp", "gif", "jfif", "jp2", "jpe", "jpeg", "jpg", "mpo", "pgm", "png", "ppm", "tif", "tiff", "webp")
IMAGE_SUFFIXES = frozenset(f".{kind}" for kind in _KINDS)
# What Pillow raises for broken files (the last four come from its metadata readers), and zipfile for broken archives
# (RuntimeError if a member is encrypted).
UNREADABLE = (
    OSError,
    EOFError,
    ValueError,
    SyntaxError,
    KeyError,
    RuntimeError,
    zlib.error,
    zipfile.BadZipFile,
    Image.DecompressionBombError,
    struct.error,
    IndexError,
    OverflowError,
    TypeError,
)
_OF_ARRAYS = ("__array__", "__array_interface__")
_WITH_ALPHA = ("LA", "La", "PA", "RGBA", "RGBa")
MAX_PIXELS = (1 << 30) // 12
"""The default limit for the size of an image, in pixels; from here on Pillow warns of decompression bombs."""
LEAST_SIDE = 1024
"""Larger images are halved up to three times, as long as their shorter side keeps this many pixels."""
_STRIP = 256  # rows of the result that are computed at a time
MAX_ASPECT = 200  # ratio of an image's sides; networks see a centre crop, and more would take gigabytes to resize
_OF_PYTHON = re.compile(r" <_io\.\w+ [^>]*>")
_ORIENTATION = 0x0112  # the EXIF tag; below, the transposition for each of its values
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def read_pixels(source: Any, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """Decode an image into RGB pixels.

    The EXIF orientation of files is applied. Transparent images are laid on white, grey ones are repeated over
    three channels, and 16-bit grey keeps its upper 8 bits. Images whose shorter side has 2048 pixels or more are
    reduced by 2, 4 or 8, to 1024 or more: a network of up to 512 pixels sees the same to a fraction of a grey level,
    and a photograph of 25 megapixels takes 5 MB instead of 300 MB as floats. JPEGs are decoded directly at the reduced
    size.

    Args:
        source: a path, bytes, a file open for reading bytes, a PIL image, or an array (or anything that numpy converts
            to one): ``(H, W)``, ``(H, W, 1)``, ``(H, W, 3)`` or ``(H, W, 4)``, uint8.
        max_pixels: the most pixels of an image that is not an array. Above 178 million, raise Pillow's own limit
            ``PIL.Image.MAX_IMAGE_PIXELS`` too.

    Returns:
        uint8 array ``(H, W, 3)``, contiguous.

    Raises:
        OSError: the file is missing, truncated or not an image.
        ValueError: an array has another shape or dtype, or an image has 32 bits per channel (they have no agreed
            range), more than ``max_pixels``, or sides that differ more than 200 times.
        TypeError: the source is none of these.
    """
    if isinstance(source, Image.Image):
        return _image_to_rgb(source, max_pixels)
    if isinstance(source, bytes | bytearray | memoryview):
        source = io.BytesIO(source)
    if isinstance(source, str | os.PathLike):
        path = expanded(os.fsdecode(source))
        require_regular(path)
        with open(path, "rb") as file:
            return _file_to_rgb(file, max_pixels)
    if isinstance(source, io.TextIOBase):
        raise TypeError("the file is open for reading text; open it with mode 'rb'")
    if hasattr(source, "read"):
        return _file_to_rgb(source, max_pixels)
    if not any(hasattr(source, name) for name in _OF_ARRAYS):
        raise TypeError(
            f"{type(source).__name__} is not an image: pass a path, bytes, an open file, a PIL image or an array"
        )
    return _array_to_rgb(np.asarray(source))


def require_pixels(source: Any, name: str = "", max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """Decode as :func:`read_pixels` does.

    Args:
        source: the image.
        name: how the message names an image without a path.
        max_pixels: as in :func:`read_pixels`.

    Raises:
        DataError: the image cannot be read; names it.
    """
    try:
        return read_pixels(source, max_pixels)
    except UNREADABLE as error:
        path = os.fsdecode(source) if isinstance(source, str | os.PathLike) else getattr(source, "name", None)
        named = path if isinstance(path, str) else name or f"of type {type(source).__name__}"
        raise DataError(f"Image {named} cannot be read ({reason_of(error)}). Fix or remove it.") from error


def reason_of(error: Exception) -> str:
    """Return in one line why an image cannot be read, without the Python object that Pillow names."""
    return _OF_PYTHON.sub("", first_line(error))


def require_regular(path: str | os.PathLike[str]) -> None:
    """Refuse named pipes, devices and sockets: reading one may never end.

    Raises:
        OSError: it is one of these, or is missing.
    """
    mode = Path(path).stat().st_mode
    if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):  # open() itself refuses folders
        kind = "a named pipe" if stat.S_ISFIFO(mode) else "a device or socket"
        raise OSError(errno.EINVAL, f"it is {kind}, not a file", os.fspath(path))


def load_opened(image: Image.Image, max_pixels: int = MAX_PIXELS) -> None:
    """Decode a freshly opened file as :func:`read_pixels` does, without converting it to RGB.

    Large JPEGs are reduced in place. Other images are not reduced, and no EXIF orientation is applied.

    Args:
        image: what ``PIL.Image.open`` returned.
        max_pixels: as in :func:`read_pixels`.

    Raises:
        OSError: as in :func:`read_pixels`.
        ValueError: as in :func:`read_pixels`.
    """
    _require_size(*image.size, max_pixels)
    factor = _factor(*image.size)
    if factor > 1 and image.format in ("JPEG", "MPO"):
        image.draft(None, (image.width // factor, image.height // factor))  # type: ignore[arg-type]
    _require_readable(image, max_pixels)
    _load(image)


def turned(part: Image.Image, image: Image.Image) -> Image.Image:
    """Apply the EXIF orientation of a loaded image to an image derived from it."""
    method = _UPRIGHT.get(_orientation(image))
    return part if method is None else part.transpose(method)


def _file_to_rgb(file: Any, max_pixels: int) -> np.ndarray:
    with Image.open(file) as image:
        load_opened(image, max_pixels)
        return _loaded_to_rgb(image)


def _array_to_rgb(array: np.ndarray) -> np.ndarray:
    if array.dtype != np.uint8:
        raise ValueError(f"an image array must be uint8, found {array.dtype}")
    if array.ndim == 2:
        array = array[:, :, None]
    if array.ndim != 3 or array.shape[2] not in (1, 3, 4) or 0 in array.shape:
        raise ValueError(f"an image array must be (H, W), (H, W, 1), (H, W, 3) or (H, W, 4), found {array.shape}")
    height, width, channels = array.shape
    _require_size(width, height)
    if channels == 1:
        array = np.broadcast_to(array, (height, width, 3))
    if channels != 4 and _factor(width, height) == 1:
        return np.ascontiguousarray(array)
    return _in_strips(width, height, lambda top, bottom: Image.fromarray(np.ascontiguousarray(array[top:bottom])))


def _image_to_rgb(image: Image.Image, max_pixels: int) -> np.ndarray:
    _require_readable(image, max_pixels)
    _load(image)
    return _loaded_to_rgb(image)


def _require_readable(image: Image.Image, max_pixels: int) -> None:
    _require_size(*image.size, max_pixels)
    if image.mode in ("I", "F") and not _has_16_bits(image):
        raise ValueError(f"32 bits per channel (mode {image.mode}) have no agreed range; convert to 8 bits")


def _loaded_to_rgb(image: Image.Image) -> np.ndarray:
    sixteen_bits = _has_16_bits(image)

    def strip(top: int, bottom: int) -> Image.Image:
        part = image.crop((0, top, image.width, bottom))
        if sixteen_bits:
            # PIL would clip 16-bit grey at 255; viewers show the high byte.
            grey = np.asarray(part).astype(np.int64)
            if isinstance(image.info.get("transparency"), int):  # one level that a PNG does not show
                grey[grey == image.info["transparency"]] = 0xFFFF
            return Image.fromarray(np.clip(grey >> 8, 0, 255).astype(np.uint8))
        return part

    pixels = _in_strips(image.width, image.height, strip)
    method = _UPRIGHT.get(_orientation(image))
    return pixels if method is None else np.array(Image.fromarray(pixels).transpose(method))


def _in_strips(width: int, height: int, strip: Callable[[int, int], Image.Image]) -> np.ndarray:
    """Return an image's RGB pixels, reduced if it is large, without holding a second whole image in memory.

    Args:
        width: of the image, pixels.
        height: of the image, pixels.
        strip: returns the rows from ``top`` to ``bottom`` as an image of any 8-bit mode.
    """
    factor = _factor(width, height)
    pixels = np.empty((-(-height // factor), -(-width // factor), 3), dtype=np.uint8)
    for top in range(0, len(pixels), _STRIP):
        bottom = min(top + _STRIP, len(pixels))
        part = strip(top * factor, min(bottom * factor, height))
        if part.mode in _WITH_ALPHA or "transparency" in part.info:
            part = part.convert("RGBA")
            part = Image.alpha_composite(Image.new("RGBA", part.size, (255, 255, 255, 255)), part)
        part = part.convert("RGB")
        pixels[top:bottom] = np.asarray(part if factor == 1 else part.reduce(factor))
    return pixels


def _require_size(width: int, height: int, max_pixels: int | None = None) -> None:
    if max_pixels is not None and width * height > max_pixels:
        raise ValueError(f"{width} x {height} pixels, more than max_pixels, {max_pixels}; make it smaller")
    if max(height, width) > MAX_ASPECT * min(height, width):
        raise ValueError(f"{width} x {height} pixels; its sides differ more than {MAX_ASPECT} times")


def _factor(width: int, height: int) -> int:
    """Return the factor by which an image is reduced."""
    return next((factor for factor in (8, 4, 2) if min(width, height) >= factor * LEAST_SIDE), 1)


def _has_16_bits(image: Image.Image) -> bool:
    return image.mode.startswith("I;16") or (image.mode == "I" and image.format in ("PNG", "PPM"))


def _load(image: Image.Image) -> None:
    """Decode an opened image. TIFFs are not memory-mapped, because Pillow then ignores their orientation."""
    name = getattr(image, "filename", "")
    if image.format != "TIFF" or not name:
        image.load()
        return
    image.filename = ""  # type: ignore[attr-defined]
    try:
        image.load()
    finally:
        image.filename = name  # type: ignore[attr-defined]


def _orientation(image: Image.Image) -> int:
    """Return the EXIF orientation that still has to be applied to a loaded image."""
    if image.format == "TIFF":  # Pillow applied it while loading, and old versions keep the tag
        return 1
    try:
        return int(image.getexif().get(_ORIENTATION, 1))
    except Exception:  # a broken EXIF block does not make the pixels unreadable
        return 1
