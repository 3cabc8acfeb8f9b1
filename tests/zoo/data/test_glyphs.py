"""Glyphs: the same on every call, with unseen letters for the test."""

from __future__ import annotations

import hashlib
import unicodedata

import numpy as np
import pytest
from PIL import Image

from zoo.data import glyphs, load_data
from zoo.data.glyphs import FACES, SIDE, read_glyphs, render
from zoo.data.image_set import DataSplits


@pytest.fixture(scope="module")
def data() -> DataSplits:
    return load_data("glyphs")


def characters(images) -> list[str]:
    return [images.class_names[label].split()[0] for label in np.unique(images.labels)]


def test_pixels_are_the_same_on_every_call() -> None:
    def digest() -> str:
        images = read_glyphs().images
        return hashlib.sha256(b"".join(images.pixels(i).tobytes() for i in range(0, len(images), 40))).hexdigest()

    first = digest()
    glyphs._characters.cache_clear()
    glyphs._font.cache_clear()
    assert digest() == first


def test_the_list_of_characters_is_pinned(data: DataSplits) -> None:
    # Published figures rest on this list. A change of it is a change of the data set: say so in the changelog.
    assert [len(characters(part)) for part in (data.train, data.validation, data.test)] == [234, 59, 214]


def test_scripts_are_divided_between_train_and_test(data: DataSplits) -> None:
    def scripts(part) -> set[str]:
        return {unicodedata.name(character).split()[0] for character in characters(part)}

    assert scripts(data.train) | scripts(data.validation) == {"LATIN", "CYRILLIC"}
    assert scripts(data.test) == {"GREEK", "ARMENIAN", "GEORGIAN"}
    assert len(characters(data.test)) >= 200


def ink(character: str) -> np.ndarray:
    """An independent measure of shape: the ink of a serif rendering, cut out and stretched to 24 x 24, as 0 and 1."""
    image = Image.fromarray(255 - render(character, "DejaVuSerif")[:, :, 0])
    cut = image.crop(image.point(lambda value: 255 * (value > 64)).getbbox())
    return (np.asarray(cut.resize((24, 24), Image.Resampling.BOX)) > 96).ravel()


def overlaps(one: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Intersection over union with each of the others."""
    return (one & others).sum(axis=1) / (one | others).sum(axis=1)


def test_no_test_class_looks_like_a_training_class(data: DataSplits) -> None:
    known = characters(data.train) + characters(data.validation)
    tested = characters(data.test)
    for seen, other in (("A", "Α"), ("O", "ο"), ("к", "κ"), ("Ф", "Φ"), ("Ф", "Փ"), ("S", "Տ"), ("h", "Ⴙ"), ("Q", "Ⴍ")):
        assert seen in known and other not in tested, other
    shapes = np.array([ink(character) for character in known])
    assert overlaps(ink("κ"), shapes).max() == 1.0  # so it would show if one had stayed
    nearest = {character: overlaps(ink(character), shapes).max() for character in tested}
    assert max(nearest.values()) < 0.95, max(nearest, key=nearest.get)


def test_every_class_has_several_faces_and_they_differ(data: DataSplits) -> None:
    labels, counts = np.unique(data.test.labels, return_counts=True)
    assert counts.min() >= 8 and counts.max() <= len(FACES) == 12
    of_one = np.flatnonzero(data.test.labels == labels[0])
    assert len({data.test.pixels(i).tobytes() for i in of_one}) == counts[0]


def test_a_glyph_is_black_on_white_and_inside_the_image(data: DataSplits) -> None:
    for i in range(0, len(data.test), 25):
        pixels = data.test.pixels(i)
        assert pixels.shape == (SIDE, SIDE, 3) and (pixels == pixels[:, :, :1]).all()
        border = np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]])
        assert (border == 255).all(), data.test.ids[i]
        assert pixels.min() < 64 and 0.5 < (pixels == 255).mean() < 0.99


def test_the_distortion_turns_scales_and_shifts() -> None:
    def ink_box(*distortion: float) -> np.ndarray:
        rows, columns = np.nonzero(render("l", "DejaVuSans", np.array(distortion))[:, :, 0] < 128)
        return np.array([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1])

    plain = ink_box(0, 0, 0, 0, 0)
    assert (ink_box(0, 0, 0, 0, 0) == plain).all()
    shift = 0.06 * SIDE
    assert ink_box(0, 0, 0, 1, 0) - plain == pytest.approx([shift, 0, shift, 0], abs=1)
    assert ink_box(0, 0, 0, 0, -1) - plain == pytest.approx([0, -shift, 0, -shift], abs=1)
    # a coordinate scale of 1.12 shrinks the letter by as much; a turn widens an upright stroke's box
    height = plain[3] - plain[1]
    larger, smaller = ink_box(0, 0, -1, 0, 0), ink_box(0, 0, 1, 0, 0)
    assert larger[3] - larger[1] == pytest.approx(height / 0.88, abs=1.5)
    assert smaller[3] - smaller[1] == pytest.approx(height / 1.12, abs=1.5)
    turned = ink_box(1, 0, 0, 0, 0)
    widening = (turned[2] - turned[0]) - (plain[2] - plain[0])
    assert widening == pytest.approx(height * np.sin(np.deg2rad(8)), abs=2)
