"""From a file, a PIL image or an array to pixels: the one place where images are decoded.

Needs numpy and Pillow only, because the edge runtime decodes with it too.
"""

from __future__ import annotations

import errno
import os
import stat
import struct
import zipfile
import zlib
from pathlib import Path

import numpy as np
from PIL import Image

from zoo.errors import DataError

_KINDS = ("avif", "bmp", "gif", "jfif", "jp2", "jpe", "jpeg", "jpg", "pgm", "png", "ppm", "tif", "tiff", "webp")
IMAGE_SUFFIXES = frozenset(f".{kind}" for kind in _KINDS)
# What Pillow raises for broken files, the last four from its readers of metadata; and zipfile for broken archives,
# RuntimeError where a member is encrypted.
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
_WITH_ALPHA = ("LA", "La", "PA", "RGBA", "RGBa")
MAX_ASPECT = 200  # of an image's sides: networks see a crop of the middle, and more would take gigabytes to resize
_ORIENTATION = 0x0112  # of EXIF; its values, and how an image is brought upright
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def read_pixels(source: str | Path | Image.Image | np.ndarray) -> np.ndarray:
    """Decode an image into RGB pixels.

    Files are turned as their EXIF orientation says. Transparent images are laid on white; grey ones are repeated over
    the three channels; of 16-bit grey the upper 8 bits are taken.

    Args:
        source: a path, a PIL image, or an array: ``(H, W)``, ``(H, W, 1)``, ``(H, W, 3)`` or ``(H, W, 4)``, uint8.

    Returns:
        uint8 array ``(H, W, 3)``, contiguous.

    Raises:
        OSError: the file is missing, truncated or not an image.
        ValueError: an array of another shape or dtype, an image of 32 bits a channel, which has no agreed range, or
            one whose sides differ more than 200 times.
    """
    pixels = _decoded(source)
    height, width = pixels.shape[:2]
    if max(height, width) > MAX_ASPECT * min(height, width):
        raise ValueError(f"{width} x {height} pixels; its sides differ more than {MAX_ASPECT} times")
    return pixels


def require_pixels(source: str | Path | Image.Image | np.ndarray) -> np.ndarray:
    """Decode as :func:`read_pixels` does.

    Raises:
        DataError: the image cannot be read; names it.
    """
    try:
        return read_pixels(source)
    except UNREADABLE as error:
        name = source if isinstance(source, str | Path) else type(source).__name__
        raise DataError(f"Image {name} cannot be read ({error}). Mend or remove it.") from error


def require_regular(path: str | os.PathLike[str]) -> None:
    """Refuse what can be opened and is not a file: reading a named pipe or a device may never end.

    Raises:
        OSError: it is not a file; or is missing.
    """
    mode = Path(path).stat().st_mode
    if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):  # of folders the system says it itself
        kind = "a named pipe" if stat.S_ISFIFO(mode) else "a device or socket"
        raise OSError(errno.EINVAL, f"it is {kind}, not a file", os.fspath(path))


def _decoded(source: str | Path | Image.Image | np.ndarray) -> np.ndarray:
    if isinstance(source, np.ndarray):
        return _array_to_rgb(source)
    if isinstance(source, Image.Image):
        return _image_to_rgb(source)
    require_regular(source)
    with open(source, "rb") as file, Image.open(file) as image:
        return _image_to_rgb(image)


def _array_to_rgb(array: np.ndarray) -> np.ndarray:
    if array.dtype != np.uint8:
        raise ValueError(f"an image array must be uint8, found {array.dtype}")
    if array.ndim == 2:
        array = array[:, :, None]
    if array.ndim != 3 or array.shape[2] not in (1, 3, 4) or 0 in array.shape:
        raise ValueError(f"an image array must be (H, W), (H, W, 1), (H, W, 3) or (H, W, 4), found {array.shape}")
    if array.shape[2] == 4:
        return _image_to_rgb(Image.fromarray(array))
    if array.shape[2] == 1:
        array = np.repeat(array, 3, axis=2)
    return np.ascontiguousarray(array)


def _image_to_rgb(image: Image.Image) -> np.ndarray:
    sixteen_bits = image.mode.startswith("I;16") or (image.mode == "I" and image.format in ("PNG", "PPM"))
    if image.mode in ("I", "F") and not sixteen_bits:
        raise ValueError(f"32 bits a channel (mode {image.mode}) have no agreed range; convert to 8 bits")
    _load(image)
    method = _UPRIGHT.get(_orientation(image))
    if method is not None:
        image = image.transpose(method)
    if sixteen_bits:
        # PIL clips 16-bit grey at 255 where a viewer shows the high byte.
        grey = np.asarray(image).astype(np.int64)
        image = Image.fromarray(np.clip(grey >> 8, 0, 255).astype(np.uint8))
    if image.mode in _WITH_ALPHA or "transparency" in image.info:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, (255, 255, 255, 255))
        image = Image.alpha_composite(white, image)
    return np.array(image.convert("RGB"))


def _load(image: Image.Image) -> None:
    """Decode what was opened; not by mapping the file into memory, where Pillow forgets that TIFFs may be turned."""
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
    """Return how a loaded image still has to be turned."""
    if image.format == "TIFF":  # Pillow has turned it while loading, and old versions keep the tag
        return 1
    try:
        return int(image.getexif().get(_ORIENTATION, 1))
    except Exception:  # whatever is wrong with the note, the pixels can be read
        return 1
