"""Rows of tables, shared by tables of images and tables of continuous labels."""

from __future__ import annotations

import csv
import io
import logging
import math
import os
import re
import unicodedata
from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import chain, repeat
from pathlib import Path
from typing import Any, TextIO

from zoo.data.compact import Computed, Texts
from zoo.data.sources.addresses import Place, read_place
from zoo.errors import DataError, OptionError, all_shown, did_you_mean, first_line, shown
from zoo.images import require_regular

log = logging.getLogger(__name__)

_SEPARATOR = re.compile(r'"?sep=(\\t|.)"?\s*', re.IGNORECASE)
_UNNAMED = re.compile(r"(unnamed:? ?\d*)?", re.IGNORECASE)  # how pandas names an unnamed index
_MISSING = frozenset(("", "nan", "<na>", "n/a", "#n/a", "null"))
IGNORED = ""
"""Replaces the name of a column whose cells are not read."""


@contextmanager
def opened_text(table: Place) -> Iterator[TextIO]:
    """Open a table as text, with line ends of one kind; only of an address is the whole content in memory.

    Raises:
        DataError: the table is missing, not a file, or not UTF-8, which may turn out on reading.
    """
    try:
        if isinstance(table, Path):
            require_regular(table)
        with table.open("rb") if isinstance(table, Path) else io.BytesIO(read_place(table)) as file:
            yield io.TextIOWrapper(file, "utf-8-sig")
    except OSError as error:
        raise DataError(f"{table} cannot be read ({error.strerror or first_line(error)}). Check the path.") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{table} is not UTF-8 ({_first_fault(table, error)}). Save it as UTF-8.") from error


def _first_fault(table: Place, error: UnicodeDecodeError) -> str:
    """Return what a table has that is not UTF-8, and where: the error counts from the piece that was decoded."""
    try:
        read_place(table).decode("utf-8-sig")
    except UnicodeDecodeError as found:
        error = found
    return f"{error.reason} at byte {error.start}"


def read_rows(
    table: Place, checked_header: Callable[[Place, list[str]], list[str]], delimiter: str | None = None
) -> Iterator[tuple[int, dict[str, str]]]:
    """Yield the line number and the cells by column of each row that is not blank.

    Unnamed columns and those that ``checked_header`` ignores are left out; the log names them.

    Args:
        table: the file.
        checked_header: takes the table and the cells of its header; returns the columns' names, IGNORED for columns
            to skip, or raises.
        delimiter: separates cells; None to detect commas, semicolons or tabs, or a first line such as ``sep=;``.

    Raises:
        DataError: the table is missing, not a file, not UTF-8 or empty, or a row has too many or too few cells.
    """
    with opened_text(table) as text:
        blank, first = 0, text.readline()
        while first == "\n":
            blank, first = blank + 1, text.readline()
        told = _SEPARATOR.fullmatch(first.removesuffix("\n")) if delimiter is None else None
        if told:
            delimiter = "\t" if told[1] == "\\t" else told[1]
            first = "\n"  # line numbers stay
        elif delimiter is None:
            delimiter = max(",;\t", key=first.count)
        reader = csv.reader(chain(repeat("\n", blank), [first], text), delimiter=delimiter, strict=True)
        columns: list[str] = []
        line = 0
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
                        f"{all_shown([cell or '(no name)' for cell in header])}. Quote cells that contain "
                        f"{delimiter!r}."
                    )
                line = reader.line_num
                yield line, {column: cell for column, cell in zip(columns, cells, strict=True) if column != IGNORED}
        except csv.Error as error:
            raise DataError(f"{table} line {reader.line_num}: not valid CSV ({error}). Check the quotes.") from error
    if not line:
        raise DataError(f"{table} has no rows. It needs a header line with the column path, and a row per image.")


def cells_of(rows: Iterable[tuple[int, Mapping[str, str]]]) -> tuple[Sequence[str], dict[str, Sequence[str]]]:
    """Return how messages name the rows of a text, and its cells by column, in little memory.

    Args:
        rows: line number and cells of each, by the same columns.
    """
    lines = array("q")
    cells: dict[str, Texts] = {}
    for line, row in rows:
        lines.append(line)
        for column, cell in row.items():
            cells.setdefault(column, Texts()).append(cell)
    return Computed(len(lines), lambda row: f"line {lines[row]}"), {**cells}


