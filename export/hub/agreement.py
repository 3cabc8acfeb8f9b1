"""How closely embeddings of images preprocessed by Pillow, as other libraries do, agree with those of our own file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from export.hub.preprocessor import pillow_tensor
from export.onnx.tensor_file import INPUT
from export.onnx.tracing import smooth_images
from zoo.sessions import cpu_session


@dataclass(frozen=True)
class Agreement:
    """Cosines between embeddings of the same images, preprocessed in two ways.

    Attributes:
        images: number and kind of images, in words.
        lowest: smallest cosine.
        mean: mean cosine.
    """

    images: str
    lowest: float
    mean: float


def pillow_agreement(
    pixels: Path, tensor: Path, config: dict[str, Any], images: Sequence[np.ndarray] = ()
) -> Agreement:
    """Compare preprocessing by Pillow with the preprocessing inside the file.

    Args:
        pixels: the file that takes pixels.
        tensor: the file that takes preprocessed tensors.
        config: what ``preprocessor_config`` returns.
        images: uint8 ``(H, W, 3)``; empty for synthetic images with fine detail at several odd sizes.
    """
    whole, network = cpu_session(pixels, threads=None), cpu_session(tensor, threads=None)
    shown = images or _synthetic()
    cosines = []
    for image in shown:
        (ours,) = whole.run(None, {"image": image[None]})
        (theirs,) = network.run(None, {INPUT: pillow_tensor(image, config)[None]})
        product = np.linalg.norm(ours) * np.linalg.norm(theirs)
        cosines.append(float((ours * theirs).sum() / product) if product else 1.0)
    kind = "training images" if images else "synthetic images of fine detail"
    return Agreement(f"{len(shown)} {kind}", min(cosines), float(np.mean(cosines)))


def _synthetic(count: int = 16) -> list[np.ndarray]:
    cut = [image[: 160 - 7 * (index % 5), : 160 - 11 * (index % 4)] for index, image in enumerate(smooth_images(count))]
    return [np.repeat(np.repeat(image, 1 + i % 3, axis=0), 1 + i % 3, axis=1) for i, image in enumerate(cut)]
