"""24 images of 6 classes, each of one shade, in the form that every source of data should find."""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from zoo.data import DataSplits, ImageSet

NAMES = ("ant", "bee", "cat", "dog", "eel", "fox")


@dataclass(frozen=True)
class Pile:
    """Where the images lie, and what each is: image i has the shade 10 i and the class i // 4."""

    root: Path
    paths: list[str]
    labels: list[str]
    blobs: list[bytes]

    def is_in(self, images: ImageSet, rows: range = range(24)) -> bool:
        """Return whether these are images of the pile, in this order, with their labels and pixels."""
        if images.labels is None or len(images) != len(rows):
            return False
        shades = [int(images.pixels(place)[0, 0, 0]) for place in range(len(images))]
        named = [images.class_names[label] for label in images.labels]
        return shades == [10 * row for row in rows] and named == [self.labels[row] for row in rows]

    def is_divided(self, splits: DataSplits) -> bool:
        """Return whether the first half of the classes trains, and the other tests."""
        return self.is_in(splits.train, range(12)) and self.is_in(splits.test, range(12, 24))


@pytest.fixture
def pile(tmp_path: Path) -> Pile:
    paths, labels, blobs = [], [], []
    for row in range(24):
        label = NAMES[row // 4]
        encoded = io.BytesIO()
        Image.fromarray(np.full((6, 8, 3), 10 * row, dtype=np.uint8)).save(encoded, "PNG")
        path = tmp_path / "photos" / label / f"{row:02}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encoded.getvalue())
        paths.append(str(path))
        labels.append(label)
        blobs.append(encoded.getvalue())
    return Pile(tmp_path, paths, labels, blobs)
