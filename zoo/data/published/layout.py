"""Shared by readers of published layouts: a folder or zip archive, its files, and lines that know their position."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from zoo.data.division.splits import Source
from zoo.data.image_set import ImageSet
from zoo.data.stored import ImageSource, ZipMember
from zoo.errors import DataError


class Root:
    """A data set's folder, or a zip archive of it."""

    def __init__(self, path: str, *markers: str) -> None:
        """Find the folder that holds one of ``markers``: the path itself or one folder below it.

        Raises:
            DataError: the path is missing, or contains no such folder.
        """
        self.path = Path(path)
        self.archive = self.path.is_file()
        self.names: list[str] = []
        if not self.path.exists():
            raise DataError(f"{path} does not exist. Check the path given as data.")
        if self.archive:
            try:
                with zipfile.ZipFile(self.path) as opened:
                    self.names = opened.namelist()
            except (OSError, zipfile.BadZipFile) as error:
                raise DataError(
                    f"{path} is neither a folder nor a readable zip archive ({error}). Extract it first."
                ) from error
        for marker in markers:
            if self.archive:
                found = sorted((name for name in self.names if f"/{name}".endswith(f"/{marker}")), key=len)
            else:
                below = [self.path / marker, *sorted(self.path.glob(f"*/{marker}"))]
                found = [file.relative_to(self.path).as_posix() for file in below if file.exists()]
            if found:
                self.prefix = found[0].removesuffix(marker)
                self.marker = marker
                return
        raise DataError(f"{path} holds no {' or '.join(markers)}; it is not this data set in its published layout.")

    def read(self, name: str) -> bytes:
        """Return a file's content."""
        try:
            if self.archive:
                with zipfile.ZipFile(self.path) as opened:
                    return opened.read(self.prefix + name)
            return (self.path / self.prefix / name).read_bytes()
        except (OSError, KeyError, RuntimeError, zipfile.BadZipFile, zlib.error) as error:
            raise DataError(f"{self.where(name)} cannot be read ({error}). Download the data set again.") from error

    def text(self, name: str) -> str:
        """Return a text file's content."""
        try:
            return self.read(name).decode("utf-8")
        except UnicodeDecodeError as error:
            raise DataError(f"{self.where(name)} is not UTF-8 ({error}). Download the data set again.") from error

    def image(self, name: str) -> ImageSource:
        """Return the source of an image."""
        if self.archive:
            return ZipMember(self.path, self.prefix + name)
        return self.path / self.prefix / name

    def has_file(self, name: str) -> bool:
        """Return whether a file is in the data set's folder."""
        return self.prefix + name in self.names if self.archive else (self.path / self.prefix / name).is_file()

    def has_folder(self, name: str) -> bool:
        """Return whether a folder, such as ``Img/img``, is in the data set's folder."""
        if self.archive:
            return any(entry.startswith(f"{self.prefix}{name}/") for entry in self.names)
        return (self.path / self.prefix / name).is_dir()

    def where(self, name: str) -> str:
        """Return how messages name a file."""
        return f"{self.path}: {self.prefix}{name}"


@dataclass(frozen=True)
class Row:
    """A line of a text file, split into cells, and its position for messages."""

    where: str
    cells: Sequence[str]

    def number(self, cell: int) -> int:
        """Return the whole number in a cell."""
        try:
            return int(self.cells[cell])
        except ValueError:
            raise self.error(f"{self.cells[cell]!r} is not a number") from None

    def index(self, cell: int, known: dict[int, int]) -> int:
        """Return our index for the data set's id in a cell."""
        number = self.number(cell)
        if number not in known:
            raise self.error(f"id {number} is not listed")
        return known[number]

    def error(self, what: str) -> DataError:
        """Return an error that names the line."""
        return DataError(f"{self.where}: {what}. Fix the line, or download the data set again.")


def rows_of(root: Root, name: str, columns: str, header: int = 0, separator: str | None = None) -> Iterator[Row]:
    """Yield each non-blank line after the ``header`` first ones, split into as many cells as ``columns`` names.

    Raises:
        DataError: a line has another number of cells.
    """
    for number, line in enumerate(root.text(name).splitlines(), start=1):
        if number <= header or not line.strip():
            continue
        row = Row(f"{root.where(name)} line {number}", [cell.strip() for cell in line.split(separator)])
        if len(row.cells) != len(columns.split()):
            raise row.error(f"found {line.strip()!r} where there should be {columns}")
        yield row


def source_of(
    ids: list[str],
    sources: list[ImageSource],
    labels: Sequence[int] | np.ndarray,
    class_names: list[str],
    split: Sequence[str] | np.ndarray,
    note: str,
    roles: Sequence[str] | None = None,
) -> Source:
    """Return images with their authors' split, ``TRAIN`` or ``TEST`` for each image, which ``note`` describes."""
    images = ImageSet(
        ids,
        sources,
        np.asarray(labels, dtype=np.int64),
        class_names,
        None if roles is None else np.array(roles, dtype=object),
    )
    return Source(images, np.asarray(split, dtype=object), note)
