"""Files that appear whole or not at all."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock, Timeout

from zoo.errors import OptionError
from zoo.formats.onnx_content import digest_of

if TYPE_CHECKING:
    import numpy as np

LOCK = ".lock"


@contextlib.contextmanager
def replacing(path: Path | str) -> Iterator[Path]:
    """Give a temporary path beside ``path`` to write a file to; rename it into place when the block succeeds.

    When the block raises, ``path`` is left as it was and the temporary file is removed.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=path.suffix)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        temporary.chmod(0o666 & ~_umask())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: Path | str, text: str) -> None:
    """Write a UTF-8 text file, whole or not at all; what is not Unicode, as names of files may be, is escaped."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8", errors="backslashreplace")


def write_json(path: Path | str, value: Any) -> None:
    """Write a JSON file, indented and in ASCII (file names need not be valid Unicode), whole or not at all."""
    write_text(path, json.dumps(value, indent=2) + "\n")


def scratch_array(path: Path, shape: tuple[int, ...]) -> np.ndarray:
    """Return a float32 array whose memory is a new file, for what is too large to hold; all zeros.

    The file's space is taken at once: a page of a mapped file that finds no room later ends the process by a signal.

    Args:
        path: of the file, in a temporary folder.
        shape: of the array, without a 0.

    Raises:
        OptionError: the folder has no room for it; names the folder, the bytes and the remedy.
    """
    import numpy as np

    size = 4
    for side in shape:
        size *= side
    try:
        with open(path, "wb") as file:
            _reserve(file.fileno(), size)
    except OSError as error:
        path.unlink(missing_ok=True)
        raise OptionError(
            f"{path.parent} has no room for {size} bytes of preprocessed images ({error.strerror or error}). Set "
            "TMPDIR to a folder that has."
        ) from error
    return np.memmap(path, np.float32, "r+", shape=shape)


def _reserve(handle: int, size: int) -> None:
    """Give a new file its size and the space for it."""
    try:
        os.posix_fallocate(handle, 0, size)
    except (AttributeError, OSError) as error:  # no such call on this system, or none for this file system
        if isinstance(error, OSError) and error.errno not in (errno.EINVAL, errno.EOPNOTSUPP, errno.ENOSYS):
            raise
        zeros = bytes(1 << 20)
        os.lseek(handle, 0, os.SEEK_SET)
        while size:
            size -= os.write(handle, zeros[: min(size, len(zeros))])


def require_writable(folder: Path | str) -> None:
    """Refuse a folder that cannot be made or written to, before work is lost on it. Nothing is made yet.

    Raises:
        OptionError: it, or what it is to lie in, is a file or cannot be written to.
    """
    there = next(place for place in (Path(folder).absolute(), *Path(folder).absolute().parents) if place.exists())
    if not there.is_dir():
        raise OptionError(f"{there} is a file; out must be a folder. Choose another.")
    try:
        with tempfile.TemporaryFile(dir=there):
            pass
    except OSError as error:
        reason = error.strerror or str(error)
        raise OptionError(f"{folder} cannot be written to ({reason}). Choose another place for results.") from error


@contextlib.contextmanager
def alone_in(folder: Path | str) -> Iterator[None]:
    """Keep other processes of this kind out of a folder while the block runs; the lock ends with the process, too.

    Raises:
        OptionError: another process is in it.
    """
    lock = FileLock(Path(folder) / LOCK)
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        raise OptionError(f"Another process is at work in {folder}. Wait for it, or choose another out.") from error
    except NotImplementedError:  # a file system without locks
        yield
        return
    try:
        yield
    finally:
        (Path(folder) / LOCK).unlink(missing_ok=True)
        lock.release()


def digest(path: Path | str) -> str:
    """Return the SHA-256 of a file, as 64 hexadecimal digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def model_digest(path: Path | str) -> str:
    """Return a SHA-256 that changes when what a model computes does.

    Args:
        path: a model folder, whose weights and configuration count; an ONNX file, with the files that it refers to; or
            any other file.

    Raises:
        ModelError: an ONNX file is broken, or one that it refers to is missing.
        OSError: a file is missing.
    """
    path = Path(path)
    if path.is_dir():
        both = f"{digest(path / 'model.safetensors')} {digest(path / 'config.json')}"
        return hashlib.sha256(both.encode()).hexdigest()
    return digest_of(path) if path.suffix == ".onnx" else digest(path)


def _umask() -> int:
    current = os.umask(0)
    os.umask(current)
    return current
