"""Folders that appear whole: written in a folder of their own inside, and moved up when they are complete."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from zoo.files import LOCK, alone_in

_PREFIX = ".stage."


@contextlib.contextmanager
def staged(out: Path, last: str, ours: Sequence[str] | None = None) -> Iterator[Path]:
    """Give a folder to write in; move what it holds to ``out`` when the block succeeds.

    A folder that has the file ``last`` is whole: that file is removed first and moved last. What a killed process left
    shows whose the folder is (:func:`is_unfinished`), and is removed by the next one that succeeds.

    Args:
        out: made if it is not there; other processes are kept out of it.
        last: name of the file that is moved last.
        ours: names that an earlier run may have left in ``out``, and that are removed; None for all.

    Raises:
        OptionError: another process is at work in the folder.
    """
    is_new = not out.exists()
    try:
        with alone_in(out):
            left = list(out.glob(f"{_PREFIX}*"))
            for entry in (entry for folder in left for entry in folder.iterdir()):
                _remove(entry)
            with tempfile.TemporaryDirectory(dir=out, prefix=_PREFIX) as temporary:
                stage = Path(temporary)
                yield stage
                there = [entry.name for entry in out.iterdir() if not entry.name.startswith(".")]
                for name in (last, *(there if ours is None else ours)):
                    _remove(out / name)
                for made in sorted(stage.iterdir(), key=lambda made: (made.name == last, made.name)):
                    os.replace(made, out / made.name)
            for folder in left:
                folder.rmdir()
    finally:
        if is_new:
            with contextlib.suppress(OSError):
                out.rmdir()  # where nothing came of it


def is_taken(out: Path) -> bool:
    """Return whether a folder holds anything but what a process left that was killed while it wrote it."""
    return out.is_dir() and any(out.iterdir()) and not is_unfinished(out)


def is_unfinished(out: Path) -> bool:
    """Return whether a process that wrote a folder by :func:`staged` was killed before the end."""
    names = [entry.name for entry in out.iterdir()] if out.is_dir() else []
    return names == [LOCK] or any(name.startswith(_PREFIX) for name in names)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
