"""``jsonl:FILE``: a table as JSON Lines, with an object on each line."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, TextIO

from zoo.data.division.splits import Source
from zoo.data.rows import cells_of, opened_text, text_of
from zoo.data.sources.addresses import Place, folder_of, place_of
from zoo.data.table import Table, checked_header, source_of
from zoo.errors import DataError, first_line, shown
from zoo.formats.documents import parsed


def read_json_lines(path: str, columns: Mapping[str, str] | None = None) -> Source:
    """Read JSON Lines, such as the metadata.jsonl of a Hugging Face image folder, with an object per image.

    Keys have the names of columns in :func:`zoo.data.table.read_csv`. A key that a line lacks is an empty cell; keys
    with lists or objects are ignored.

    Args:
        path: the file, or its address.
        columns: names of the keys, by their meaning.

    Raises:
        DataError: as for tables; or a line is not a JSON object; names the line.
    """
    place = place_of(path)
    names: dict[str, bool] = {}  # whether any line has a list or an object there
    count = 0
    with opened_text(place) as text:
        for _, row in _objects(place, text):
            count += 1
            for name, value in row.items():
                names[name] = names.get(name, False) or isinstance(value, list | dict)
        if not count:
            raise DataError(f"{path} has no rows. It needs an object with the image's path on each line.")
        flat = [name for name, nested in names.items() if not nested]
        header = checked_header(path, flat, columns)
        of = {column: name for name, column in zip(flat, header, strict=True) if column}
        text.seek(0)  # an address is not fetched a second time
        lines, cells = cells_of(
            (line, {column: text_of(row.get(name)) for column, name in of.items()})
            for line, row in _objects(place, text)
        )
    return source_of(Table(path, lines, cells, folder_of(place)))


def _objects(place: Place, text: TextIO) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield the object of each line that is not blank, and the line's number; ``place`` is for messages."""
    for number, line in enumerate(text, start=1):
        if not line.strip():
            continue
        try:
            row = parsed(line)
        except ValueError as error:
            raise DataError(
                f"{place} line {number}: not valid JSON ({first_line(error)}). Write one object on each line."
            ) from error
        if not isinstance(row, dict):
            raise DataError(f"{place} line {number}: it holds {shown(row)}, not an object. Write one on each line.")
        yield number, row
