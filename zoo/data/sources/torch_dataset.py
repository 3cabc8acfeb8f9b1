"""Map-style data sets of torch and torchvision, with an image and possibly a label for each index."""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from zoo.data.division.splits import Source
from zoo.data.rows import text_of
from zoo.data.sources.from_images import HeldImage, image_source, named_labels
from zoo.data.stored import ImageSource, StoredImage
from zoo.data.table import Table, source_of
from zoo.errors import DataError, UserError
from zoo.images import UNREADABLE, read_pixels, reason_of
from zoo.progress import progress

_TWICE = 8  # images that are read twice, to notice random transforms


def read_torch_dataset(dataset: Any) -> Source:
    """Read a map-style data set, such as ImageFolder, CIFAR10, a Subset or a ConcatDataset.

    Images of an ImageFolder without a transform are read from their files. Any other data set is read once, to collect
    labels, check images and compute their checksums; no image is kept. A transform must return PIL or uint8 images, and
    the same ones each time: models scale, normalise and augment images themselves.

    Args:
        dataset: has a length, and returns an image, or an image and a label, for an index. Its ``classes`` are the
            class names.

    Raises:
        DataError: it can only be iterated; an item is not an image; or an image changes each time.
    """
    name = _name(dataset)
    if type(dataset).__name__ == "DataLoader":
        raise DataError("A DataLoader gives batches, and images are needed. Give its dataset, loader.dataset.")
    if not hasattr(dataset, "__len__") or not hasattr(dataset, "__getitem__"):
        raise DataError(
            f"{name} only iterates, so its images have no number. Give a map-style Dataset (__len__ and __getitem__), "
            "or write its images to files or to webdataset shards, shards:FILE.tar."
        )
    if not len(dataset):
        raise DataError(f"{name} has no images. Give at least one.")
    leaves = list(_leaves(dataset, [(row, row) for row in range(len(dataset))]))
    classes = [[str(one) for one in getattr(leaf, "classes", ())] for leaf, _ in leaves]
    places: list[int] = []
    ids: list[str] = []
    images: list[ImageSource] = []
    labels: list[str] = []
    for number, ((leaf, used), names) in enumerate(zip(leaves, classes, strict=True)):
        indices = [index for _, index in used]
        places += [row for row, _ in used]
        prefix = f"{number}/" if len(leaves) > 1 else ""
        found = _files(leaf, indices) or _items(leaf, indices, name)
        rows = [f"item {index}" for index in indices]
        ids += [prefix + one for one, _, _ in found]
        images += [image for _, image, _ in found]
        of_each = [text_of(label) for _, _, label in found]
        are_texts = any(isinstance(label, str) for _, _, label in found)
        labels += named_labels(name, rows, of_each, names, are_texts) if names else of_each
    in_order = classes[0] if all(names == classes[0] for names in classes) else []
    rows = [f"item {row}" for row in range(len(ids))]
    order = np.argsort(places).tolist()  # that of the data set, whose subset may take turns between its parts
    cells = {column: [those[at] for at in order] for column, those in (("id", ids), ("label", labels))}
    return source_of(Table(name, rows, cells, images=[images[at] for at in order], class_names=in_order))


def _name(dataset: Any) -> str:
    root = getattr(dataset, "root", None)
    return type(dataset).__name__ + (f":{root}" if isinstance(root, str | Path) and str(root) else "")


def _leaves(dataset: Any, used: Sequence[tuple[int, int]]) -> Iterator[tuple[Any, Sequence[tuple[int, int]]]]:
    """Yield the data sets that subsets and concatenations consist of.

    Args:
        dataset: any of them.
        used: the row of each image in the whole, and its index in ``dataset``.

    Yields:
        A data set, and its used rows and indices.
    """
    kind = {parent.__name__ for parent in type(dataset).__mro__}
    # Subclasses that return something else, such as transformed images, are read as they are.
    unchanged = getattr(type(dataset).__getitem__, "__module__", "") == "torch.utils.data.dataset"
    if "Subset" in kind and unchanged:
        yield from _leaves(dataset.dataset, [(row, int(dataset.indices[index])) for row, index in used])
    elif "ConcatDataset" in kind and unchanged:
        first = 0
        for part in dataset.datasets:
            mine = [(row, index - first) for row, index in used if first <= index < first + len(part)]
            if mine:
                yield from _leaves(part, mine)
            first += len(part)
    else:
        yield dataset, used


