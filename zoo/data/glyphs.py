"""``glyphs``: letters rendered on the fly from the DejaVu fonts that matplotlib ships. Nothing to download.

A class is a character. Its images show it in up to 12 faces (Sans, Sans Mono and Serif, each regular, bold, oblique and
bold oblique), each rotated, sheared, scaled and shifted a little, by amounts that depend only on the character and the
face. So every machine renders the same images.

Train: Latin and Cyrillic letters. Test: Greek, Armenian and Georgian letters, scripts never seen in training.
Letters with accents are left out. Of characters that look the same in DejaVu Sans except for their size (Latin A,
Cyrillic А, Greek Α; O, o, ο) only the first is kept, so that no test class is a training class under another name.
"""

from __future__ import annotations

import unicodedata
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFilter, ImageFont

from zoo.data.division.splits import TEST, TRAIN, Source
from zoo.data.image_set import ImageSet

TRAIN_SCRIPTS = ("LATIN", "CYRILLIC")
TEST_SCRIPTS = ("GREEK", "ARMENIAN", "GEORGIAN")
FACES = tuple(
    f"DejaVu{family}{style}"
    for family, slanted in (("Sans", "Oblique"), ("SansMono", "Oblique"), ("Serif", "Italic"))
    for style in ("", "-Bold", f"-{slanted}", f"-Bold{slanted}")
)
MIN_FACES = 8
SIDE = 64  # pixels of a rendered image
_SUPERSAMPLING = 2
_SHAPE_SIDE = 32
# Two blurred shapes count as the same from this cosine similarity on: within train or test, where similar letters are
# merely hard, and between them, where к and κ, Ф and Φ, S and Տ must not both occur.
_LOOK_ALIKE = 0.98
_LOOK_ALIKE_ACROSS = 0.93


def read_glyphs(path: str = "") -> Source:
    """List the glyphs; pixels are rendered when an image is read. ``path`` is not used."""
    characters = _characters()
    ids, sources, labels, split = [], [], [], []
    for label, (character, faces, side) in enumerate(characters):
        for face in faces:
            ids.append(f"U+{ord(character):04X}/{face}")
            sources.append(_Glyph(character, face))
            labels.append(label)
            split.append(side)
    class_names = [f"{character} U+{ord(character):04X}" for character, _, _ in characters]
    images = ImageSet(ids, sources, np.array(labels, dtype=np.int64), class_names)
    note = "train: Latin and Cyrillic letters; test: Greek, Armenian and Georgian letters; look-alikes removed"
    return Source(images, np.array(split, dtype=object), note)


class _Glyph:
    """One character in one face; calling it renders the pixels."""

    def __init__(self, character: str, face: str) -> None:
        self.character = character
        self.face = face

    def __call__(self) -> np.ndarray:
        seed = [ord(self.character), FACES.index(self.face)]
        draw = np.random.default_rng(seed).uniform(-1, 1, size=5)
        return render(self.character, self.face, draw)


def render(character: str, face: str, distortion: np.ndarray | None = None) -> np.ndarray:
    """Render a character in black on white.

    Args:
        character: one character that the face has.
        face: one of ``FACES``.
        distortion: 5 numbers in [-1, 1]: fractions of 8 degrees of rotation, a shear of 0.12, a scale of 12 %, and
            shifts of 6 % of the side to the right and down. None for no distortion.

    Returns:
        uint8 ``(SIDE, SIDE, 3)``.
    """
    side = SIDE * _SUPERSAMPLING
    image = Image.new("L", (side, side), 255)
    font = _font(face, round(side * 0.6))
    ImageDraw.Draw(image).text((side / 2, side * 0.68), character, font=font, fill=0, anchor="ms")
    if distortion is not None:
        turn, shear, scale, right, down = distortion * (np.deg2rad(8), 0.12, 0.12, 0.06 * side, 0.06 * side)
        # PIL's affine transform maps output to input: x_in = M (x_out - centre - shift) + centre.
        rotation = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
        matrix = rotation @ np.array([[1, shear], [0, 1]]) * (1 + scale)
        centre = np.array([side / 2, side / 2])
        offset = centre - matrix @ (centre + np.array([right, down]))
        coefficients = (*matrix[0], offset[0], *matrix[1], offset[1])
        image = image.transform(
            image.size, Image.Transform.AFFINE, coefficients, Image.Resampling.BILINEAR, fillcolor=255
        )
    image = image.resize((SIDE, SIDE), Image.Resampling.BOX)
    return np.repeat(np.asarray(image)[:, :, None], 3, axis=2)


@cache
def _font(face: str, size: int) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(str(_font_path(face)), size)  # Pillow 10.0 takes no Path


def _font_path(face: str) -> Path:
    import matplotlib

    return Path(matplotlib.get_data_path()) / "fonts" / "ttf" / f"{face}.ttf"


@cache
def _characters() -> list[tuple[str, tuple[str, ...], str]]:
    """Return (character, its faces, split) of all letters without accents and look-alikes, training scripts first."""
    from fontTools.ttLib import TTFont

    coverage = {face: frozenset(TTFont(_font_path(face), lazy=True).getBestCmap()) for face in FACES}
    shapes = np.empty((0, _SHAPE_SIDE**2), dtype=np.float32)
    kept: list[tuple[str, tuple[str, ...], str]] = []
    for side, scripts in ((TRAIN, TRAIN_SCRIPTS), (TEST, TEST_SCRIPTS)):
        for script in scripts:
            for code in sorted(coverage["DejaVuSans"]):
                character = chr(code)
                if not _is_base_letter(character, script):
                    continue
                faces = tuple(face for face in FACES if code in coverage[face])
                shape = _shape(character)
                limits = [_LOOK_ALIKE if other == side else _LOOK_ALIKE_ACROSS for _, _, other in kept]
                if len(faces) < MIN_FACES or (shapes @ shape >= limits).any():
                    continue
                shapes = np.vstack([shapes, shape])
                kept.append((character, faces, side))
    return kept


def _shape(character: str) -> np.ndarray:
    """Return a character's ink in DejaVu Sans, scaled to a fixed size and blurred, as a float32 unit vector."""
    image = Image.new("L", (256, 256), 0)
    ImageDraw.Draw(image).text((128, 176), character, font=_font("DejaVuSans", 150), fill=255, anchor="ms")
    ink = image.crop(image.getbbox())
    side = max(ink.size)
    square = Image.new("L", (side, side), 0)
    square.paste(ink, ((side - ink.width) // 2, (side - ink.height) // 2))
    small = square.resize((_SHAPE_SIDE, _SHAPE_SIDE), Image.Resampling.BOX).filter(ImageFilter.GaussianBlur(1))
    shape = np.asarray(small, dtype=np.float32).reshape(-1)
    return shape / np.linalg.norm(shape)


def _is_base_letter(character: str, script: str) -> bool:
    name = unicodedata.name(character, "")
    return (
        name.startswith(script + " ")
        and unicodedata.category(character).startswith("L")
        and not unicodedata.decomposition(character)
        and " WITH " not in name
    )
