"""``parquet:FILE``: tables in one or several Parquet files; images in them are read one row group at a time."""

from __future__ import annotations

import logging
import os
import threading
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from zoo.data.division.splits import Source
from zoo.data.sources.addresses import Place, folder_of, open_place, place_of, places_in, read_place
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
_ROWS_OF_ANY, _ROWS_OF_A_BYTE = 1_000_000, 4  # rows that any file, and each byte, may claim; even packed ids need more


def read_parquet(path: str, columns: Mapping[str, str] | None = None) -> Source:
    """Read a table of images from Parquet.

    Columns are the same as in :func:`zoo.data.table.read_csv`. The images may be paths or the bytes of image files,
    plain or in Hugging Face's format, with its class names. Bytes are read when needed, with their whole row group.

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
    values: dict[str, list[Any]] = {}
    class_names: list[str] = []
    parts = parts_of_files([str(place) for place in places])
    for number, place in enumerate(places):
        found, names = _read(place, columns)
        if parts is not None:
            found.setdefault("split", [parts[number]] * len(found["path"]))
        if number and (found.keys() != values.keys() or names != class_names):
            raise DataError(f"{place} has other columns or classes than {places[0]}. Give them one by one.")
        class_names = names
        for column, those in found.items():
            values.setdefault(column, []).extend(those)
    return source_of(table_of(path, values, folder_of(places[0]), class_names))


def _read(place: Place, given: Mapping[str, str] | None) -> tuple[dict[str, list[Any]], list[str]]:
    """Return a file's columns by our names, and the names of its classes, if given."""
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
            held, nested = _is_held(images), pyarrow.types.is_struct(images)
            read = file.read([real for column, real in of.items() if not held or column != "path"], use_threads=False)
            values = {
                column: read.column(real).to_pylist() for column, real in of.items() if not held or column != "path"
            }
            if held:
                column = _Column(place, of["path"], nested, _size_of(opened, file))
                values["path"] = _images(column, file)
    except (OSError, pyarrow.ArrowException) as error:
        raise DataError(f"{place} is not a readable Parquet file ({first_line(error)}). Check the path.") from error
    return values, classes.get(of.get("label", ""), [])


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


def _images(column: _Column, file: Any) -> list[StoredImage]:
    images: list[StoredImage] = []
    largest = 0
    for group in range(file.num_row_groups):
        metadata = file.metadata.row_group(group)
        chunks = [metadata.column(at) for at in range(metadata.num_columns)]
        chunks = [chunk for chunk in chunks if chunk.path_in_schema.split(".")[0] == column.name]
        largest = max(largest, sum(chunk.total_uncompressed_size for chunk in chunks))
        size = sum(chunk.total_compressed_size for chunk in chunks)
        images += [_Row(column, group, row, size) for row in range(metadata.num_rows)]
    if largest > _LARGE_GROUP:
        log.warning(
            "%s has %d MB of images in one row group, which every process that reads from it holds in memory. Write it "
            "with row_group_size=1000 or so.",
            printable(column.place),
            largest >> 20,
        )
    return images


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


@dataclass(frozen=True, eq=False, repr=False)
class _Row(StoredImage):
    """An image in a row group."""

    column: _Column
    group: int
    row: int
    group_size: int

    def content(self) -> bytes:
        value = _group(self.column, self.group)[self.row].as_py()
        if self.column.nested and value is not None:
            value = value["bytes"] if value.get("bytes") is not None else read_place(place_of(value.get("path") or ""))
        if value is None:
            raise OSError("the row has no image")
        return bytes(value)

    def mark(self) -> list[int]:
        """Return the sizes of the file, its footer and the row group, without reading the image."""
        return [*self.column.size, self.group_size]

    def __str__(self) -> str:
        return f"{self.column.place} row group {self.group}, row {self.row}"


def _group(column: _Column, group: int) -> Any:
    """Return the images of a row group; each process keeps the last few groups."""
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
