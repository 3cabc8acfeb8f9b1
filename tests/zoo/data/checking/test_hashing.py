"""The perceptual hash, and the search for near-duplicate images."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image
from scipy.fft import dctn

from zoo.data.checking.hashing import (
    MAX_RADIUS,
    bits_set,
    grey_of,
    groups_of,
    hashes_of,
    near_codes,
    near_pairs,
    smaller,
)


def picture(seed: int, side: int = 96) -> Image.Image:
    """Return a picture with shapes in it, as photographs have and noise has not."""
    coarse = np.random.default_rng(seed).integers(0, 256, (7, 7, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((side + side // 3, side), Image.Resampling.BICUBIC)


def look(images: list[Image.Image]) -> tuple[np.ndarray, np.ndarray]:
    greys = np.stack([grey_of(image) for image in images])
    return hashes_of(greys), smaller(greys)


def test_the_hash_is_that_of_the_definition() -> None:
    grey = np.random.default_rng(0).integers(0, 256, (5, 32, 32), dtype=np.uint8)
    for image, found in zip(grey, hashes_of(grey), strict=True):
        lowest = dctn(image.astype(float), norm="ortho")[:8, :8].ravel()
        expected = lowest > np.median(lowest)
        assert int(found).bit_count() == expected.sum() == 32
        order = np.concatenate([np.arange(chunk, 64, 4) for chunk in range(4)])
        assert np.unpackbits(np.array([found]).view(np.uint8)).astype(bool).tolist() == expected[order].tolist()


def test_grey_at_half_the_side_is_the_mean_of_four() -> None:
    grey = np.random.default_rng(0).integers(0, 256, (3, 32, 32), dtype=np.uint8)
    means = grey.reshape(3, 16, 2, 16, 2).mean(axis=(2, 4))
    assert np.abs(smaller(grey) - means).max() <= 0.5


@pytest.mark.parametrize("size", [(400, 300), (64, 64), (33, 200), (20, 10)])
def test_grey_of_any_size_is_the_mean_of_its_tiles(size: tuple[int, int]) -> None:
    image = picture(3).resize(size)
    exact = np.asarray(image.convert("L").resize((32, 32), Image.Resampling.BOX)).astype(int)
    assert np.abs(grey_of(image).astype(int) - exact).mean() < 3


def test_copies_are_near_and_other_pictures_are_not() -> None:
    originals = [picture(seed) for seed in range(40)]
    jpeg = io.BytesIO()
    originals[0].save(jpeg, "JPEG", quality=20)
    copies = [Image.open(jpeg), originals[1].resize((64, 48)), originals[2].point(lambda value: 0.8 * value + 20)]
    pairs, differing, alike = near_pairs(*look([*originals, *copies]))
    assert pairs.tolist() == [[0, 40], [1, 41], [2, 42]]
    assert differing.max() <= 6 and alike.min() >= 0.98


@pytest.mark.parametrize("radius", [0, 3, 4, 7, 8, MAX_RADIUS])
def test_the_search_finds_what_comparing_all_finds(radius: int) -> None:
    random = np.random.default_rng(radius)
    centres = random.integers(0, 2**64, 60, dtype=np.uint64)
    flips = [sum(1 << int(bit) for bit in random.choice(64, random.integers(0, 14), replace=False)) for _ in range(600)]
    codes = np.unique(np.repeat(centres, 10) ^ np.array(flips, dtype=np.uint64))
    expected = {
        (one, other)
        for one in range(len(codes))
        for other in range(one + 1, len(codes))
        if (int(codes[one]) ^ int(codes[other])).bit_count() <= radius
    }
    found = [pair for ones, others in near_codes(codes, radius) for pair in zip(ones, others, strict=True)]
    assert len(found) == len(set(found)) and set(found) == expected and (expected or radius == 0)


def test_bits_are_counted() -> None:
    numbers = np.random.default_rng(0).integers(0, 2**64, 100, dtype=np.uint64)
    assert bits_set(numbers).tolist() == [int(number).bit_count() for number in numbers]


def test_images_of_one_hash_are_compared_in_pairs_or_with_the_first() -> None:
    few = [picture(1)] * 5
    pairs, _, _ = near_pairs(*look(few))
    assert len(pairs) == 10
    many, others = [picture(1)] * 300, [picture(seed) for seed in range(2, 30)]
    pairs, _, _ = near_pairs(*look([*many, *others]))
    assert len(pairs) == 50 * 49 // 2 + 250 and groups_of(pairs, 328) == [list(range(300))]


def test_images_of_one_colour_look_like_nothing() -> None:
    white = Image.new("RGB", (50, 50), "white")
    assert len(near_pairs(*look([white, white, picture(0)]))[0]) == 0


def test_groups() -> None:
    pairs = np.array([[3, 5], [0, 7], [5, 9], [7, 8]])
    assert groups_of(pairs, 10) == [[0, 7, 8], [3, 5, 9]]
    assert groups_of(np.empty((0, 2), np.int64), 10) == []
