"""Folders that appear whole: their content is written to a folder inside, and moved up when it is complete."""

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
def staged(out: Path, last: str, ours: Sequence[str]) -> Iterator[Path]:
    """Yield a folder to write in, and move its content to ``out`` when the block succeeds.

    A folder that has the file ``last`` is complete: that file is removed first and moved last. The remains of a killed
    process mark the folder as unfinished (:func:`is_unfinished`); the next process that succeeds removes them.

    Args:
        out: the folder, created if it does not exist; other processes are locked out.
        last: name of the file that is moved last.
        ours: names that an earlier run may have left in ``out``, and that are removed; other files stay.

    Raises:
        OptionError: another process is using the folder.
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
                for name in (last, *ours):
                    _remove(out / name)
                for made in sorted(stage.iterdir(), key=lambda made: (made.name == last, made.name)):
                    os.replace(made, out / made.name)
            for folder in left:
                folder.rmdir()
    finally:
        if is_new:
            with contextlib.suppress(OSError):
                out.rmdir()  # succeeds only if nothing was written


def is_taken(out: Path) -> bool:
    """Return whether a folder holds anything other than the remains of a process killed while writing it."""
    return out.is_dir() and any(out.iterdir()) and not is_unfinished(out)


def is_unfinished(out: Path) -> bool:
    """Return whether a process that wrote a folder with :func:`staged` was killed before it finished."""
    names = [entry.name for entry in out.iterdir()] if out.is_dir() else []
    return names == [LOCK] or any(name.startswith(_PREFIX) for name in names)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
