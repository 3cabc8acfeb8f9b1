"""Add rotated copies of classes as separate classes, for characters and symbols."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from zoo.data.image_set import ImageSet
from zoo.data.stored import ImageSource

TURNS = (0, 1, 2, 3)


@dataclass(frozen=True)
class _Turned:
    images: ImageSet
    index: int
    turns: int

    def __call__(self) -> np.ndarray:
        return np.rot90(self.images.pixels(self.index), self.turns)


def with_rotations(images: ImageSet) -> ImageSet:
    """Return the images rotated by 0, 90, 180 and 270 degrees, with each rotation of a class as a separate class.

    This makes four times as many classes, as in Vinyals et al., "Matching Networks for One Shot Learning"
    (arXiv:1606.04080), section 4.1.1. Pixels are rotated when read, so memory does not grow. Unlabelled images are
    rotated too, and stay unlabelled. Continuous labels are dropped, because those of rotated images are unknown.
    """
    count = len(images.class_names)
    sources: list[ImageSource] = [_Turned(images, i, turns) for turns in TURNS for i in range(len(images))]
    return replace(
        images,
        ids=[f"{name}@{90 * turns}" for turns in TURNS for name in images.ids],
        sources=sources,
        labels=None if images.labels is None else np.concatenate([images.labels + turns * count for turns in TURNS]),
        class_names=[f"{name}@{90 * turns}" for turns in TURNS for name in images.class_names],
        roles=None,
        continuous=None,
    )
