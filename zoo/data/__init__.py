"""Data of every kind in one protocol: see :class:`zoo.data.image_set.ImageSet`."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from zoo.data.division.splits import Source, divide
from zoo.data.image_set import DataSplits, ImageSet
from zoo.data.sources.from_images import from_images
from zoo.data.sources.opening import READERS, kind_and_path, open_source
from zoo.errors import for_terminal

if TYPE_CHECKING:
    from zoo.arguments import DataLike

log = logging.getLogger(__name__)

__all__ = ["READERS", "DataSplits", "ImageSet", "Source", "divide", "from_images", "load_data", "load_images"]


def load_data(
    data: DataLike,
    split: str = "auto",
    validation: float = 0.2,
    continuous_labels: str | Path | None = None,
    label_metric: str = "euclidean",
    columns: Mapping[str, str] | None = None,
) -> DataSplits:
    """Read a data set and split it into train, validation and test sets with disjoint classes.

    Args:
        data: ``KIND`` or ``KIND:PATH``, such as ``glyphs``, ``folder:PATH``, ``csv:FILE``, ``parquet:FILE``,
            ``jsonl:FILE``, ``shards:FILES`` or a public set, ``omniglot:PATH``; see docs/data.md. A bare path means
            ``folder:PATH`` unless its suffix means another kind. In Python also a list of images, ``(images, labels)``
            or what ``from_images`` returns; a torch or Hugging Face data set; a pandas or polars frame; or a mapping
            of train, test and the like to any of these. A ``DataSplits`` is returned unchanged.
        split: rule that divides the classes; see docs/data.md.
        validation: fraction of the training classes held out to choose checkpoints, in [0, 1); of the training images
            if there are continuous labels and no classes.
        continuous_labels: a file with a continuous label for each image; see docs/how-to/continuous-labels.md.
        label_metric: how vectors in that file are compared, "euclidean" or "cosine".
        columns: names of a table's columns, by their meaning: ``{"path": "file", "label": "sku"}``.

    Raises:
        DataError: the data or the labels are missing, broken or of an unknown kind.
        OptionError: the rule or the metric is unknown, the fraction is out of range, or columns are given for data
            that is not a table.
    """
    table_ids = None
    if isinstance(data, DataSplits):
        splits = data
    else:
        source = open_source(data, columns)
        name = str(data) if isinstance(data, str | Path) else source.name
        splits = divide(name, source, split, validation, continuous=continuous_labels is not None)
        table_ids = source.images.ids if source.is_table else None
        _tell(splits)
    if continuous_labels is None:
        return splits

    from zoo.data.label_file import read_labels

    return read_labels(continuous_labels, label_metric, table_ids).label(splits)


def load_images(data: DataLike, columns: Mapping[str, str] | None = None, labelled: bool = False) -> ImageSet:
    """Read all images of a data set, regardless of class, split or role.

    Args:
        data: as in :func:`load_data`, but not divided. The images of a folder may lie at any depth, in classes or not.
        columns: as in :func:`load_data`.
        labelled: keep the data's labels, if any; in a folder, an image's label is its parent folder, if no image lies
            in the root.

    Returns:
        The images, without roles, and without labels unless ``labelled``.

    Raises:
        DataError: the data are missing, broken or of an unknown kind, or there is no image.
    """
    kind, path = kind_and_path(str(data)) if isinstance(data, str | Path) else ("", "")
    if kind != "folder" or columns:
        found = open_source(data, columns).images
        bare = found.without_labels()
        return replace(bare, labels=found.labels, class_names=found.class_names) if labelled else bare

    from zoo.data.folder import read_images

    return read_images(path, labelled)


def _tell(splits: DataSplits) -> None:
    """Log some classes of each part, once per split, so that users notice split folders mistaken for classes."""
    lines = [f"{splits.name}, split {splits.protocol['split']}:"]
    for part, images in (("train", splits.train), ("validation", splits.validation), ("test", splits.test)):
        line = f"  {part}: {len(images)} images"
        if images.labels is not None and len(images):
            there = sorted(set(images.labels.tolist()))
            some = sorted({there[0], there[len(there) // 2], there[-1]})
            named = ", ".join(images.class_names[label] for label in some)
            line += f" of {len(there)} classes, such as {named}" if len(there) > 3 else f" of the classes {named}"
        lines.append(line)
    text = "\n".join(for_terminal(line, on_one_line=True) for line in lines)
    if text not in _told:
        _told.add(text)
        log.info("%s", text)


_told: set[str] = set()
