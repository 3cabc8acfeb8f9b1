"""Untrusted ``.npz`` and ``.npy`` files: sizes are checked before any memory is allocated."""

from __future__ import annotations

import math
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path
from tokenize import TokenError
from typing import IO, Any

import numpy as np

from zoo.errors import first_line

_FREE = 2**28  # bytes that any file may unpack to
_LONGEST = 100  # characters of a reason
_MOST_PACKED = 50  # largest compression ratio; embeddings and labels rarely reach 2


def read_arrays(path: Path, names: Sequence[str] | None = None) -> dict[str, np.ndarray]:
    """Return arrays of an ``.npz`` file, read without pickle.

    Args:
        path: the file.
        names: names of the arrays wanted; None for all.

    Raises:
        OSError: the file cannot be read.
        ValueError: the file is broken, lacks an array, holds objects, or unpacks to far more than its size.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            held = [name.removesuffix(".npy") for name in archive.namelist() if name.endswith(".npy")]
            for name in names or ():
                if name not in held:
                    raise ValueError(f"it lacks {name}")
            return {name: _read(archive, f"{name}.npy") for name in (held if names is None else names)}
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, MemoryError) as error:
        raise ValueError(first_line(error)[:_LONGEST]) from error  # zipfile's messages can be very long


def read_array(path: Path) -> np.ndarray:
    """Return the array of an ``.npy`` file, read without pickle.

    Raises:
        OSError: the file cannot be read.
        ValueError: the file is broken, or holds objects.
    """
    with path.open("rb") as opened:
        return _content(opened, path.stat().st_size, "it")


def read_header(opened: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """Read the header of ``.npy`` content; return shape, whether the order is Fortran, and data type.

    Raises:
        ValueError: it is not such a header, or has impossible values.
    """
    version = np.lib.format.read_magic(opened)
    if version not in ((1, 0), (2, 0)):
        raise ValueError(f"it is of format {version}")
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    try:
        shape, by_columns, dtype = read(opened)
    except (SyntaxError, TokenError, TypeError, RecursionError, MemoryError, OverflowError) as error:
        raise ValueError(f"its header cannot be read ({first_line(error)})") from error
    if any(side < 0 for side in shape):
        raise ValueError(f"it says shape {shape}")
    return shape, by_columns, dtype


def _read(archive: zipfile.ZipFile, name: str) -> np.ndarray:
    entry = archive.getinfo(name)
    if entry.file_size > max(_FREE, _MOST_PACKED * entry.compress_size):
        raise ValueError(
            f"{name} has {entry.compress_size} bytes and unpacks to {entry.file_size}. Save it unpacked, with np.savez"
        )
    with archive.open(entry) as opened:
        return _content(opened, entry.file_size, name)


def _content(opened: IO[bytes], length: int, name: str) -> np.ndarray:
    """Read an array from ``.npy`` content of ``length`` bytes."""
    try:
        shape, by_columns, dtype = read_header(opened)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from error
    if dtype.hasobject:
        raise ValueError(f"{name} holds Python objects, which are not read")
    size = math.prod(shape) * dtype.itemsize
    if size > length:
        raise ValueError(f"{name} says shape {shape}, {size} bytes, and has {length}")
    content = opened.read(size)
    if len(content) < size:
        raise ValueError(f"{name} ends early")
    array = np.frombuffer(content, dtype)
    return array.reshape(shape[::-1]).T if by_columns else array.reshape(shape)