def _files(dataset: Any, indices: Sequence[int]) -> list[tuple[str, ImageSource, Any]]:
    """Return ids, paths and labels of a torchvision data set that reads files unchanged; an empty list for others."""
    kinds = {parent.__name__ for parent in type(dataset).__mro__}
    transforms = [getattr(dataset, name, None) for name in ("transform", "target_transform", "transforms")]
    loader = getattr(getattr(dataset, "loader", None), "__name__", "")
    if "DatasetFolder" not in kinds or any(transforms) or loader != "default_loader":
        return []
    if type(dataset).__getitem__.__module__ != "torchvision.datasets.folder":
        return []
    found: list[tuple[str, ImageSource, Any]] = []
    for index in indices:
        path, label = dataset.samples[index]
        found.append((Path(path).relative_to(dataset.root).as_posix(), Path(path), label))
    return found


def _items(dataset: Any, indices: Sequence[int], name: str) -> list[tuple[str, ImageSource, Any]]:
    """Read a data set once; return ids, images that can be read again, and labels."""
    found: list[tuple[str, ImageSource, Any]] = []
    for row, index in enumerate(progress(indices, f"reading {name}")):
        place = f"{name} item {index}"
        image, label = _item(dataset, index, place)
        mark = _mark(image, place)
        if row < _TWICE and mark != -1 and _mark(_item(dataset, index, place)[0], place) != mark:
            raise DataError(
                f"{place} is another image each time, as random transforms make it. Leave the transform out: train and "
                "distill have random views of their own, augment."
            )
        found.append((f"{index}", _Item(dataset, index, name, mark), label))
    return found


def _item(dataset: Any, index: int, place: str) -> tuple[Any, Any]:
    """Return an image and its label; the image is None if it cannot be read but its label is known."""
    try:
        return _parts(dataset[index])
    except UserError:
        raise
    except Exception as error:  # foreign data sets may raise anything
        targets = getattr(dataset, "targets", ())
        if index >= len(targets) or not isinstance(error, UNREADABLE):
            raise DataError(f"{place} cannot be read ({reason_of(error)}). Fix the data set.") from error
        return None, targets[index]


def _parts(item: Any) -> tuple[Any, Any]:
    if isinstance(item, Mapping):
        image = next((item[key] for key in ("image", "img", "pixel_values") if key in item), None)
        return image, next((item[key] for key in ("label", "labels", "target") if key in item), None)
    if isinstance(item, tuple | list):
        return item[0], item[1] if len(item) > 1 else None
    return item, None


def _mark(image: Any, place: str) -> int:
    """Return a checksum of an image, or -1 if it cannot be read, which its use will report again."""
    if image is None:
        return -1
    try:
        pixels = _pixels(image, place)
    except UNREADABLE:
        return -1
    return zlib.crc32(pixels.tobytes(), pixels.shape[1])


def _pixels(image: Any, place: str) -> np.ndarray:
    source = image_source(place, image)
    if isinstance(source, StoredImage):
        return source.read()
    return read_pixels(source.image if isinstance(source, HeldImage) else source)


@dataclass(frozen=True, eq=False, repr=False)
class _Item:
    """An image of a data set, as a function that reads it."""

    dataset: Any
    index: int
    name: str
    checksum: int

    def __call__(self) -> np.ndarray:
        place = f"{self.name} item {self.index}"
        return _pixels(_parts(self.dataset[self.index])[0], place)

    def mark(self) -> int:
        """Return the checksum of the pixels from when the data set was read."""
        return self.checksum
