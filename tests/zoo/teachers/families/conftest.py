"""Photographs of odd sizes, and a comparison of two sets of vectors."""

from __future__ import annotations

from pathlib import Path
from zipfile import ZipFile

import numpy as np
import pytest
from PIL import Image

from zoo.data.image_set import ImageSet
from zoo.teachers.base import Teacher

SHARED = Path(__file__).resolve().parents[5] / "shared"
SIZES = ((97, 131), (203, 150), (61, 64), (240, 517), (333, 251))  # heights and widths


def photograph(height: int, width: int, seed: int) -> np.ndarray:
    """Return an image with structure at every scale, as photographs have; uint8 ``(height, width, 3)``."""
    random = np.random.default_rng(seed)
    image = np.zeros((height, width, 3))
    for octave in range(1, 7):
        coarse = random.uniform(0, 255, (2**octave, 2**octave, 3)).astype(np.uint8)
        image += np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)) / 2**octave
    return np.clip(1.6 * image - 80, 0, 255).astype(np.uint8)


@pytest.fixture(scope="session")
def odd_photos(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Five made images of odd sizes, and real photographs of other sizes where the team's data are."""
    root = tmp_path_factory.mktemp("odd")
    files = []
    for seed, (height, width) in enumerate(SIZES):
        files.append(root / f"{seed}.png")
        Image.fromarray(photograph(height, width, seed)).save(files[-1])
    archive = SHARED / "data" / "caltech101-160px.zip"
    if archive.is_file():
        with ZipFile(archive) as photos:
            names = [name for name in sorted(photos.namelist()) if name.endswith(".jpg")]
            files += [Path(photos.extract(name, root)) for name in names[:: len(names) // 4][:4]]
    return files


def ours(teacher: Teacher, files: list[Path]) -> np.ndarray:
    return teacher.embed_images(ImageSet([str(file) for file in files], files))


def require_alike(found: np.ndarray, expected: np.ndarray) -> None:
    """Two sets of vectors are alike: as they are, and without what all images have in common."""
    assert found.shape == expected.shape
    assert found.shape[1] > 1
    assert cosines(found, expected).min() >= 0.9999
    middle = expected.mean(axis=0)
    assert cosines(found - middle, expected - middle).min() >= 0.998


def cosines(found: np.ndarray, expected: np.ndarray) -> np.ndarray:
    norms = np.linalg.norm(found, axis=1) * np.linalg.norm(expected, axis=1)
    return np.asarray((found * expected).sum(axis=1) / norms)
