"""Find images that are on both sides of a split, byte for byte."""

from __future__ import annotations

import hashlib
import zlib
from collections import defaultdict
from collections.abc import Callable, Hashable
from pathlib import Path

import numpy as np

from zoo.data.image_set import ImageSet
from zoo.data.stored import ImageSource, StoredImage, ZipMember

_BLOCK = 4096


def twins(one: ImageSet, other: ImageSet) -> list[tuple[int, int]]:
    """Return index pairs of the images of ``one`` that are also in ``other``, each with its first copy there.

    Files are compared by their bytes, but read completely only if their sizes and a block of each agree; members of zip
    archives are compared by size and checksum. Images about which nothing is known before reading, and those that
    functions make, are not compared.
    """
    left, right = list(range(len(one))), list(range(len(other)))
    found: dict[int, int] = {}
    for mark in (_size, _block, _content):
        places: dict[Hashable, list[int]] = defaultdict(list)
        for place in right:
            places[_marked(other.sources[place], mark)].append(place)
        places.pop(None, None)
        found = {}
        for place in left:
            same = places.get(_marked(one.sources[place], mark))
            if same:
                found[place] = same[0]
        left = list(found)
        kept = {_marked(one.sources[place], mark) for place in left}
        right = [place for key, those in places.items() if key in kept for place in those]
    return sorted(found.items())


def _marked(source: ImageSource, mark: Callable[[ImageSource], Hashable]) -> Hashable:
    try:
        return mark(source)
    except (OSError, ValueError):  # reported when the image is read
        return None


def _size(source: ImageSource) -> Hashable:
    if isinstance(source, Path):
        return source.stat().st_size if source.is_file() else None
    if isinstance(source, StoredImage):
        return source.likeness()
    return None if callable(source) else ("array", source.shape, zlib.crc32(source.tobytes()))


def _block(source: ImageSource) -> Hashable:
    if not isinstance(source, Path):
        return _size(source)
    with source.open("rb") as file:
        file.seek(source.stat().st_size // 2)
        return file.read(_BLOCK)


def _content(source: ImageSource) -> Hashable:
    if isinstance(source, np.ndarray):
        return hashlib.sha256(source.tobytes()).digest()
    if isinstance(source, StoredImage) and not isinstance(source, ZipMember):
        return hashlib.sha256(source.content()).digest()
    if not isinstance(source, Path):
        return _size(source)
    with source.open("rb") as file:
        return hashlib.file_digest(file, "sha256").digest()
