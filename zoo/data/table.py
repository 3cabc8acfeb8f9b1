"""``csv:FILE``: a table with a row per image, for data that is not sorted into folders."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from zoo.data.division.splits import Source
from zoo.data.division.words import TEST, TRAIN, UNUSED, VALIDATION, part_of, parts_and_roles
from zoo.data.image_set import BOTH, GALLERY, QUERY, ImageSet
from zoo.data.rows import is_missing, known_columns, read_rows, same_name
from zoo.errors import DataError, all_shown, did_you_mean, shown
from zoo.paths import expanded, is_there

PATHS = (
    "image",
    "images",
    "paths",
    "filename",
    "file_name",
    "file",
    "filepath",
    "file_path",
    "image_path",
    "img_path",
    "img",
    "image_name",
    "image_file",
    "image_filename",
    "image_filepath",
    "image_paths",
)
COLUMNS = {
    "path": PATHS,
    "label": (
        "labels",
        "class",
        "class_name",
        "classname",
        "class_label",
        "classes",
        "label_name",
        "category",
        "target",
    ),
    "split": ("splits", "set", "subset", "partition"),
    "role": ("roles",),
    "is_query": ("isquery",),
    "is_gallery": ("isgallery",),
}
"""The columns of a table of images, and what else they are called."""

_ROLES = {QUERY: QUERY, GALLERY: GALLERY, BOTH: BOTH}
_FLAGS = dict.fromkeys(("true", "1", "1.0", "yes", "t", "y"), "true")
_FLAGS |= dict.fromkeys(("false", "0", "0.0", "no", "f", "n"), "false")


def read_csv(path: str) -> Source:
    """Read a table of images: UTF-8, a header line, cells separated by commas, semicolons or tabs.

    Columns, in any order, of which only ``path`` is required:

    - ``path``: the image file, relative to the folder of the table, or absolute; it becomes the image's id.
    - ``label``: the class, any text.
    - ``split``: train, validation or test, in any usual spelling, or query or gallery, which are tested; images with
      an empty cell are not used.
    - ``role``: query, gallery or both; empty means both.
    - ``is_query`` and ``is_gallery``: in place of ``role``, true or false.

    Usual names, such as ``filename`` and ``class``, are understood; columns of other names are not read, which the log
    says. A column whose cells are all empty counts as absent; "nan" is an empty cell. Files that do not exist are found
    when they are read, like other unreadable images, unless none of them exists.

    Raises:
        DataError: the table is missing, not UTF-8 or empty; a column is missing, there twice or misspelled; a row has
            too many or too few cells, no path, the image of an earlier row, an unknown split or role, or no label where
            others have one; or no image file exists.
    """
    table = Path(path)
    lines, rows = read_rows(table, _checked_header)
    sources = [_source(table, line, row["path"]) for line, row in zip(lines, rows, strict=True)]
    _require_different(table, lines, rows, sources)
    if not any(is_there(source) for source in sources):
        raise DataError(
            f"{path}: none of the {len(sources)} image files exists, {sources[0]} for one. "
            f"Paths that are not absolute start from the table's folder, {table.parent}."
        )
    ids = [_id(row["path"], source) for row, source in zip(rows, sources, strict=True)]
    labels, class_names = _labels(path, lines, [row.get("label", "") for row in rows])
    split, roles = _split_and_roles(path, lines, rows)
    return Source(ImageSet(ids, sources, labels, class_names, roles), split)


def _checked_header(table: Path, cells: list[str]) -> list[str]:
    columns = known_columns(table, cells, COLUMNS)
    if "path" not in columns:
        raise DataError(
            f"{table}: its header has no column path, only {all_shown(cells)}. Known are {', '.join(COLUMNS)}."
        )
    return columns


def _source(table: Path, line: int, name: str) -> Path:
    """Return the file that a cell names, with the slashes of any system."""
    if is_missing(name):
        raise DataError(f"{table} line {line}: path is empty. Name the image file, or remove the row.")
    written = table.parent / name
    if "\\" in name and not is_there(written):
        written = table.parent / name.replace("\\", "/")
    if name.startswith("~") and not is_there(written):
        written = expanded(name.replace("\\", "/"))
    return written


def _id(name: str, source: Path) -> str:
    """Return the cell as it was written, but for detours, and with slashes where those were meant."""
    return os.path.normpath(name if name in str(source) else name.replace("\\", "/"))


def _require_different(
    table: Path, lines: Sequence[int], rows: Sequence[dict[str, str]], sources: Sequence[Path]
) -> None:
    """Refuse two rows of one image, however it is spelled."""
    seen: dict[str, int] = {}
    files: dict[tuple[int, int], list[int]] = defaultdict(list)
    for place, source in enumerate(sources):
        before = seen.setdefault(same_name(str(source)), place)
        try:
            found = source.stat()
        except (OSError, ValueError):
            found = None
        if found is not None and before == place:
            of_file = files[found.st_dev, found.st_ino]
            # A file of several names, by hard links, is several images, as copies are.
            real = os.path.realpath(source) if of_file else ""
            before = next((n for n in of_file if found.st_nlink == 1 or os.path.realpath(sources[n]) == real), place)
            of_file.append(place)
        if before != place:
            one, other = rows[place]["path"], rows[before]["path"]
            spelled = "" if one == other else f", as {all_shown([other])}"
            raise DataError(
                f"{table} line {lines[place]}: {all_shown([one])} is on line {lines[before]} already{spelled}. "
                "Keep one of the two rows."
            )


def _labels(path: str, lines: Sequence[int], cells: Sequence[str]) -> tuple[np.ndarray | None, list[str]]:
    missing = [is_missing(cell) for cell in cells]
    if all(missing):
        return None, []
    if any(missing):
        place = missing.index(True)
        found = f"label is {cells[place]!r}, which means none," if cells[place] else "label is empty"
        raise DataError(f"{path} line {lines[place]}: {found} while other rows have one. Label all rows, or none.")
    class_names = sorted(set(cells))
    index = {name: i for i, name in enumerate(class_names)}
    return np.array([index[label] for label in cells], dtype=np.int64), class_names


def _split_and_roles(
    path: str, lines: Sequence[int], rows: Sequence[dict[str, str]]
) -> tuple[np.ndarray | None, np.ndarray | None]:
    def said(column: str, meaning: Callable[[str], str | None], known: Sequence[str]) -> list[str] | None:
        """Return what the cells of a column mean, "" for empty ones; None where all are empty, or it is absent."""
        cells = ["" if is_missing(row.get(column, "")) else row[column] for row in rows]
        found = [meaning(cell.lower()) if cell else "" for cell in cells]
        if None in found:
            place = found.index(None)
            hint = did_you_mean(cells[place].lower()[:100], known, count=1)
            raise DataError(
                f"{path} line {lines[place]}: {column} {shown(cells[place])} is not one of {', '.join(known)}.{hint}"
            )
        return [word or "" for word in found] if any(found) else None

    parts = said("split", part_of, (TRAIN, VALIDATION, TEST, QUERY, GALLERY))
    split, roles = (None, None) if parts is None else parts_and_roles(path, parts)
    told = said("role", _ROLES.get, tuple(_ROLES))
    if told is None:
        is_query, is_gallery = (said(column, _FLAGS.get, ("true", "false")) for column in ("is_query", "is_gallery"))
        if is_query or is_gallery:
            told = _roles_of_flags(path, lines, is_query, is_gallery, parts)
    if told is not None:
        roles = np.array([role or BOTH for role in told], dtype=object)
    return split, None if roles is None or (roles == BOTH).all() else roles


def _roles_of_flags(
    path: str,
    lines: Sequence[int],
    is_query: Sequence[str] | None,
    is_gallery: Sequence[str] | None,
    parts: Sequence[str] | None,
) -> list[str]:
    if is_query is None or is_gallery is None:  # what is not one is the other
        yes, no = (QUERY, GALLERY) if is_gallery is None else (GALLERY, QUERY)
        return [{"true": yes, "false": no}.get(flag, BOTH) for flag in is_query or is_gallery or ()]
    roles = []
    for place, flags in enumerate(zip(is_query, is_gallery, strict=True)):
        tested = parts is None or parts[place] not in (TRAIN, UNUSED)
        if "true" not in flags and "false" in flags and tested:
            raise DataError(
                f"{path} line {lines[place]}: neither is_query nor is_gallery is true. Set one, or remove the row."
            )
        alone = {"true": QUERY}.get(flags[0]) or {"true": GALLERY}.get(flags[1]) or BOTH
        roles.append(BOTH if flags == ("true", "true") else alone)
    return roles
