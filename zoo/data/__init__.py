"""Data of every kind, as one protocol: see :class:`zoo.data.image_set.ImageSet`."""

from __future__ import annotations

import logging
from importlib import import_module
from pathlib import Path

from zoo.data.division.splits import Reader, Source, divide
from zoo.data.image_set import DataSplits, ImageSet
from zoo.errors import DataError, did_you_mean, printable
from zoo.paths import given_path

log = logging.getLogger(__name__)

__all__ = ["READERS", "DataSplits", "ImageSet", "Source", "load_data", "load_images"]

# kind -> module and function that reads it; imported when asked for
READERS: dict[str, str] = {
    "glyphs": "zoo.data.glyphs:read_glyphs",
    "folder": "zoo.data.folder:read_folder",
    "csv": "zoo.data.table:read_csv",
    "omniglot": "zoo.data.torchvision_sets:read_omniglot",
    "cifar100": "zoo.data.torchvision_sets:read_cifar100",
    "cub200": "zoo.data.published.cub200:read_cub200",
    "cars196": "zoo.data.published.cars196:read_cars196",
    "sop": "zoo.data.published.sop:read_sop",
    "inshop": "zoo.data.published.inshop:read_inshop",
    "grocery": "zoo.data.published.grocery:read_grocery",
    "grocery-catalogue": "zoo.data.published.grocery:read_grocery_catalogue",
}


def load_data(
    data: str | Path | DataSplits,
    split: str = "auto",
    validation: float = 0.2,
    continuous_labels: str | Path | None = None,
    label_metric: str = "euclidean",
) -> DataSplits:
    """Read a data set and divide it into train, validation and test, disjoint in their classes.

    Args:
        data: ``KIND`` or ``KIND:PATH``: ``glyphs``, ``folder:PATH``, ``csv:FILE``, ``omniglot:PATH``,
            ``cifar100:PATH``, ``cub200:PATH``, ``cars196:PATH``, ``sop:PATH``, ``inshop:PATH``, ``grocery:PATH``,
            ``grocery-catalogue:PATH``. A bare path means ``folder:PATH``, or ``csv:FILE`` if it ends in .csv. A
            ``DataSplits`` is returned as it is.
        split: rule that divides the classes; see docs/data.md.
        validation: fraction of the training classes held out to choose checkpoints on, in [0, 1); of the training
            images if there are continuous labels and no classes.
        continuous_labels: a file with a continuous label for each image; see docs/how-to/continuous-labels.md.
        label_metric: how vectors in that file are compared, "euclidean" or "cosine".

    Raises:
        DataError: the data or the labels are missing, broken or of an unknown kind.
        OptionError: the rule or the metric is unknown, or the fraction out of range.
    """
    kind = ""
    if isinstance(data, DataSplits):
        splits = data
    else:
        kind, path = _kind_and_path(str(data))
        source = _reader(kind)(path)
        splits = divide(str(data), source, split, validation, continuous=continuous_labels is not None)
        _tell(splits)
    if continuous_labels is None:
        return splits

    from zoo.data.label_file import read_labels

    table_ids = source.images.ids if kind == "csv" else None
    return read_labels(continuous_labels, label_metric, table_ids).label(splits)


def load_images(data: str | Path) -> ImageSet:
    """Read all images of a data set, whatever their class, split or role.

    Args:
        data: as in :func:`load_data`. The images of a folder may lie at any depth, in classes or not.

    Returns:
        The images, without labels.

    Raises:
        DataError: the data are missing, broken or of an unknown kind, or there is no image.
    """
    kind, path = _kind_and_path(str(data))
    if kind != "folder":
        return _reader(kind)(path).images.without_labels()

    from zoo.data.folder import list_images

    members = list_images(Path(path))
    if not members:
        raise DataError(f"{path} holds no images. Check the path.")
    return ImageSet([str(name) for name, _ in members], [source for _, source in members])


def _tell(splits: DataSplits) -> None:
    """Show some classes of each part, once for each division: what was meant as a split shows up here as classes."""
    lines = [f"{splits.name}, split {splits.protocol['split']}:"]
    for part, images in (("train", splits.train), ("validation", splits.validation), ("test", splits.test)):
        line = f"  {part}: {len(images)} images"
        if images.labels is not None and len(images):
            there = sorted(set(images.labels.tolist()))
            some = sorted({there[0], there[len(there) // 2], there[-1]})
            named = ", ".join(images.class_names[label] for label in some)
            line += f" of {len(there)} classes, such as {named}" if len(there) > 3 else f" of the classes {named}"
        lines.append(line)
    text = printable("\n".join(lines))
    if text not in _told:
        _told.add(text)
        log.info("%s", text)


_told: set[str] = set()


def _kind_and_path(data: str) -> tuple[str, str]:
    kind, colon, path = data.partition(":")
    if kind not in READERS:
        if colon and "/" not in kind and "." not in kind and len(kind) > 1:
            known = ", ".join(READERS)
            raise DataError(f"Unknown kind of data {kind!r}; known are {known}.{did_you_mean(kind, READERS)}")
        kind, path = ("csv" if data.lower().endswith(".csv") else "folder"), data
    if kind != "glyphs" and not path:
        raise DataError(f"Data {data!r} names no path; write {kind}:PATH.")
    return kind, str(given_path(path)) if path else path


def _reader(kind: str) -> Reader:
    module, function = READERS[kind].split(":")
    reader: Reader = getattr(import_module(module), function)
    return reader
