"""``jsonl:FILE``: a table as JSON Lines, with an object on each line."""

from __future__ import annotations

from collections.abc import Mapping

from zoo.data.division.splits import Source
from zoo.data.rows import read_text, text_of
from zoo.data.sources.addresses import folder_of, place_of
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
    lines, rows = [], []
    for number, line in enumerate(read_text(place).split("\n"), start=1):
        if not line.strip():
            continue
        try:
            row = parsed(line)
        except ValueError as error:
            raise DataError(
                f"{path} line {number}: not valid JSON ({first_line(error)}). Write one object on each line."
            ) from error
        if not isinstance(row, dict):
            raise DataError(f"{path} line {number}: it holds {shown(row)}, not an object. Write one on each line.")
        lines.append(f"line {number}")
        rows.append(row)
    if not rows:
        raise DataError(f"{path} has no rows. It needs an object with the image's path on each line.")
    names = list(dict.fromkeys(name for row in rows for name in row))
    flat = [name for name in names if not any(isinstance(row.get(name), list | dict) for row in rows)]
    header = checked_header(path, flat, columns)
    cells = {
        column: [text_of(row.get(name)) for row in rows] for name, column in zip(flat, header, strict=True) if column
    }
    return source_of(Table(path, lines, cells, folder_of(place)))
