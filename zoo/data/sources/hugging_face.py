"""Data sets of Hugging Face's ``datasets``, read row by row from their storage; images are decoded when needed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from zoo.data.division.splits import Source
from zoo.data.rows import text_of
from zoo.data.sources.addresses import place_of, read_place
from zoo.data.sources.from_images import named_labels, with_images
from zoo.data.stored import StoredImage
from zoo.data.table import Table, source_of, typed_header
from zoo.errors import DataError


def read_dataset(dataset: Any, columns: Mapping[str, str] | None = None) -> Source:
    """Read a ``datasets.Dataset``.

    The images are in the column with a usual name, or else in the only one with the feature ``Image``. The label is
    found likewise, with the feature ``ClassLabel``, whose class names and order are kept. Columns of paths work too.

    Args:
        dataset: a data set with all its rows, not a streaming one.
        columns: names of its columns, by their meaning.

    Raises:
        DataError: it streams, has no images, or has several columns of classes and none is chosen; or as for tables.
    """
    name = getattr(getattr(dataset, "info", None), "dataset_name", None) or "dataset"
    if not hasattr(dataset, "__len__"):
        raise DataError(f"{name} streams, so its images have no number. Load it without streaming=True.")
    features = dict(dataset.features)
    names = list(features)
    pictures = [column for column, feature in features.items() if _is_image(feature)]
    classes = [column for column, feature in features.items() if hasattr(feature, "names")]
    header = typed_header(name, names, columns, pictures, classes)
    of = {column: names[place] for place, column in enumerate(header) if column}
    rows = [f"row {row}" for row in range(len(dataset))]
    plain = dataset.with_format(None).select_columns([real for column, real in of.items() if column != "path"])
    cells: dict[str, Sequence[str]] = {
        column: [text_of(value) for value in plain[real][:]] for column, real in of.items() if column != "path"
    }
    class_names: list[str] = []
    for column, real in of.items():
        known = getattr(features[real], "names", None)
        if known and column != "path":
            cells[column] = named_labels(name, rows, cells[column], known)
            class_names = list(known) if column == "label" else class_names
    table = Table(name, rows, cells, class_names=class_names)
    if not _is_image(features[of["path"]]):
        return source_of(with_images(table, dataset.with_format(None)[of["path"]][:]))

    from datasets import Image

    undecoded = dataset.with_format(None).select_columns([of["path"]]).cast_column(of["path"], Image(decode=False))
    images = _Column(undecoded, of["path"], name)
    return source_of(with_images(table, [_Row(images, row) for row in range(len(dataset))]))


def _is_image(feature: Any) -> bool:
    return type(feature).__name__ == "Image"


@dataclass(frozen=True, eq=False, repr=False)
class _Column:
    dataset: Any
    name: str
    of: str


@dataclass(frozen=True, eq=False, repr=False)
class _Row(StoredImage):
    """An image of a data set, stored as bytes or as a path."""

    column: _Column
    row: int

    def content(self) -> bytes:
        value = self._value()
        return value["bytes"] if value.get("bytes") is not None else read_place(place_of(value["path"] or ""))

    def mark(self) -> list[Any]:
        """Return the name and the size of the image, which need no decoding."""
        value = self._value()
        return [value.get("path"), len(value.get("bytes") or b"")]

    def _value(self) -> dict[str, Any]:
        found = self.column.dataset[self.row][self.column.name]
        if found is None:
            raise OSError("the row has no image")
        return dict(found)

    def __str__(self) -> str:
        return f"{self.column.of} row {self.row}"
