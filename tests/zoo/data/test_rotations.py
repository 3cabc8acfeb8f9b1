"""Rotated copies of classes."""

from __future__ import annotations

import numpy as np

from zoo.data.image_set import ImageSet
from zoo.data.rotations import with_rotations

PIXELS = np.random.default_rng(0).integers(0, 256, (3, 4, 5, 3), dtype=np.uint8)
IMAGES = ImageSet(["x", "y", "z"], list(PIXELS), np.array([1, 0, 1]), ["alpha", "beta"])


def test_each_turn_of_a_class_is_a_class() -> None:
    turned = with_rotations(IMAGES)
    assert list(turned.class_names) == [f"{name}@{turn}" for turn in (0, 90, 180, 270) for name in ("alpha", "beta")]
    assert list(turned.ids) == [f"{name}@{turn}" for turn in (0, 90, 180, 270) for name in "xyz"]
    assert turned.labels is not None
    for name, label in zip(turned.ids, turned.labels, strict=True):
        letter, turn = name.split("@")
        assert turned.class_names[label] == f"{'alpha' if letter == 'y' else 'beta'}@{turn}"


def test_pixels_are_turned_anticlockwise() -> None:
    turned = with_rotations(IMAGES)
    for turn in range(4):
        for i in range(3):
            assert (turned.pixels(3 * turn + i) == np.rot90(PIXELS[i], turn)).all()
    # the top right corner comes to the top left, and four quarter turns give the image back
    assert (turned.pixels(3)[0, 0] == PIXELS[0][0, -1]).all()
    again = with_rotations(turned.subset([3]))
    assert (again.pixels(3) == PIXELS[0]).all()


def test_images_without_labels_stay_without() -> None:
    turned = with_rotations(IMAGES.without_labels())
    assert turned.labels is None and list(turned.class_names) == []
    assert (turned.pixels(5) == np.rot90(PIXELS[2])).all()
