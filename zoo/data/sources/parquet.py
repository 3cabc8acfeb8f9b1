"""``parquet:FILE``: tables in one or several Parquet files; images in them are read one row group at a time."""

from __future__ import annotations

import logging
import os
import threading
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from zoo.data.compact import Computed, Texts
from zoo.data.division.splits import Source
from zoo.data.rows import is_missing, text_of
from zoo.data.sources.addresses import (
    Place,
    common_folder_of,
    folder_of,
    is_address,
    open_place,
    place_of,
    places_in,
    read_place,
)
from zoo.data.sources.frame import table_of
from zoo.data.sources.parts import parts_of_files
from zoo.data.stored import StoredImage
from zoo.data.table import source_of, typed_header
from zoo.errors import DataError, first_line, printable
from zoo.extras import is_installed, missing
from zoo.formats.documents import parsed

log = logging.getLogger(__name__)

_LARGE_GROUP = 512 << 20  # bytes of images in one row group, which every process that reads from it holds
_HELD_GROUPS = 4
_BATCH = 10_000  # rows of other columns that are read at a time
_ROWS_OF_ANY, _ROWS_OF_A_BYTE = 1_000_000, 4  # that a file may say it has; names of images take more, packed too


def read_parquet(path: str, columns: Mapping[str, str] | None = None) -> Source:
    """Read a table of images from Parquet.

    Columns are the same as in :func:`zoo.data.table.read_csv`. The images may be paths or the bytes of image files,
    plain or in Hugging Face's format, with its class names. Bytes are read when needed, with their whole row group.
    Relative paths start from the folder of their own file; ids, from the folder that all files have in common.

    Args:
        path: a file, an address, or several: ``data/train-*.parquet``, ``part-{0..3}.parquet``. Files whose names
            begin with train, test and the like are these parts.
        columns: names of the columns, by their meaning.

    Raises:
        MissingExtraError: pyarrow is not installed.
        DataError: a file is missing or broken, or the files' columns differ; or as for tables.
    """
    if not is_installed("pyarrow"):
        raise missing(path, "pyarrow")
    places = places_in(path)
    base = common_folder_of(places)
    values: dict[str, Any] = {}
    groups: list[_Group] = []
    class_names: list[str] = []
    parts = parts_of_files([str(place) for place in places])
    for number, place in enumerate(places):
        found, held, names = _read(place, columns)
        if "path" in found and folder_of(place) != base:
            paths = (_from(base, folder_of(place), image) for image in found["path"])
            found["path"] = Texts(paths) if isinstance(found["path"], Texts) else list(paths)
        if parts is not None:
            count = sum(group.rows for group in held) if held is not None else len(found["path"])
            found.setdefault("split", Texts([parts[number]] * count))
        if number and (found.keys() != values.keys() or names != class_names):
            raise DataError(f"{place} has other columns or classes than {places[0]}. Give them one by one.")
        class_names = names
        for column, those in found.items():
            if those is not values.setdefault(column, those):
                values[column].extend(those)
        groups += held or []
    if "path" not in values:
        ends = np.cumsum([group.rows for group in groups])
        values["path"] = Computed(sum(group.rows for group in groups), partial(_row_of, groups, ends))
    return source_of(table_of(path, values, base, class_names))


def _from(base: Place, folder: Place, image: Any) -> Any:
    """Return a path that starts from ``base`` for one that starts from ``folder`` below it; leave anything else."""
    if not isinstance(image, str) or is_missing(image) or is_address(image) or image.startswith("~"):
        return image
    if isinstance(folder, str):
        return f"{folder.removeprefix(f'{base}/')}/{image}"
    return str(Path(os.path.relpath(folder, base), image))  # absolute ones stay


def _read(place: Place, given: Mapping[str, str] | None) -> tuple[dict[str, Any], list[_Group] | None, list[str]]:
    """Return a file's columns by what they mean here, without that of images where these are in the file; their row
    groups there, else None; and the names of the classes where it tells them.
    """
    import pyarrow
    from pyarrow import parquet

    try:
        with open_place(place) as opened:
            file = parquet.ParquetFile(opened)
            _require_few(opened, file)
            schema = file.schema_arrow
            classes = {name: names for name, names in _classes(schema.metadata).items() if name in schema.names}
            pictures = [field.name for field in schema if _is_held(field.type)]
            header = typed_header(place, schema.names, given, pictures, list(classes))
            of = {column: schema.names[at] for at, column in enumerate(header) if column}
            images = schema.field(of["path"]).type
            held = None
            if _is_held(images):
                nested = pyarrow.types.is_struct(images)
                held = _groups_of(_Column(place, of["path"], nested, _size_of(opened, file)), file)
            wanted = {column: real for column, real in of.items() if held is None or column != "path"}
            text = pyarrow.types.is_string(images) or pyarrow.types.is_large_string(images)
            values: dict[str, Any] = {column: Texts() if column != "path" or text else [] for column in wanted}
            for batch in file.iter_batches(_BATCH, columns=list(wanted.values()), use_threads=False):
                for column, real in wanted.items():
                    those = batch.column(real).to_pylist()
                    values[column].extend(those if column == "path" else map(text_of, those))
    except (OSError, pyarrow.ArrowException) as error:
        raise DataError(f"{place} is not a readable Parquet file ({first_line(error)}). Check the path.") from error
    return values, held, classes.get(of.get("label", ""), [])


