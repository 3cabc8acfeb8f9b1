"""Images in memory, or their paths, in lists and arrays: :func:`from_images`."""

from __future__ import annotations

import os
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from zoo.data.compact import Computed, Texts
from zoo.data.continuous import ContinuousLabels, VectorLabels
from zoo.data.division.splits import Source
from zoo.data.rows import text_of, values_of
from zoo.data.sources.addresses import RemoteImage, is_address
from zoo.data.stored import EncodedImage, ImageSource, StoredImage
from zoo.data.table import Table, source_of
from zoo.errors import DataError, shown
from zoo.paths import expanded


def from_images(
    images: Sequence[Any] | np.ndarray,
    labels: Sequence[Any] | np.ndarray | None = None,
    *,
    split: Sequence[str] | None = None,
    roles: Sequence[str] | None = None,
    ids: Sequence[str] | None = None,
    class_names: Sequence[str] = (),
    continuous: ContinuousLabels | np.ndarray | None = None,
    name: str = "images",
) -> Source:
    """Make data from a list of images, for any ``data`` argument.

    Args:
        images: N images: paths, addresses (``s3://...``), PIL images, uint8 arrays ``(H, W, 3)`` or ``(H, W)``, the
            bytes of image files, or uint8 torch tensors ``(3, H, W)``; in a list, in a column of a frame, or in an
            array ``(N, H, W, 3)``. Files are read when needed.
        labels: the class of each image, text or numbers; None or NaN for no class, for all images or for none.
        split: "train", "validation", "test", "query" or "gallery" for each image, in any usual spelling; images with
            "" are not used.
        roles: "query", "gallery" or "both" for each image.
        ids: N unique names; None for the paths relative to their common folder, or the positions if there are none.
        class_names: class names in order. ``labels`` are indices into them if they are numbers, or if none of them is
            a class name; else they are the names. Empty to take the labels for names, sorted as text.
        continuous: continuous labels, or numbers ``(N,)`` or vectors ``(N, L)`` that are compared by their Euclidean
            distance.
        name: name of the data, for messages and reports.

    Returns:
        The data.

    Raises:
        DataError: there is no image, one has another type, or there are more or fewer labels than images; names the
            position.
    """
    if hasattr(images, "to_list") or hasattr(images, "to_pylist"):  # a column of pandas, polars or pyarrow
        images = values_of(images)
    if not isinstance(images, Sequence | np.ndarray) or isinstance(images, str | bytes):
        raise DataError(f"{name}: images are {shown(images)}; give a list of paths, PIL images or arrays.")
    if isinstance(images, np.ndarray) and (images.ndim < 3 or (images.ndim == 3 and images.shape[2] in (1, 3, 4))):
        raise DataError(f"{name}: images are an array of shape {images.shape}; give (N, H, W, 3), or a list of images.")
    rows = [f"image {row}" for row in range(len(images))]
    cells: dict[str, Sequence[str]] = {}
    for column, values in (("label", labels), ("split", split), ("role", roles), ("id", ids)):
        if values is None:
            continue
        if not hasattr(values, "__len__") or isinstance(values, str) or len(values) != len(images):
            found = f"{len(values)} values" if hasattr(values, "__len__") else shown(values)
            raise DataError(f"{name}: {column} has {found} for {len(images)} images; there must be one each.")
        cells[column] = [text_of(value) for value in values]
    if class_names:
        are_texts = any(isinstance(label, str) for label in labels) if labels is not None else False
        cells["label"] = named_labels(name, rows, cells.get("label", ()), class_names, are_texts)
    found_sources = Table(name, rows, cells, class_names=class_names)
    source = source_of(with_images(found_sources, list(images), under_common_folder=ids is None))
    if continuous is None:
        return source
    labelled = continuous if isinstance(continuous, ContinuousLabels) else VectorLabels(_array(continuous))
    return replace(source, images=replace(source.images, continuous=labelled))


