"""Images stored in something larger than a file, such as an archive or a column of a table."""

from __future__ import annotations

import os
import zipfile
import zlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from zoo.images import MAX_PIXELS, read_pixels

_LARGEST = 8 * MAX_PIXELS  # bytes of an image in an archive: four channels of 16 bits


class StoredImage(ABC):
    """An encoded image that is read on demand, in any process."""

    @abstractmethod
    def content(self) -> bytes:
        """Return the encoded image, as a file would hold it."""

    @abstractmethod
    def mark(self) -> Any:
        """Return a JSON value that very likely changes if the image changes, without reading the image."""

    def likeness(self) -> Hashable:
        """Return a key that images with the same bytes share, without reading them; None if unknown."""
        return None

    def read(self) -> np.ndarray:
        """Return the pixels, uint8 ``(H, W, 3)``."""
        return read_pixels(self.content())


@dataclass(frozen=True)
class ZipMember(StoredImage):
    """An image inside a zip archive. Each process opens the archive itself, since a shared file offset is a race."""

    archive: Path
    member: str

    def read(self) -> np.ndarray:
        with self._opened().open(self.member) as file:
            return read_pixels(file)

    def content(self) -> bytes:
        if self.likeness()[1] > _LARGEST:
            raise OSError(f"it unpacks to {self.likeness()[1]} bytes")
        return self._opened().read(self.member)

    def mark(self) -> int:
        """Return the archive's checksum of the file."""
        return self.likeness()[0]

    def likeness(self) -> tuple[int, int]:
        """Return the archive's checksum of the file and its size in bytes; -1 for both if it is missing."""
        if self.archive not in _fingerprints:
            with zipfile.ZipFile(self.archive) as opened:
                _fingerprints[self.archive] = {info.filename: (info.CRC, info.file_size) for info in opened.infolist()}
        return _fingerprints[self.archive].get(self.member, (-1, -1))

    def _opened(self) -> zipfile.ZipFile:
        key = (os.getpid(), self.archive)
        archive = _open_archives.get(key)
        if archive is None:
            archive = _open_archives[key] = zipfile.ZipFile(self.archive)
        return archive

    def __str__(self) -> str:
        return f"{self.archive}:{self.member}"


_open_archives: dict[tuple[int, Path], zipfile.ZipFile] = {}
_fingerprints: dict[Path, dict[str, tuple[int, int]]] = {}


@dataclass(frozen=True, repr=False)
class EncodedImage(StoredImage):
    """An encoded image in memory.

    Attributes:
        encoded: the bytes of a JPEG, PNG or other file.
        name: how messages name it.
    """

    encoded: bytes
    name: str

    def content(self) -> bytes:
        return self.encoded

    def mark(self) -> int:
        return zlib.crc32(self.encoded)

    def likeness(self) -> tuple[int, int]:
        return self.mark(), len(self.encoded)

    def __str__(self) -> str:
        return self.name


ImageSource = Path | StoredImage | np.ndarray | Callable[[], Any]
"""The source of an image's pixels. A function returns anything that :func:`zoo.images.read_pixels` takes; if it has a
method ``mark``, that returns a value that changes when the image changes."""


def mark_of(source: ImageSource) -> Any:
    """Return a JSON value that very likely changes if the image changes; None if unknown."""
    if isinstance(source, np.ndarray):
        return zlib.crc32(source.tobytes())
    if isinstance(source, Path):
        try:
            return source.stat().st_size
        except (OSError, ValueError):
            return -1
    mark = getattr(source, "mark", None)
    return None if mark is None else mark()
