"""From a file, a PIL image or an array to pixels: the one place where images are decoded.

Needs numpy and Pillow only, because the edge runtime decodes with it too.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

IMAGE_SUFFIXES = frozenset({".bmp", ".gif", ".jpeg", ".jpg", ".png", ".ppm", ".pgm", ".tif", ".tiff", ".webp"})


def read_pixels(source: str | Path | Image.Image | np.ndarray) -> np.ndarray:
    """Decode an image into RGB pixels.

    Files are turned as their EXIF orientation says. Transparent images are laid on white; grey ones are repeated over
    the three channels; 16-bit grey is scaled to 8 bits.

    Args:
        source: a path, a PIL image, or an array: ``(H, W)``, ``(H, W, 1)``, ``(H, W, 3)`` or ``(H, W, 4)``, uint8.

    Returns:
        uint8 array ``(H, W, 3)``, contiguous.

    Raises:
        OSError: the file is missing, truncated or not an image.
        ValueError: an array of another shape or dtype.
    """
    if isinstance(source, np.ndarray):
        return _array_to_rgb(source)
    if isinstance(source, Image.Image):
        return _image_to_rgb(source)
    with Image.open(source) as image:
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
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I;16") or image.mode == "I":
        # PIL clips 16-bit grey at 255 where a viewer shows the high byte.
        grey = np.asarray(image).astype(np.int64)
        image = Image.fromarray(np.clip(grey >> 8, 0, 255).astype(np.uint8))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, (255, 255, 255, 255))
        image = Image.alpha_composite(white, image)
    return np.array(image.convert("RGB"))