def named_labels(
    name: str, rows: Sequence[str], cells: Sequence[str], class_names: Sequence[str], are_texts: bool = False
) -> Texts:
    """Replace class indices by the names of the classes; names stay.

    Args:
        name: name of the data, for messages.
        rows: how messages name each row.
        cells: the labels, as text.
        class_names: the classes, in order.
        are_texts: the labels were text before, not numbers. They are indices only if none of them is a class name,
            since classes may be called "1", "2" and "3".

    Raises:
        DataError: an index is out of range, or a name is unknown.
    """
    known = set(class_names)
    are_names = are_texts and not known.isdisjoint(cells)
    named = Texts()
    for row, cell in zip(rows, cells, strict=True):
        if not are_names and cell.isdecimal() and int(cell) < len(class_names):
            cell = class_names[int(cell)]
        elif cell and cell not in known:
            cell = "" if cell == "-1" else cell  # -1 means no class
            if cell:
                raise DataError(
                    f"{name} {row}: label {shown(cell)} is not one of the {len(class_names)} classes. Fix the label, "
                    "or add the class."
                )
        named.append(cell)
    return named


def with_images(table: Table, values: Sequence[Any], under_common_folder: bool = False) -> Table:
    """Add the column of images to a table: paths unchanged, anything else as image sources.

    Args:
        table: with all other columns.
        values: paths, addresses, PIL images, arrays, bytes, or as Hugging Face has them, ``{"bytes", "path"}``; what
            is computed is images or paths as they are to be.
        under_common_folder: name images by their paths from the folder that all have in common.

    Raises:
        DataError: there is no image, or one has another type.
    """
    if not len(values):
        raise DataError(f"{table.name} has no images. Give at least one.")
    if all(isinstance(value, str | os.PathLike) for value in values):
        paths = Texts(map(os.fspath, values))
        cells = {**table.cells, "path": paths}
        if under_common_folder and not any(map(is_address, paths)):
            cells["id"] = _below_common_folder(paths)
        return replace(table, cells=cells)
    if isinstance(values, Computed):
        return replace(table, images=values)
    return replace(table, images=[image_source(table.place(row), value) for row, value in enumerate(values)])


def _below_common_folder(paths: Sequence[str]) -> list[str]:
    whole = [Path(os.path.normpath(expanded(path).absolute())) for path in paths]  # does not resolve links
    folder = os.path.commonpath([path.parent for path in whole])
    return [path.relative_to(folder).as_posix() for path in whole]


def image_source(place: str, value: Any) -> ImageSource:
    """Return the source of an image's pixels.

    Args:
        place: how messages name the image.
        value: the image, as in :func:`with_images`.

    Raises:
        DataError: it is not an image.
    """
    if isinstance(value, Mapping) and {"bytes", "path"} >= value.keys():
        value = value.get("bytes") or value.get("path")
    if isinstance(value, str | os.PathLike):
        return RemoteImage(str(value)) if is_address(str(value)) else expanded(value)
    if isinstance(value, bytes | bytearray | memoryview):
        return EncodedImage(bytes(value), place)
    if isinstance(value, StoredImage):
        return value
    if isinstance(value, Image.Image):
        return HeldImage(value)
    if hasattr(value, "detach"):  # a torch tensor
        array = _array(value)
        return _pixels(place, np.moveaxis(array, 0, -1) if array.ndim == 3 else array)
    if isinstance(value, np.ndarray):
        return _pixels(place, value)
    labels = " Labels are a list of their own: (images, labels)." if isinstance(value, tuple) else ""
    raise DataError(
        f"{place} is {shown(value)}, of type {type(value).__name__}. Give a path, a PIL image, an array or the bytes "
        f"of an image file.{labels}"
    )


def _array(values: Any) -> np.ndarray:
    """Return an array, or a torch tensor on any device, with gradient or without, as an array."""
    return values.detach().cpu().numpy() if hasattr(values, "detach") else np.asarray(values)


def _pixels(place: str, array: np.ndarray) -> np.ndarray:
    """Refuse numbers that are not uint8 pixels: scaled or normalised images would silently be normalised again."""
    if array.dtype == np.uint8:
        return array
    span = f" from {array.min():.3g} to {array.max():.3g}" if array.size and array.dtype.kind in "iuf" else ""
    raise DataError(
        f"{place} is {array.dtype} of shape {array.shape}{span}, not uint8 pixels. Models scale and normalise images "
        "themselves: leave out ToTensor, Normalize and the like, or convert to uint8."
    )


@dataclass(frozen=True, eq=False, repr=False)
class HeldImage:
    """A PIL image in memory, as a function that returns it."""

    image: Image.Image

    def __call__(self) -> Image.Image:
        return self.image

    def mark(self) -> int:
        """Return a checksum of the pixels, or -1 if they cannot be read."""
        try:
            return zlib.crc32(self.image.tobytes(), self.image.width)
        except (OSError, ValueError, SyntaxError):
            return -1
