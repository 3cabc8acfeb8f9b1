"""The data protocol: images with ids and, if known, classes, continuous labels and roles."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from zoo.data.compact import json_items, most_repeated
from zoo.data.stored import ImageSource, StoredImage, mark_of
from zoo.errors import DataError, ModelError, printable
from zoo.images import UNREADABLE, read_pixels, reason_of
from zoo.notebook import html_table
from zoo.progress import progress

if TYPE_CHECKING:
    from zoo.data.continuous import ContinuousLabels

log = logging.getLogger(__name__)

QUERY, GALLERY, BOTH = "query", "gallery", "both"
_SHOWN_CLASSES = 3


@dataclass(frozen=True, eq=False, repr=False)
class ImageSet:
    """Images and what is known about them, by columns.

    Attributes:
        ids: N unique names, stable from run to run (such as paths relative to the data's root).
        sources: N sources of pixels: a path, an image stored in an archive or table, an array, or a function.
        labels: int64 ``(N,)``, the class of each image as an index into ``class_names``, or None if unknown.
        class_names: the name of each class.
        roles: ``(N,)`` of "query", "gallery" or "both"; None if every image is a query against all others.
        continuous: continuous labels, one for each image, or None.
    """

    ids: Sequence[str]
    sources: Sequence[ImageSource]
    labels: np.ndarray | None = None
    class_names: Sequence[str] = ()
    roles: np.ndarray | None = None
    continuous: ContinuousLabels | None = None

    def __post_init__(self) -> None:
        if len(self.ids) != len(self.sources):
            raise DataError(f"{len(self.ids)} ids for {len(self.sources)} images; there must be one each.")
        twice = most_repeated(self.ids)
        if twice is not None:
            raise DataError(f"Image id {twice!r} occurs more than once; ids must be unique.")
        if self.labels is not None:
            if self.labels.shape != (len(self.ids),):
                raise DataError(f"{len(self.labels)} labels for {len(self.ids)} images; there must be one each.")
            if len(self.labels) and not 0 <= self.labels.min() <= self.labels.max() < len(self.class_names):
                raise DataError(f"A label lies outside 0..{len(self.class_names) - 1}, the indices of the classes.")
        if self.roles is not None:
            if self.roles.shape != (len(self.ids),):
                raise DataError(f"{len(self.roles)} roles for {len(self.ids)} images; there must be one each.")
            unknown = set(self.roles) - {QUERY, GALLERY, BOTH}
            if unknown:
                raise DataError(f"Role {str(sorted(unknown)[0])!r} is not one of query, gallery, both.")
        if self.continuous is not None and len(self.continuous) != len(self.ids):
            raise DataError(
                f"{len(self.continuous)} continuous labels for {len(self.ids)} images; there must be one each."
            )

    def __len__(self) -> int:
        return len(self.ids)

    def __repr__(self) -> str:
        return f"ImageSet({', '.join(f'{text} {what}' for what, text in self._counted() if what != 'such as')})"

    def _repr_html_(self) -> str:
        return html_table(self._counted())

    def _counted(self) -> list[tuple[str, str]]:
        """Return what the set contains, with counts, for display."""
        found = [("images", f"{len(self):,}")]
        if self.labels is not None:
            there = np.unique(self.labels)
            names = [str(self.class_names[label]) for label in there[:_SHOWN_CLASSES]]
            found += [("classes", f"{len(there):,}"), ("such as", ", ".join(names))]
        if self.roles is not None:
            found += [(f"as {role}", f"{int((self.roles == role).sum()):,}") for role in (QUERY, GALLERY, BOTH)]
        if self.continuous is not None:
            found.append(("continuous labels", f"{len(self.continuous):,}"))
        return found

    def pixels(self, index: int) -> np.ndarray:
        """Return image ``index`` as RGB pixels, uint8 ``(H, W, 3)``.

        Raises:
            DataError: the image cannot be read; names it.
        """
        source = self.sources[index]
        try:
            if isinstance(source, StoredImage):
                return source.read()
            if isinstance(source, Path | np.ndarray):
                return read_pixels(source)
            return read_pixels(source())
        except UNREADABLE as error:
            reason = reason_of(error)
            raise DataError(f"Image {self.place(index)} cannot be read ({reason}). Fix or remove it.") from error

    def place(self, index: int) -> str:
        """Return where image ``index`` lies, as messages name it: its file, or its id where it is none."""
        source = self.sources[index]
        return str(source if isinstance(source, Path | StoredImage) else self.ids[index])

    def subset(self, indices: np.ndarray | Sequence[int]) -> ImageSet:
        """Return the images with these indices, in this order; classes keep their indices."""
        rows = np.asarray(indices, dtype=np.int64)
        return ImageSet(
            ids=[self.ids[i] for i in rows],
            sources=[self.sources[i] for i in rows],
            labels=None if self.labels is None else self.labels[rows],
            class_names=self.class_names,
            roles=None if self.roles is None else self.roles[rows],
            continuous=None if self.continuous is None else self.continuous.subset(rows),
        )

    def without_labels(self) -> ImageSet:
        """Return the same images without classes; continuous labels stay."""
        return replace(self, labels=None, class_names=())

    def require_finite(self, vectors: np.ndarray, model: str) -> np.ndarray:
        """Return these images' vectors where all of their numbers are finite.

        Args:
            vectors: float ``(len(self), D)``.
            model: what gave them, as the message begins.

        Raises:
            ModelError: one is not; names its image.
        """
        finite = np.isfinite(vectors).all(axis=1)
        if not finite.all():
            first, count = int(np.argmin(finite)), int((~finite).sum())
            raise ModelError(
                f"{model} gave vectors that are not finite for {count} of {len(self)} images, the first "
                f"{self.place(first)}. Check its weights and precision; if it is sound, leave these images out."
            )
        return vectors

    def checked(self, max_unreadable: int = 10, cache_bytes: int = 2 << 30) -> ImageSet:
        """Decode every image once; leave out unreadable ones and keep as many pixels in memory as fit.

        Args:
            max_unreadable: how many unreadable images are reported and left out; one more raises an error.
            cache_bytes: bytes of decoded pixels to keep; images beyond that are decoded again when used.

        Raises:
            DataError: more images than ``max_unreadable`` cannot be read, or none is left.
        """
        sources: list[ImageSource] = []
        readable: list[int] = []
        broken: list[str] = []
        for index, source in enumerate(self._decoded(cache_bytes, "reading images")):
            if isinstance(source, DataError):
                broken.append(str(source))
                log.warning("left out: %s", source)
                if len(broken) > max_unreadable:
                    raise DataError(
                        f"{len(broken)} images cannot be read; the limit is {max_unreadable} (max_unreadable). "
                        f"The first: {broken[0]}"
                    )
                continue
            readable.append(index)
            sources.append(source)
        if not readable:
            raise DataError("No images are left. Check the data's path and split.")
        return replace(self.subset(readable), sources=sources)

    def decoded(self, rows: Sequence[int], cache_bytes: int) -> tuple[ImageSet, dict[int, str]]:
        """Decode some images; return the readable ones, and why the others cannot be read, by row.

        Args:
            rows: rows of the images.
            cache_bytes: bytes of decoded pixels to keep; images beyond that are decoded again when used.
        """
        part = self.subset(rows)
        found = list(part._decoded(cache_bytes))
        broken = {row: str(source) for row, source in zip(rows, found, strict=True) if isinstance(source, DataError)}
        readable = [place for place, source in enumerate(found) if not isinstance(source, DataError)]
        sources = [source for source in found if not isinstance(source, DataError)]
        return replace(part.subset(readable), sources=sources), broken

    def _decoded(self, cache_bytes: int, shown_as: str = "") -> Iterator[ImageSource | DataError]:
        """Yield each image's pixels, its source once ``cache_bytes`` are kept, or the error if it cannot be read."""
        kept_bytes = 0
        with ThreadPoolExecutor() as pool:
            results = progress(self._each(pool), shown_as, len(self), shown=bool(shown_as))
            for index, result in enumerate(results):
                if isinstance(result, DataError):
                    yield result
                    continue
                keep = kept_bytes + result.nbytes <= cache_bytes
                kept_bytes += result.nbytes if keep else 0
                yield result if keep else self.sources[index]

    @cached_property
    def digest(self) -> str:
        """Return 16 hexadecimal digits that change with the images; see :attr:`DataSplits.digest`."""
        hashed = hashlib.sha256()
        self.add_to(hashed)
        return hashed.hexdigest()[:16]

    def add_to(self, hashed: hashlib._Hash) -> None:
        """Add the images, labels and roles to a digest."""
        labels = () if self.labels is None else map(int, self.labels)
        roles = () if self.roles is None else map(str, self.roles)
        before = "["
        for column in (self.ids, labels, roles, map(mark_of, self.sources)):
            for piece in json_items(column):
                hashed.update((before + piece).encode())
                before = ""
            before = ", "
        hashed.update(b"]")
        if self.continuous is not None:
            hashed.update(self.continuous.digest.encode())

    def _try_pixels(self, index: int) -> np.ndarray | DataError:
        try:
            return self.pixels(index)
        except DataError as error:
            return error

    def _each(self, pool: ThreadPoolExecutor) -> Iterator[np.ndarray | DataError]:
        # Executor.map runs ahead without limit; blocks bound the number of waiting images.
        for start in range(0, len(self), 256):
            yield from pool.map(self._try_pixels, range(start, min(start + 256, len(self))))


@dataclass(frozen=True, eq=False, repr=False)
class DataSplits:
    """A data set split into three parts: classes of ``test`` are never in ``train`` or ``validation``.

    Attributes:
        name: the data as the user named them, such as ``folder:photos``.
        train: images to train on.
        validation: images to choose checkpoints and settings by, of classes held out of ``train`` unless the data
            defines them itself; may be empty.
        test: images to measure on, of classes never seen in training.
        protocol: how the data was split, in words and numbers, for reports.
    """

    name: str
    train: ImageSet
    validation: ImageSet
    test: ImageSet
    protocol: dict[str, Any] = field(default_factory=dict)

    def __repr__(self) -> str:
        parts = ", ".join(f"{name}={part!r}" for name, part in self._parts())
        return f"DataSplits({printable(self.name)!r}, {parts})"

    def _repr_html_(self) -> str:
        counted = [(name, dict(part._counted())) for name, part in self._parts()]
        columns = list(dict.fromkeys(what for _, part in counted for what in part))
        rows = [(name, *(part.get(what, "") for what in columns)) for name, part in counted]
        split = self.protocol.get("split")
        above = self.name if split is None else f"{self.name}, split {split}"
        return html_table(rows, ["", *columns], [above])

    def _parts(self) -> list[tuple[str, ImageSet]]:
        return [("train", self.train), ("validation", self.validation), ("test", self.test)]

    @property
    def digest(self) -> str:
        """Return 16 hexadecimal digits that change if an image, role, class or continuous label changes.

        They cover only what is cheap to know of an image: a file's size, an archive's checksum, an array's bytes.
        """
        hashed = hashlib.sha256()
        for part in (self.train, self.validation, self.test):
            part.add_to(hashed)
        return hashed.hexdigest()[:16]
