"""The image files that a table names by their paths."""

from __future__ import annotations

import os
from collections.abc import Hashable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from zoo.data.compact import Computed, Texts, repeated
from zoo.data.rows import is_missing, same_name
from zoo.data.sources.addresses import RemoteImage, is_address
from zoo.data.stored import ImageSource
from zoo.errors import DataError, all_shown
from zoo.paths import expanded, is_there

if TYPE_CHECKING:
    from zoo.data.table import Table


def files_of(table: Table) -> tuple[Sequence[str], Sequence[ImageSource]]:
    """Return the ids and the files of images that a table names by their paths, in little memory.

    Raises:
        DataError: a row has no path or the image of an earlier row, or no image file exists.
    """
    written = table.cells["path"]
    ids, files = Texts(), Texts()
    marks = np.empty((2, len(written)), np.int64)
    some = False
    for row, name in enumerate(written):
        file = _file(table, row, name)
        ids.append(_id(name, file))
        files.append(str(file))
        marks[:, row] = [hash(mark) for mark in _marks(file, row)]
        some = some or isinstance(file, RemoteImage) or is_there(file)
    _require_different(table, written, files, marks)
    if not some:
        where = f"the table's folder, {table.base}" if table.base != Path() else "the working directory"
        raise DataError(
            f"{table.name}: none of the {len(files)} image files exists, {files[0]} for one. "
            f"Paths that are not absolute start from {where}."
        )
    return ids, Computed(len(files), partial(_source, files))


def _source(files: Sequence[str], row: int) -> Path | RemoteImage:
    return RemoteImage(files[row]) if is_address(files[row]) else Path(files[row])


def _file(table: Table, row: int, name: str) -> Path | RemoteImage:
    """Return the file that a cell names, with the slashes of any system."""
    if is_missing(name):
        raise DataError(f"{table.place(row)}: path is empty. Name the image file, or remove the row.")
    if is_address(name):
        return RemoteImage(name)
    if not isinstance(table.base, Path):
        return RemoteImage(f"{table.base}/{name.replace(chr(92), '/')}")
    written = table.base / name
    if "\\" in name and not is_there(written):
        written = table.base / name.replace("\\", "/")
    if name.startswith("~") and not is_there(written):
        written = expanded(name.replace("\\", "/"))
    return written


def _id(name: str, source: Path | RemoteImage) -> str:
    """Return the cell as it was written, but for detours, and with slashes where those were meant."""
    if is_address(name):
        return name
    return os.path.normpath(name if name in str(source) else name.replace("\\", "/"))


def _marks(file: Path | RemoteImage, row: int) -> tuple[Hashable, Hashable]:
    """Return what only another row of the same image has: its name, however spelled, and its place on the disk."""
    if isinstance(file, RemoteImage):
        return str(file), row
    try:
        found = file.stat()
    except (OSError, ValueError):
        return same_name(str(file)), row
    # A file of several names, by hard links, is several images, as copies are.
    on_disk = (found.st_dev, found.st_ino) if found.st_nlink == 1 else os.path.realpath(str(file))
    return same_name(str(file)), on_disk


def _require_different(table: Table, names: Sequence[str], files: Sequence[str], marks: np.ndarray) -> None:
    """Refuse two rows of one image, however it is spelled.

    Args:
        table: for messages.
        names: of the images, as the table has them.
        files: the images' files.
        marks: int64 ``(2, N)``, hashes of :func:`_marks`, of which the rows that share one are looked at again.
    """
    seen: tuple[dict[Hashable, int], ...] = ({}, {})
    for row in np.union1d(*map(repeated, marks)).tolist():
        found = _marks(_source(files, row), row)
        before = next((of[mark] for of, mark in zip(seen, found, strict=True) if mark in of), None)
        if before is not None:
            one, other = names[row], names[before]
            spelled = "" if one == other else f", as {all_shown([other])}"
            raise DataError(
                f"{table.place(row)}: {all_shown([one])} is on {table.rows[before]} already{spelled}. "
                "Keep one of the two rows."
            )
        for of, mark in zip(seen, found, strict=True):
            of[mark] = row
