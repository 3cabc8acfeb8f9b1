"""Paths as people write them: ``~`` for the home folder, and names that no file can have."""

from __future__ import annotations

import errno
import os
from pathlib import Path

from zoo.errors import OptionError, shown

_LONGEST_NAME = 255  # bytes, on the file systems in use


def expanded(path: str | os.PathLike[str]) -> Path:
    """Return a path with its ``~`` or ``~user`` replaced; as it is where there is no such home folder."""
    try:
        return Path(path).expanduser()
    except RuntimeError:
        return Path(path)


def given_path(path: str | os.PathLike[str]) -> Path:
    """Return a path that a user gave, with ``~`` replaced; whether anything is there is for the caller to find out.

    Raises:
        OptionError: it is one that no file can have: longer than the system takes, or with a zero character in it.
    """
    place, reason = expanded(path), ""
    try:
        if any(len(os.fsencode(name)) > _LONGEST_NAME for name in place.parts):  # told before the folders are there
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


def is_there(path: Path) -> bool:
    """Return whether a file or folder is there; of names that no file can have, none is."""
    try:
        return path.exists()
    except (OSError, ValueError):
        return False
