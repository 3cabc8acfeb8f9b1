"""Paths that users give: ``~`` is expanded, and impossible names are refused."""

from __future__ import annotations

import errno
import os
from pathlib import Path

from zoo.errors import OptionError, shown

_LONGEST_NAME = 255  # bytes, on the file systems in use


def expanded(path: str | os.PathLike[str]) -> Path:
    """Return a path with ``~`` or ``~user`` expanded, or unchanged if there is no such home folder."""
    try:
        return Path(path).expanduser()
    except RuntimeError:
        return Path(path)


def given_path(path: str | os.PathLike[str]) -> Path:
    """Return a path that a user gave, with ``~`` expanded; the caller checks whether it exists.

    Raises:
        OptionError: no file can have this path: it is too long for the system, or contains a zero character.
    """
    place, reason = expanded(path), ""
    try:
        if any(len(os.fsencode(name)) > _LONGEST_NAME for name in place.parts):  # lstat needs existing parents
            reason = f"a name in it has more than {_LONGEST_NAME} bytes"
        else:
            place.lstat()
    except ValueError as error:  # a zero character, or letters that the file system cannot write
        reason = str(error)
    except OSError as error:
        reason = "it is too long" if error.errno == errno.ENAMETOOLONG else ""
    if reason:
        raise OptionError(f"{shown(os.fspath(path))} is not a path that a file can have: {reason}.")
    return place


def is_folder(path: str | os.PathLike[str]) -> bool:
    """Return whether a path, or a name that need not be one, is that of a folder, as far as this process may see."""
    try:
        return expanded(path).is_dir()
    except (OSError, ValueError):
        return False


def is_there(path: Path) -> bool:
    """Return whether a file or folder exists; False for names that no file can have."""
    try:
        return path.exists()
    except (OSError, ValueError):
        return False
