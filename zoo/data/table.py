"""Tables with a row per image, for data not sorted into folders: ``csv:FILE``, and code shared by all tables."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from zoo.data.compact import Computed
from zoo.data.division.splits import Source
from zoo.data.division.words import TEST, TRAIN, UNUSED, VALIDATION, part_of, parts_and_roles
from zoo.data.image_set import BOTH, GALLERY, QUERY, ImageSet
from zoo.data.rows import cells_of, is_missing, known_columns, read_rows
from zoo.data.sources.addresses import Place, folder_of, place_of
from zoo.data.sources.named_files import files_of
from zoo.data.stored import ImageSource
from zoo.errors import DataError, all_shown, did_you_mean, shown

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
"""The columns of a table of images, and their other names."""

_ROLES = {QUERY: QUERY, GALLERY: GALLERY, BOTH: BOTH}
_FLAGS = dict.fromkeys(("true", "1", "1.0", "yes", "t", "y"), "true")
_FLAGS |= dict.fromkeys(("false", "0", "0.0", "no", "f", "n"), "false")


@dataclass(frozen=True)
class Table:
    """A table of images, with columns under our names.

    Attributes:
        name: name of the table, for messages.
        rows: how messages name each row, such as "line 2".
        cells: text by column, "" for no value. Has ``path`` if images are files, and may lack any other column.
        base: the folder that relative paths start from.
        images: the images themselves; None if ``path`` names their files.
        class_names: the classes in the order of the data; if empty, they are sorted.
    """

    name: str
    rows: Sequence[str]
    cells: Mapping[str, Sequence[str]]
    base: Place = Path()
    images: Sequence[ImageSource] | None = None
    class_names: Sequence[str] = ()

    def place(self, row: int) -> str:
        """Return how messages name a row."""
        return f"{self.name} {self.rows[row]}"


def read_csv(path: str, columns: Mapping[str, str] | None = None, delimiter: str | None = None) -> Source:
    """Read a table of images: UTF-8, a header line, cells separated by commas, semicolons or tabs.

    Columns, in any order; only ``path`` is required:

    - ``path``: the image file, relative to the folder of the table, or absolute, or an address; it becomes the image's
      id.
    - ``label``: the class, any text.
    - ``split``: train, validation or test, in any usual spelling, or query or gallery for test images; images with an
      empty cell are not used.
    - ``role``: query, gallery or both; empty means both.
    - ``is_query`` and ``is_gallery``: true or false, instead of ``role``.
    - ``id``: the image's id, instead of its path; only if ``columns`` names it.

    Usual names, such as ``filename`` and ``class``, are understood; other columns are ignored, and the log names them.
    A column with only empty cells counts as missing; "nan" is an empty cell. Missing files are reported when they are
    read, like other unreadable images, unless none of them exists.

    Args:
        path: the table, a file or an address.
        columns: this table's names of the columns above.
        delimiter: separates cells; None to detect it from the header.

    Raises:
        DataError: the table is missing, not UTF-8 or empty; a column is missing, duplicated or misspelled; a row has
            too many or too few cells, no path, an earlier row's image, an unknown split or role, or no label although
            others have one; or no image file exists.
    """
    place = place_of(path)
    lines, cells = cells_of(read_rows(place, partial(checked_header, given=columns), delimiter))
    return source_of(Table(path, lines, cells, folder_of(place)))


def read_tsv(path: str, columns: Mapping[str, str] | None = None) -> Source:
    """Read a table of tab-separated cells, like :func:`read_csv`."""
    return read_csv(path, columns, "\t")


def checked_header(table: object, cells: list[str], given: Mapping[str, str] | None = None) -> list[str]:
    """Return our column name for each cell of a header.

    Raises:
        DataError: as in :func:`zoo.data.rows.known_columns`; or there is no column with images.
        OptionError: as in :func:`zoo.data.rows.known_columns`.
    """
    known = COLUMNS | ({"id": ()} if "id" in (given or {}) else {})
    columns = known_columns(table, cells, known, given)
    if "path" not in columns:
        raise DataError(
            f"{table}: its header has no column path, only {all_shown(cells)}. Known are {', '.join(COLUMNS)}. Name "
            "the column of the images: columns.path."
        )
    return columns


def typed_header(
    table: object,
    names: list[str],
    given: Mapping[str, str] | None,
    pictures: Sequence[str] = (),
    classes: Sequence[str] = (),
) -> list[str]:
    """Return our column name for each column of a typed table; columns with other names are recognised by their type.

    Args:
        table: the table, for messages.
        names: names of its columns.
        given: the table's name of each column, from the option ``columns``.
        pictures: the columns that hold images; used if there is exactly one.
        classes: the columns that hold classes; used if there is exactly one.

    Raises:
        DataError: as in :func:`checked_header`; or several columns hold classes, and none is chosen.
        OptionError: as in :func:`checked_header`.
    """
    chosen = dict(given or {})
    usual = known_columns(table, names, COLUMNS | ({"id": ()} if "id" in chosen else {}), chosen)
    if "path" not in usual and len(pictures) == 1:
        chosen["path"] = pictures[0]
    if "label" not in usual and classes:
        if len(classes) > 1:
            raise DataError(
                f"{table} has several columns of classes, {all_shown(classes)}. Name the one to use: columns.label."
            )
        chosen["label"] = classes[0]
    return checked_header(table, names, chosen)


def source_of(table: Table) -> Source:
    """Return the images of a table, their labels, roles and split.

    Raises:
        DataError: as in :func:`read_csv`.
    """
    ids: Sequence[str]
    sources: Sequence[ImageSource]
    if table.images is not None:
        ids, sources = Computed(len(table.rows), str), table.images
    else:
        ids, sources = files_of(table)
    ids = table.cells.get("id", ids)
    labels, class_names = _labels(table)
    split, roles = _split_and_roles(table)
    return Source(ImageSet(ids, sources, labels, class_names, roles), split, name=table.name, is_table=True)


def _labels(table: Table) -> tuple[np.ndarray | None, list[str]]:
    cells = table.cells.get("label", ())
    missing = np.fromiter(map(is_missing, cells), bool, len(cells))
    if missing.all():
        return None, []
    if missing.any():
        row = int(missing.argmax())
        found = f"label is {cells[row]!r}, which means none," if cells[row] else "label is empty"
        raise DataError(f"{table.place(row)}: {found} while other rows have one. Label all rows, or none.")
    class_names = list(table.class_names) or sorted(set(cells))
    index = {name: i for i, name in enumerate(class_names)}
    return np.fromiter((index[label] for label in cells), np.int64, len(cells)), class_names


def _split_and_roles(table: Table) -> tuple[np.ndarray | None, np.ndarray | None]:
    def said(column: str, meaning: Callable[[str], str | None], known: Sequence[str]) -> list[str] | None:
        """Return what the cells of a column mean, "" for empty ones; None where all are empty, or it is absent."""
        cells = table.cells.get(column, ())
        found = ["" if is_missing(cell) else meaning(cell.lower()) for cell in cells]
        if None in found:
            place = found.index(None)
            hint = did_you_mean(cells[place].lower()[:100], known, count=1)
            raise DataError(
                f"{table.place(place)}: {column} {shown(cells[place])} is not one of {', '.join(known)}.{hint}"
            )
        return [word or "" for word in found] if any(found) else None

    parts = said("split", part_of, (TRAIN, VALIDATION, TEST, QUERY, GALLERY))
    split, roles = (None, None) if parts is None else parts_and_roles(table.name, parts)
    told = said("role", _ROLES.get, tuple(_ROLES))
    if told is None:
        is_query, is_gallery = (said(column, _FLAGS.get, ("true", "false")) for column in ("is_query", "is_gallery"))
        if is_query or is_gallery:
            told = _roles_of_flags(table, is_query, is_gallery, parts)
    if told is not None:
        roles = np.array([role or BOTH for role in told], dtype=object)
    return split, None if roles is None or (roles == BOTH).all() else roles


def _roles_of_flags(
    table: Table,
    is_query: Sequence[str] | None,
    is_gallery: Sequence[str] | None,
    parts: Sequence[str] | None,
) -> list[str]:
    if is_query is None or is_gallery is None:  # images without one role have the other
        yes, no = (QUERY, GALLERY) if is_gallery is None else (GALLERY, QUERY)
        return [{"true": yes, "false": no}.get(flag, BOTH) for flag in is_query or is_gallery or ()]
    roles = []
    for place, flags in enumerate(zip(is_query, is_gallery, strict=True)):
        tested = parts is None or parts[place] not in (TRAIN, UNUSED)
        if "true" not in flags and "false" in flags and tested:
            raise DataError(
                f"{table.place(place)}: neither is_query nor is_gallery is true. Set one, or remove the row."
            )
        alone = {"true": QUERY}.get(flags[0]) or {"true": GALLERY}.get(flags[1]) or BOTH
        roles.append(BOTH if flags == ("true", "true") else alone)
    return roles
