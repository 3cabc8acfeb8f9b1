"""Tables in memory, of pandas, polars and pyarrow."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from zoo.data.compact import Computed, Texts
from zoo.data.division.splits import Source
from zoo.data.rows import IGNORED, text_of, values_of
from zoo.data.sources.addresses import Place
from zoo.data.sources.from_images import named_labels, with_images
from zoo.data.table import Table, checked_header, source_of
from zoo.errors import DataError


def is_frame(data: Any) -> bool:
    """Return whether an object of pandas, polars or pyarrow is a table, lazy or not."""
    return any(hasattr(type(data), name) for name in ("column_names", "columns", "collect"))


def read_frame(frame: Any, columns: Mapping[str, str] | None = None, name: str = "frame") -> Source:
    """Read a pandas or polars frame, or a pyarrow table, with a row per image.

    Columns are the same as in :func:`zoo.data.table.read_csv`. The images may be paths (relative ones start from the
    working directory), the bytes of image files, PIL images or arrays.

    Args:
        frame: the table.
        columns: names of its columns, by their meaning.
        name: name of the data, for messages.

    Raises:
        DataError: as for tables; names the row by its position, from 0.
    """
    if hasattr(frame, "collect") and not hasattr(frame, "to_dict"):
        raise DataError(f"{name} is a {type(frame).__name__}, whose rows are not there yet. Give frame.collect().")
    names = [str(column) for column in getattr(frame, "column_names", frame.columns)]
    header = checked_header(name, names, columns)
    values = {column: _values(frame, names.index(name)) for name, column in zip(names, header, strict=True) if column}
    return source_of(table_of(name, values))


def table_of(
    name: str, values: Mapping[str, Sequence[Any]], base: Place = Path(), class_names: Sequence[str] = ()
) -> Table:
    """Return a table of typed columns.

    Args:
        name: name of the table, for messages.
        values: values by our column names, including ``path``.
        base: the folder that relative paths start from.
        class_names: names of the classes if labels are indices; empty if labels are names.

    Raises:
        DataError: there is no row, or a row has no image or one of another type.
    """
    images = values["path"]
    rows = Computed(len(images), "row {}".format)
    cells: dict[str, Sequence[str]] = {
        column: Texts(map(text_of, those)) for column, those in values.items() if column not in ("path", IGNORED)
    }
    if class_names and "label" in cells:
        cells["label"] = named_labels(name, rows, cells["label"], class_names)
    for row, value in enumerate(images):
        if value is None or (isinstance(value, float) and value != value):
            raise DataError(
                f"{name} {rows[row]}: image is {value}, which means none. Give its path, or remove the row."
            )
    return with_images(Table(name, rows, cells, base, class_names=class_names), images)


def _values(frame: Any, place: int) -> list[Any]:
    """Return a column's values as Python objects."""
    if hasattr(frame, "iloc"):
        return values_of(frame.iloc[:, place])
    return values_of(frame.column(place) if hasattr(frame, "column") else frame.to_series(place))
