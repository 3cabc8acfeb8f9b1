"""``csv:FILE``: a table with a row per image, for data that is not sorted into folders."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from zoo.data.image_set import BOTH, GALLERY, QUERY, ImageSet
from zoo.data.splits import SPLIT_NAMES, UNUSED, Source
from zoo.errors import DataError, did_you_mean

COLUMNS = ("path", "label", "split", "role")
_SPLITS = SPLIT_NAMES | {"": UNUSED}
_ROLES = {"query": QUERY, "gallery": GALLERY, "both": BOTH, "": BOTH}


def read_csv(path: str) -> Source:
    """Read a table of images: UTF-8, a header line, cells parted by commas, semicolons or tabs.

    Columns, in any order, of which only ``path`` is required:

    - ``path``: the image file, relative to the folder of the table, or absolute; it becomes the image's id.
    - ``label``: the class, any text.
    - ``split``: train, validation (or val) or test; images with an empty cell are not used.
    - ``role``: query, gallery or both; empty means both.

    A column whose cells are all empty counts as absent. Files that do not exist are found when they are read, like
    other unreadable images, unless none of them exists.

    Raises:
        DataError: the table is missing, not UTF-8 or empty; a column is unknown or missing; a row has too many or too
            few cells, no path, a path of an earlier row, an unknown split or role, or no label where others have one;
            or no image file exists.
    """
    table = Path(path)
    lines, rows = read_rows(table, _checked_header)
    ids = [row["path"] for row in rows]
    seen: dict[Path, int] = {}
    for line, name in zip(lines, ids, strict=True):
        if not name:
            raise DataError(f"{path} line {line}: path is empty. Name the image file, or remove the row.")
        first = seen.setdefault(Path(name), line)
        if first != line:
            raise DataError(f"{path} line {line}: {name} is on line {first} already. Keep one of the two rows.")
    sources = [table.parent / name for name in ids]
    if not any(source.exists() for source in sources):
        raise DataError(
            f"{path}: none of the {len(ids)} image files exists, {sources[0]} for one. "
            f"Paths that are not absolute start from the table's folder, {table.parent}."
        )
    labels, class_names = _labels(path, lines, [row.get("label", "") for row in rows])
    split = _choices(path, lines, rows, "split", _SPLITS)
    roles = _choices(path, lines, rows, "role", _ROLES)
    if roles is not None and (roles == BOTH).all():
        roles = None
    return Source(ImageSet(ids, sources, labels, class_names, roles), split)


def read_rows(
    table: Path, checked_header: Callable[[Path, list[str]], list[str]]
) -> tuple[list[int], list[dict[str, str]]]:
    """Return the line number and the cells by column of each row that is not blank.

    Args:
        table: the file.
        checked_header: takes the table and the cells of its first line, returns the columns' names or raises.

    Raises:
        DataError: the table is missing, not UTF-8 or empty, or a row has too many or too few cells.
    """
    try:
        text = table.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise DataError(f"{table} cannot be read ({error.strerror}). Check the path.") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{table} is not UTF-8 ({error.reason} at byte {error.start}). Save it as UTF-8.") from error
    header = text.lstrip("\n").partition("\n")[0]
    delimiter = max(",;\t", key=header.count)
    reader = csv.reader(io.StringIO(text), delimiter=delimiter, strict=True)
    lines, rows = [], []
    columns: list[str] = []
    try:
        for cells in reader:
            cells = [cell.strip() for cell in cells]
            if not any(cells):
                continue
            if not columns:
                columns = checked_header(table, cells)
                continue
            if len(cells) != len(columns):
                raise DataError(
                    f"{table} line {reader.line_num}: {len(cells)} cells for the {len(columns)} columns "
                    f"{', '.join(columns)}. Quote cells that contain {delimiter!r}."
                )
            lines.append(reader.line_num)
            rows.append(dict(zip(columns, cells, strict=True)))
    except csv.Error as error:
        raise DataError(f"{table} line {reader.line_num}: not valid CSV ({error}). Check the quotes.") from error
    if not rows:
        raise DataError(f"{table} has no rows. It needs a header line with the column path, and a row per image.")
    return lines, rows


def _checked_header(table: Path, cells: list[str]) -> list[str]:
    columns = [cell.lower() for cell in cells]
    for cell, column in zip(cells, columns, strict=True):
        if column not in COLUMNS:
            hint = did_you_mean(column, COLUMNS, count=1)
            raise DataError(f"{table}: unknown column {cell!r} in its header; known are {', '.join(COLUMNS)}.{hint}")
        if columns.count(column) > 1:
            raise DataError(f"{table}: column {cell!r} occurs more than once in its header. Remove one.")
    if "path" not in columns:
        raise DataError(f"{table}: its header has no column path, only {', '.join(columns)}. Add it.")
    return columns


def _labels(path: str, lines: Sequence[int], labels: Sequence[str]) -> tuple[np.ndarray | None, list[str]]:
    if not any(labels):
        return None, []
    if "" in labels:
        line = lines[labels.index("")]
        raise DataError(f"{path} line {line}: label is empty while other rows have one. Label all rows, or none.")
    class_names = sorted(set(labels))
    index = {name: i for i, name in enumerate(class_names)}
    return np.array([index[label] for label in labels], dtype=np.int64), class_names


def _choices(
    path: str, lines: Sequence[int], rows: Sequence[dict[str, str]], column: str, known: dict[str, str]
) -> np.ndarray | None:
    """Return the cells of a column with a fixed vocabulary, or None where it is absent or empty throughout."""
    cells = [row.get(column, "").lower() for row in rows]
    if not any(cells):
        return None
    for line, cell in zip(lines, cells, strict=True):
        if cell not in known:
            allowed = [word for word in known if word]
            hint = did_you_mean(cell, allowed, count=1)
            raise DataError(f"{path} line {line}: {column} {cell!r} is not one of {', '.join(allowed)}.{hint}")
    return np.array([known[cell] for cell in cells], dtype=object)
