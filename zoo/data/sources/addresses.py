"""Addresses of files on other machines, such as ``s3://bucket/photos.csv``, read by fsspec."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from typing import Any, TypeAlias

from zoo.data.stored import StoredImage
from zoo.errors import DataError, MissingExtraError, first_line
from zoo.extras import is_installed, missing
from zoo.images import require_regular
from zoo.paths import given_path, is_there

Place: TypeAlias = Path | str
"""A file on this machine, or an address."""

_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+(?:::[A-Za-z0-9+.-]+)*://")
_BRACES = re.compile(r"\{([^{}]*)\}")
_RANGE = re.compile(r"(\d+)\.\.(\d+)")
_MOST_FILES = 10**6
# What a scheme needs besides fsspec; for other schemes, fsspec's error says it.
_PACKAGES = {"s3": "s3fs", "s3a": "s3fs", "gs": "gcsfs", "gcs": "gcsfs", "az": "adlfs", "abfs": "adlfs"}
_PACKAGES |= {"http": "aiohttp", "https": "aiohttp"}


def is_address(text: str) -> bool:
    """Return whether a text is an address, such as ``s3://bucket/a.jpg``."""
    return _ADDRESS.match(text) is not None


def place_of(text: str) -> Place:
    """Return an address unchanged, and any other text as a path.

    Raises:
        OptionError: no file can have the path.
    """
    return text if is_address(text) else given_path(text)


def folder_of(place: Place) -> Place:
    """Return the folder that a file lies in."""
    return place.parent if isinstance(place, Path) else place.rpartition("/")[0]


def common_folder_of(places: Sequence[Place]) -> Place:
    """Return the deepest folder that all files lie in, at any depth; all are paths, or all are addresses."""
    folders = [folder_of(place) for place in places]
    parts = [list(folder.parts) if isinstance(folder, Path) else folder.split("/") for folder in folders]
    shared = [names[0] for names in takewhile(lambda names: len(set(names)) == 1, zip(*parts, strict=False))]
    return Path(*shared) if isinstance(folders[0], Path) else "/".join(shared)


def file_system(address: str) -> tuple[Any, str]:
    """Return the file system of an address, and the path in it.

    Raises:
        MissingExtraError: fsspec, or a package that it needs for this scheme, is not installed.
        DataError: the scheme is unknown, or the other side cannot be reached.
    """
    if not is_installed("fsspec"):
        raise missing(address, "fsspec")

    import fsspec

    try:
        found: tuple[Any, str] = fsspec.core.url_to_fs(address)
    except ImportError as error:
        scheme = address.partition(":")[0].lower()
        package = _PACKAGES.get(scheme)
        remedy = f"pip install {package}" if package else first_line(error)
        raise MissingExtraError(
            f"{address} needs {package or 'a package'}, which is not installed. Install it: {remedy}"
        ) from error
    except Exception as error:  # file systems may raise anything
        raise DataError(f"{address} cannot be opened ({first_line(error)}). Check the address.") from error
    return found


def read_place(place: Place, start: int | None = None, end: int | None = None) -> bytes:
    """Return the bytes of a file, or those from ``start`` to ``end``.

    Raises:
        OSError: it cannot be read, for any reason.
        MissingExtraError: as in :func:`file_system`.
    """
    if isinstance(place, Path):
        require_regular(place)
        with place.open("rb") as file:
            first = file.seek(start or 0)
            size = os.fstat(file.fileno()).st_size  # an end far beyond the file would allocate memory
            return file.read(-1 if end is None else max(min(end, size) - first, 0))
    system, path = file_system(place)
    try:
        content: bytes = system.cat_file(path, start=start, end=end)
    except Exception as error:
        raise _of_system(error, place) from error
    return content


def open_place(place: Place) -> Any:
    """Open a file for reading bytes at any position.

    Raises:
        OSError: it cannot be opened, for any reason.
        MissingExtraError: as in :func:`file_system`.
    """
    if isinstance(place, Path):
        require_regular(place)
        return place.open("rb")
    system, path = file_system(place)
    try:
        return system.open(path, "rb")
    except Exception as error:
        raise _of_system(error, place) from error


def _of_system(error: Exception, place: str) -> OSError:
    """Convert an error that a file system raised to an OSError."""
    if isinstance(error, FileNotFoundError):
        return FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), place)
    return OSError(errno.EIO, getattr(error, "strerror", None) or first_line(error), place)


def places_in(pattern: str) -> list[Place]:
    """Return the files that a pattern names: ``shards-{0000..0009}.tar``, ``{train,test}.parquet``, ``part-*.parquet``.

    Braces expand to all their names; stars match existing files, sorted by name.

    Raises:
        DataError: stars match no file, or braces expand to more than a million names.
    """
    places: list[Place] = []
    for name in _without_braces(pattern):
        if is_address(name):
            found: list[Place] = [*_matching_addresses(name)] if "*" in name else [name]
        else:
            path = given_path(name)
            root = Path(path.anchor)
            found = [path] if "*" not in name or is_there(path) else sorted(root.glob(str(path.relative_to(root))))
        if not found:
            raise DataError(f"No file matches {name}. Check the path.")
        places += found
        if len(places) > _MOST_FILES:
            raise DataError(f"{pattern} names more than {_MOST_FILES} files. Check the numbers in its braces.")
    return places


def _without_braces(pattern: str) -> Iterator[str]:
    match = _BRACES.search(pattern)
    if match is None or (not is_address(pattern) and is_there(Path(pattern))):
        yield pattern
        return
    numbers = _RANGE.fullmatch(match[1])
    if numbers:
        low, high = numbers.groups()
        if int(high) - int(low) >= _MOST_FILES:
            raise DataError(f"{pattern} names more than {_MOST_FILES} files. Check the numbers in its braces.")
        words = [str(number).zfill(len(low)) for number in range(int(low), int(high) + 1)]
    else:
        words = match[1].split(",")
    for word in words:
        yield from _without_braces(pattern[: match.start()] + word + pattern[match.end() :])


def _matching_addresses(pattern: str) -> list[str]:
    system, path = file_system(pattern)
    try:
        return [system.unstrip_protocol(match) for match in sorted(system.glob(path))]
    except Exception as error:
        raise DataError(f"{pattern} cannot be listed ({first_line(error)}). Check the address.") from error


@dataclass(frozen=True)
class RemoteImage(StoredImage):
    """An image at an address.

    Attributes:
        address: the address, such as ``https://example.org/a.jpg``.
    """

    address: str

    def content(self) -> bytes:
        return read_place(self.address)

    def mark(self) -> str:
        """Return the address; knowing more would take a request for each image."""
        return self.address

    def __str__(self) -> str:
        return self.address
