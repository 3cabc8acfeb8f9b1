"""Read all images once, in several processes."""

from __future__ import annotations

import gc
import hashlib
import io
import multiprocessing
import pickle
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image

from zoo.data.checking.hashing import SMALL, grey_of, hashes_of, shrunk, smaller
from zoo.data.image_set import ImageSet
from zoo.data.sources.addresses import read_place
from zoo.data.stored import StoredImage
from zoo.errors import DataError
from zoo.images import UNREADABLE, load_opened, read_pixels, reason_of, require_regular, turned
from zoo.progress import progress

_SPAN = 256  # images that a process reads before it reports
_ALONE = 2 * _SPAN  # up to this many are read in this process
_IN_MEMORY_AT_MOST = 64 << 20  # bytes of a file
_AT_ONCE = ("RGB", "L", "CMYK", "YCbCr", "1")  # modes that are converted to grey directly


@dataclass(frozen=True, eq=False)
class Readings:
    """The readings of N images.

    Attributes:
        unreadable: why an image cannot be read, by index.
        kinds: format and mode of each image, such as "JPEG RGB"; "" if unreadable.
        sizes: int32 ``(N, 2)``, width and height in pixels as stored; 0 if unreadable.
        digests: N SHA-256 digests of each image's bytes, or of its pixels if it has no bytes.
        hashes: uint64 ``(N,)``, perceptual hashes.
        small: uint8 ``(N, 16, 16)``, grey images.
    """

    unreadable: dict[int, str]
    kinds: list[str]
    sizes: np.ndarray
    digests: list[bytes]
    hashes: np.ndarray
    small: np.ndarray

    @property
    def readable(self) -> np.ndarray:
        """Return the indices of the readable images, int64."""
        return np.flatnonzero(self.sizes[:, 0] > 0)


@dataclass
class _Span:
    """The readings of a span of images."""

    start: int
    unreadable: dict[int, str] = field(default_factory=dict)
    kinds: list[str] = field(default_factory=list)
    sizes: list[tuple[int, int]] = field(default_factory=list)
    digests: list[bytes] = field(default_factory=list)
    hashes: np.ndarray = field(default_factory=lambda: np.empty(0, np.uint64))
    small: np.ndarray = field(default_factory=lambda: np.empty((0, SMALL, SMALL), np.uint8))


def read_all(images: ImageSet, workers: int) -> Readings:
    """Read all images once.

    Args:
        images: the images.
        workers: number of processes; with 1, this process reads.

    Raises:
        DataError: a process was killed.
    """
    count = len(images)
    spans = [(start, min(start + _SPAN, count)) for start in range(0, count, _SPAN)]
    small = np.zeros((count, SMALL, SMALL), np.uint8)
    result = Readings({}, [], np.zeros((count, 2), np.int32), [], np.zeros(count, np.uint64), small)
    with progress(None, "reading images", count) as bar:
        for (start, end), span in zip(spans, _each(images, spans, workers), strict=True):
            result.unreadable.update(span.unreadable)
            result.kinds.extend(span.kinds)
            result.digests.extend(span.digests)
            result.sizes[start:end] = span.sizes
            result.hashes[start:end] = span.hashes
            result.small[start:end] = span.small
            bar.update(end - start)
    return result


def _each(images: ImageSet, spans: list[tuple[int, int]], workers: int) -> Iterator[_Span]:
    if workers < 2 or len(images) <= _ALONE or not _can_be_sent(images):
        yield from (_read(images, span) for span in spans)
        return
    with ProcessPoolExecutor(min(workers, len(spans)), initializer=_begin, initargs=(images,)) as pool:
        try:
            yield from pool.map(_read_here, spans)
        except BrokenProcessPool as error:
            raise DataError(
                "A process that reads images was killed, probably because memory ran out. Try --workers 1."
            ) from error
        finally:
            pool.shutdown(cancel_futures=True)


def _can_be_sent(images: ImageSet) -> bool:
    """Return whether other processes can get the images: forked ones share them, others need a pickled copy."""
    if multiprocessing.get_start_method() == "fork":
        return True
    try:
        pickle.dumps(images)
    except (pickle.PicklingError, AttributeError, TypeError):
        return False
    return True


_images: list[ImageSet] = []


def _begin(images: ImageSet) -> None:
    gc.freeze()  # the collector would touch inherited objects, which unshares their memory
    _images[:] = [images]


def _read_here(span: tuple[int, int]) -> _Span:
    return _read(_images[0], span)


def _read(images: ImageSet, span: tuple[int, int]) -> _Span:
    found = _Span(span[0])
    greys = np.zeros((span[1] - span[0], 2 * SMALL, 2 * SMALL), np.uint8)
    for index in range(*span):
        try:
            kind, size, digest, greys[index - span[0]] = _examined(images, index)
        except (DataError, *UNREADABLE) as error:
            found.unreadable[index] = reason_of(error)
            kind, size, digest = "", (0, 0), b""
        found.kinds.append(kind)
        found.sizes.append(size)
        found.digests.append(digest)
    found.hashes, found.small = hashes_of(greys), smaller(greys)
    return found


def _examined(images: ImageSet, index: int) -> tuple[str, tuple[int, int], bytes, np.ndarray]:
    """Return an image's format and mode, its size, a digest and its grey values."""
    source = images.sources[index]
    if not isinstance(source, Path | StoredImage):
        pixels = images.pixels(index)
        digest = hashlib.sha256(repr(pixels.shape).encode() + pixels.tobytes()).digest()
        return "pixels RGB", (pixels.shape[1], pixels.shape[0]), digest, grey_of(Image.fromarray(pixels))
    with _opened(source) as file:
        with Image.open(file) as image:
            kind, size = f"{image.format} {image.mode}", image.size
            load_opened(image)
            if image.mode in _AT_ONCE and "transparency" not in image.info:
                grey = np.asarray(turned(shrunk(image), image))
            else:
                file.seek(0)
                grey = grey_of(Image.fromarray(read_pixels(file)))
        file.seek(0)
        return kind, size, hashlib.file_digest(file, "sha256").digest(), grey


def _opened(source: Path | StoredImage) -> io.BufferedReader | io.BytesIO:
    """Return an image's file, in memory unless it is large: a file with an image's suffix may be anything."""
    if isinstance(source, Path):
        require_regular(source)
        if source.stat().st_size > _IN_MEMORY_AT_MOST:
            return source.open("rb")
    return io.BytesIO(read_place(source) if isinstance(source, Path) else source.content())
