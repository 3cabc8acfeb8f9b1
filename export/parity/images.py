"""Five images that reveal differences in preprocessing: odd sizes, fine detail, saturated colours."""

from __future__ import annotations

import io
from dataclasses import dataclass

import numpy as np
from PIL import Image

# Name, height, width and file format. All but the last decode to the same pixels everywhere.
_IMAGES = (
    ("rings", 161, 203, "png"),
    ("stripes", 97, 310, "png"),
    ("checks", 301, 180, "png"),
    ("small", 61, 47, "png"),
    ("photo", 251, 333, "jpg"),
)


@dataclass(frozen=True, eq=False)
class ParityImage:
    """An image of the pack.

    Attributes:
        name: name of its files, without suffix.
        pixels: uint8 ``(H, W, 3)``, as Pillow decodes the file.
        file: the file's name.
        content: the file's bytes.
        exact: whether every decoder gives these pixels; JPEG decoders differ by a level or two.
    """

    name: str
    pixels: np.ndarray
    file: str
    content: bytes
    exact: bool


def parity_images() -> list[ParityImage]:
    """Return the five images; the same in every call."""
    return [_made(index, *about) for index, about in enumerate(_IMAGES)]


def _made(index: int, name: str, height: int, width: int, kind: str) -> ParityImage:
    drawn = Image.fromarray(_drawn(index, height, width))
    stored = io.BytesIO()
    if kind == "jpg":
        drawn.save(stored, "JPEG", quality=92, subsampling=0)
    else:
        drawn.save(stored, "PNG", optimize=True)
    content = stored.getvalue()
    pixels = np.asarray(Image.open(io.BytesIO(content)).convert("RGB"))
    return ParityImage(name, pixels, f"{name}.{kind}", content, kind == "png")


def _drawn(index: int, height: int, width: int) -> np.ndarray:
    """Return coloured rings, stripes or squares that get finer towards an edge, on a smooth background; uint8."""
    random = np.random.default_rng([index, 27])
    y, x = np.meshgrid(np.linspace(-1, 1, height), np.linspace(-1, 1, width), indexing="ij")
    finest = np.pi * min(height, width) / 2.2  # radians per unit: just below one period in two pixels at the edge
    radius = np.hypot(x - 0.3, y + 0.2)
    waves = [
        np.cos(finest * radius**2 / 2),
        np.cos(finest * (x + 1) ** 2 / 4),
        np.sign(np.cos(finest * (x + 1.1) ** 2 / 5) * np.cos(finest * (y + 1.1) ** 2 / 5)),
        np.cos(finest / 3 * (x + y)),
        np.cos(finest * radius**2 / 3) * np.exp(-radius),
    ][index]
    ground = sum(
        random.uniform(-1, 1, 3) * np.cos(random.uniform(0.5, 3) * x + random.uniform(0.5, 3) * y)[..., None]
        for _ in range(3)
    )
    colour = random.uniform(0.5, 1, 3) * np.array([1, -1, 1])[random.permutation(3)]
    return np.clip(128 + 30 * ground + 85 * waves[..., None] * colour, 0, 255).astype(np.uint8)
