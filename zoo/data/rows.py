"""Rows of a table: what tables of images and tables of continuous labels have in common."""

from __future__ import annotations

import csv
import io
import logging
import os
import re
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from zoo.errors import DataError, all_shown, did_you_mean, shown
from zoo.images import require_regular

log = logging.getLogger(__name__)

_SEPARATOR = re.compile(r'"?sep=(\\t|.)"?\s*', re.IGNORECASE)
_UNNAMED = re.compile(r"(unnamed:? ?\d*)?", re.IGNORECASE)  # what pandas makes of an index without a name
_MISSING = frozenset(("", "nan", "<na>", "n/a", "#n/a", "null"))
IGNORED = ""
"""In place of a column's name: its cells are not read."""


def read_rows(
    table: Path, checked_header: Callable[[Path, list[str]], list[str]]
) -> tuple[list[int], list[dict[str, str]]]:
    """Return the line number and the cells by column of each row that is not blank.

    Cells are separated by commas, semicolons or tabs, or by what a first line such as ``sep=;`` says. Columns without
    a name are left out, those that ``checked_header`` ignores too; the log names them.

    Args:
        table: the file.
        checked_header: takes the table and the cells of its header, returns the columns' names, IGNORED for those
            that are not to be read, or raises.

    Raises:
        DataError: the table is missing, not a file, not UTF-8 or empty, or a row has too many or too few cells.
    """
    try:
        require_regular(table)
        text = table.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise DataError(f"{table} cannot be read ({error.strerror or error}). Check the path.") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{table} is not UTF-8 ({error.reason} at byte {error.start}). Save it as UTF-8.") from error
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    first, _, below = text.lstrip("\n").partition("\n")
    told = _SEPARATOR.fullmatch(first)
    if told:
        delimiter = "\t" if told[1] == "\\t" else told[1]
        text = "\n" * (text.index(first) + 1) + below  # line numbers stay
    else:
        delimiter = max(",;\t", key=first.count)
    reader = csv.reader(io.StringIO(text), delimiter=delimiter, strict=True)
    lines, rows = [], []
    columns: list[str] = []
    try:
        for cells in reader:
            cells = [cell.strip() for cell in cells]
            if not any(cells):
                continue
            if not columns:
                columns = _header(table, cells, checked_header)
                header = cells
                continue
            if len(cells) != len(columns):
                raise DataError(
                    f"{table} line {reader.line_num}: {len(cells)} cells for the {len(columns)} columns "
                    f"{all_shown([cell or '(no name)' for cell in header])}. Quote cells that contain {delimiter!r}."
                )
            lines.append(reader.line_num)
            rows.append({column: cell for column, cell in zip(columns, cells, strict=True) if column != IGNORED})
    except csv.Error as error:
        raise DataError(f"{table} line {reader.line_num}: not valid CSV ({error}). Check the quotes.") from error
    if not rows:
        raise DataError(f"{table} has no rows. It needs a header line with the column path, and a row per image.")
    return lines, rows


def known_columns(table: Path, cells: Sequence[str], spellings: Mapping[str, Sequence[str]]) -> list[str]:
    """Return what each cell of a header is called here, or IGNORED for columns that have no meaning here.

    Args:
        table: the file, for messages.
        cells: of its header, of which empty ones are ignored.
        spellings: by column, what else it is called; its own name comes first where a header has several.

    Raises:
        DataError: two columns have one meaning, or one is nearly spelled as a known one that is absent.
    """
    plain = [re.sub(r"[\W_]+", "_", cell.lower()).strip("_") for cell in cells]
    columns = [IGNORED] * len(cells)
    for column, others in spellings.items():
        for names in ((column,), others):
            places = [place for place, cell in enumerate(plain) if cell in names]
            if len(places) > 1:
                listed = " and ".join(shown(cells[place]) for place in places)
                raise DataError(f"{table}: columns {listed} of its header both say {column}. Rename or remove one.")
            if places:
                columns[places[0]] = column
                break
    for place, cell in enumerate(plain):
        absent = [column for column in spellings if column not in columns]
        hint = did_you_mean(cell[:100], absent, count=1, cutoff=0.75)
        if columns[place] == IGNORED and cell and hint:
            raise DataError(f"{table}: unknown column {shown(cells[place])} in its header.{hint} Rename or remove it.")
    return columns


def is_missing(cell: str) -> bool:
    """Return whether a cell says that there is no value: empty, or "nan" and its like."""
    return cell.lower() in _MISSING or cell == "None"


def same_name(name: str) -> str:
    """Return a path's spelling that all its spellings share: ``a\\b.png``, ``./a/b.png`` and ``a/c/../b.png`` are one.

    Letters with accents, which are one character or two, are one.
    """
    return unicodedata.normalize("NFC", os.path.normpath(name.replace("\\", "/")))


def _header(table: Path, cells: list[str], checked_header: Callable[[Path, list[str]], list[str]]) -> list[str]:
    named = [place for place, cell in enumerate(cells) if not _UNNAMED.fullmatch(cell)]
    columns = [IGNORED] * len(cells)
    for place, column in zip(named, checked_header(table, [cells[place] for place in named]), strict=True):
        columns[place] = column
    ignored = [cell or "one without a name" for cell, column in zip(cells, columns, strict=True) if column == IGNORED]
    if ignored:
        log.info("%s: ignored columns: %s", table, all_shown(ignored))
    return columns