def _require_few(opened: Any, file: Any) -> None:
    """Refuse a small file that claims very many rows, which would fill the memory."""
    size, rows = _size_of(opened, file)[:2]
    if rows > max(_ROWS_OF_ANY, _ROWS_OF_A_BYTE * size):
        raise OSError(f"it says {rows} rows, in {size} bytes")


def _is_held(kind: Any) -> bool:
    """Return whether a column's type can hold image files: bytes, or a struct of bytes and path."""
    from pyarrow import types

    if types.is_struct(kind):
        return {kind.field(at).name for at in range(kind.num_fields)} == {"bytes", "path"}
    return bool(types.is_binary(kind) or types.is_large_binary(kind))


def _size_of(opened: Any, file: Any) -> list[int]:
    """Return numbers that identify a file: its size, its number of rows, and the size of its footer."""
    opened.seek(0, os.SEEK_END)
    return [opened.tell(), file.metadata.num_rows, file.metadata.serialized_size]


def _groups_of(column: _Column, file: Any) -> list[_Group]:
    """Return a file's row groups."""
    groups = []
    largest = 0
    for number in range(file.num_row_groups):
        told = file.metadata.row_group(number)
        chunks = [told.column(at) for at in range(told.num_columns)]
        mine = [chunk for chunk in chunks if chunk.path_in_schema.split(".")[0] == column.name]
        largest = max(largest, sum(chunk.total_uncompressed_size for chunk in mine))
        size = sum(chunk.total_compressed_size for chunk in mine)
        groups.append(_Group(column, number, told.num_rows, size))
    if largest > _LARGE_GROUP:
        log.warning(
            "%s has %d MB of images in one row group, which every process that reads from it holds in memory. Write it "
            "with row_group_size=1000 or so.",
            printable(column.place),
            largest >> 20,
        )
    return groups


def _row_of(groups: Sequence[_Group], ends: np.ndarray, row: int) -> _Row:
    """Return an image by its row in all groups, which end at these."""
    at = int(np.searchsorted(ends, row, side="right"))
    return _Row(groups[at], row - int(ends[at]) + groups[at].rows)


def _classes(metadata: Mapping[bytes, bytes] | None) -> dict[str, list[str]]:
    """Return the class names of each column of classes, as ``datasets`` writes them into a schema's metadata."""
    try:
        features = parsed((metadata or {})[b"huggingface"].decode())["info"]["features"]
        named = {str(column): feature["names"] for column, feature in features.items() if "names" in feature}
    except (KeyError, ValueError, TypeError, AttributeError):
        return {}
    return {column: list(map(str, names)) for column, names in named.items() if isinstance(names, list)}


@dataclass(frozen=True)
class _Column:
    """A column of images: its file, whether it is a struct of bytes and path, and numbers that identify the file."""

    place: Place
    name: str
    nested: bool
    size: list[int]


@dataclass(frozen=True)
class _Group:
    """A row group: its column of images, its number in the file, its rows, and the bytes of the images in it."""

    column: _Column
    number: int
    rows: int
    size: int


@dataclass(frozen=True, eq=False, repr=False)
class _Row(StoredImage):
    """An image in a row group."""

    group: _Group
    row: int

    def content(self) -> bytes:
        column = self.group.column
        value = _opened(column, self.group.number)[self.row].as_py()
        if column.nested and value is not None:
            value = value["bytes"] if value.get("bytes") is not None else read_place(place_of(value.get("path") or ""))
        if value is None:
            raise OSError("the row has no image")
        return bytes(value)

    def mark(self) -> list[int]:
        """Return the sizes of the file, its footer and the row group: the images themselves are not read for it."""
        return [*self.group.column.size, self.group.size]

    def __str__(self) -> str:
        return f"{self.group.column.place} row group {self.group.number}, row {self.row}"


def _opened(column: _Column, group: int) -> Any:
    """Return the images of a row group, the last few of which each process keeps."""
    from pyarrow import parquet

    key = (os.getpid(), str(column.place), column.name, group)
    with _lock:
        if key not in _groups:
            with open_place(column.place) as opened:
                table = parquet.ParquetFile(opened).read_row_group(group, [column.name], use_threads=False)
            _groups[key] = table.column(column.name).combine_chunks()
            while len(_groups) > _HELD_GROUPS:
                _groups.popitem(last=False)
        _groups.move_to_end(key)
        return _groups[key]


_groups: OrderedDict[tuple[int, str, str, int], Any] = OrderedDict()
_lock = threading.Lock()