def known_columns(
    table: object,
    cells: Sequence[str],
    spellings: Mapping[str, Sequence[str]],
    given: Mapping[str, str] | None = None,
) -> list[str]:
    """Return our column name for each cell of a header, or IGNORED for columns without a meaning here.

    Args:
        table: the file, for messages.
        cells: cells of its header; empty ones are ignored.
        spellings: other names of each column; if a header has several, the column's own name takes precedence.
        given: the table's name of each column, from the option ``columns``.

    Raises:
        DataError: two columns have the same meaning, one is misspelled so that a known column is missing, or one that
            is given does not exist.
        OptionError: a column is given that has no meaning here.
    """
    plain = [re.sub(r"[\W_]+", "_", cell.lower()).strip("_") for cell in cells]
    columns = [IGNORED] * len(cells)
    for said, name in (given or {}).items():
        column = next((column for column, others in spellings.items() if said in (column, *others)), None)
        if column is None:
            known = ", ".join(spellings)
            raise OptionError(f"columns names {shown(said)}; known are {known}.{did_you_mean(said, spellings)}")
        if name not in cells:
            hint = did_you_mean(str(name)[:100], cells, count=1)
            raise DataError(f"{table} has no column {shown(name)} (columns.{said}), only {all_shown(cells)}.{hint}")
        if columns[cells.index(name)] != IGNORED or column in columns:
            raise OptionError(f"columns names {shown(name)} or {column} twice. Name each once.")
        columns[cells.index(name)] = column
    for column, others in spellings.items():
        for names in ((column,), others):
            if column in columns:
                break
            places = [place for place, cell in enumerate(plain) if cell in names and columns[place] == IGNORED]
            if len(places) > 1:
                listed = " and ".join(shown(cells[place]) for place in places)
                raise DataError(
                    f"{table}: columns {listed} of its header both say {column}. Rename or remove one, or name the "
                    f"one to read: columns.{column}."
                )
            if places:
                columns[places[0]] = column
    for place, cell in enumerate(plain):
        absent = [column for column in spellings if column not in columns]
        hint = did_you_mean(cell[:100], absent, count=1, cutoff=0.75)
        if columns[place] == IGNORED and cell and hint:
            raise DataError(
                f"{table}: unknown column {shown(cells[place])} in its header.{hint} If so, name it with the option "
                "columns; otherwise rename or remove it."
            )
    return columns


def text_of(value: Any) -> str:
    """Return a typed table's value as text: "" if missing, "3" for 3.0, since integers beside gaps become floats."""
    if isinstance(value, str):
        return value.strip()
    if hasattr(value, "item") and getattr(value, "ndim", 0) == 0:
        value = value.item()
    if value is None or str(value) in ("<NA>", "NaT"):
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        return "" if math.isnan(value) else str(int(value) if value.is_integer() else value)
    return str(value).strip()


def is_missing(cell: str) -> bool:
    """Return whether a cell means a missing value: empty, "nan" or similar."""
    return cell.lower() in _MISSING or cell == "None"


def same_name(name: str) -> str:
    """Return the normal form of a path: ``a\\b.png``, ``./a/b.png`` and ``a/c/../b.png`` all become ``a/b.png``.

    Composed and decomposed accents are equal too.
    """
    return unicodedata.normalize("NFC", os.path.normpath(name.replace("\\", "/")))


def _header(table: Place, cells: list[str], checked_header: Callable[[Place, list[str]], list[str]]) -> list[str]:
    named = [place for place, cell in enumerate(cells) if not _UNNAMED.fullmatch(cell)]
    columns = [IGNORED] * len(cells)
    for place, column in zip(named, checked_header(table, [cells[place] for place in named]), strict=True):
        columns[place] = column
    ignored = [cell or "one without a name" for cell, column in zip(cells, columns, strict=True) if column == IGNORED]
    if ignored:
        log.info("%s: ignored columns: %s", table, all_shown(ignored))
    return columns


def values_of(column: Any) -> list[Any]:
    """Return the values of one column, such as a pandas or polars ``Series``, as Python objects.

    Raises:
        DataError: it is neither a table nor a column.
    """
    for name in ("tolist", "to_list", "to_pylist"):
        if hasattr(column, name):
            return list(getattr(column, name)())
    raise DataError(f"Data of type {type(column).__name__} are neither a table nor a column. Give a frame.")
