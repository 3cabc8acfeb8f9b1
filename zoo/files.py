"""Files that appear whole or not at all."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import math
import os
import re
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock, Timeout

from zoo.errors import OptionError, UserError
from zoo.formats.onnx_content import digest_of
from zoo.paths import given_path

if TYPE_CHECKING:
    import numpy as np

LOCK = ".lock"
_LIMITS = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
_READ_ONLY = frozenset({errno.EROFS, errno.EACCES, errno.EPERM})
_held: dict[str, tuple[int, int] | None] = {}  # folders that this process has locked, and the inodes of their locks


@contextlib.contextmanager
def replacing(path: Path | str) -> Iterator[Path]:
    """Yield a temporary path beside ``path`` to write a file to; rename it into place when the block succeeds.

    If the block raises, ``path`` stays as it was and the temporary file is removed. :func:`remove_left_over` removes
    the temporary files of killed processes.

    Raises:
        OSError: the disk is full, or another system limit is reached, whatever the writing library raised instead.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=f".part{path.suffix}")
    temporary = Path(name)
    try:
        _lock(handle)  # held until the handle is closed: shows that this process is alive
        if os.name == "nt":
            os.close(handle)  # Windows cannot replace an open file
        with full_disk_named(path, temporary):
            yield temporary
        as_any_new_file(temporary)
        os.replace(temporary, path)
    finally:
        if os.name != "nt":
            os.close(handle)
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def full_disk_named(path: Path | str, written: Path | None = None) -> Iterator[None]:
    """Turn the errors that libraries raise when the disk is full or a size limit is reached back into an OSError.

    Args:
        path: the file or folder that the error names.
        written: the file that the block writes, used to detect a limit on its size; None to test the folder instead.

    Raises:
        OSError: names ``path``; replaces an error of another kind, or an OSError without a file name.
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        if isinstance(error, OSError) and (error.filename is not None or error.errno not in (None, *_LIMITS)):
            raise
        code = _reason_of(error) or _obstacle_to_writing(path if Path(path).is_dir() else Path(path).parent, written)
        if code is None:
            raise
        raise OSError(code, os.strerror(code), str(path)) from error


def _reason_of(error: Exception) -> int | None:
    """Return the errno of an error raised by Python or Rust; None for other errors."""
    if isinstance(error, OSError):
        return error.errno
    said = re.search(r"\(os error (\d+)\)", str(error))
    return int(said[1]) if said else None


def _obstacle_to_writing(folder: Path | str, written: Path | None) -> int | None:
    """Try to write one more MiB; return the errno if that exceeds a limit, or None."""
    try:
        with open(written, "ab") if written is not None else tempfile.TemporaryFile(dir=folder) as file:
            file.write(bytes(1 << 20))
    except OSError as error:
        return error.errno if error.errno in _LIMITS else None
    return None


def remove_left_over(folder: Path | str) -> None:
    """Remove the temporary files of :func:`replacing` that killed processes left in a folder."""
    for left in Path(folder).glob(".*.????????.part*"):
        with contextlib.suppress(OSError), open(left, "rb") as file:
            if _lock(file.fileno()):
                left.unlink(missing_ok=True)


def _lock(handle: int) -> bool:
    """Lock an open file until it is closed; return False if another process has it or locks are unsupported."""
    try:
        import fcntl  # not on Windows

        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (ImportError, OSError):
        return False
    return True


def write_text(path: Path | str, text: str) -> None:
    """Write a UTF-8 text file, whole or not at all; invalid Unicode, as in file names, is escaped."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8", errors="backslashreplace")


def write_lines(path: Path | str, lines: Iterable[str]) -> None:
    """Write a UTF-8 text file of lines, as :func:`write_text` does."""
    write_text(path, "".join(f"{line}\n" for line in lines))


def write_json(path: Path | str, value: Any) -> None:
    """Write a JSON file, indented and in ASCII (file names need not be valid Unicode), whole or not at all."""
    write_text(path, json.dumps(value, indent=2) + "\n")


def scratch_array(path: Path, shape: tuple[int, ...]) -> np.ndarray:
    """Return a float32 array of zeros that is backed by a new file, for data too large for memory.

    The disk space is allocated now: if a mapped page finds no room later, a signal kills the process.

    Args:
        path: the file, in a temporary folder.
        shape: shape of the array, without a 0.

    Raises:
        OptionError: the folder has no room for it; names the folder, the bytes and the remedy.
    """
    import numpy as np

    size = 4 * math.prod(shape)
    try:
        with open(path, "wb") as file:
            reserve(file.fileno(), size)
    except OSError as error:
        path.unlink(missing_ok=True)
        raise OptionError(
            f"{path.parent} has no room for {size} bytes of preprocessed images ({error.strerror or error}). Set "
            "TMPDIR to a folder with more room."
        ) from error
    return np.memmap(path, np.float32, "r+", shape=shape)


def reserve(handle: int, size: int) -> None:
    """Set a new file's size and allocate its disk space; a mapped page without space would kill the process.

    Raises:
        OSError: there is not enough space.
    """
    try:
        os.posix_fallocate(handle, 0, size)
    except (AttributeError, OSError) as error:  # unsupported by this system or file system
        if isinstance(error, OSError) and error.errno not in (errno.EINVAL, errno.EOPNOTSUPP, errno.ENOSYS):
            raise
        zeros = bytes(1 << 20)
        os.lseek(handle, 0, os.SEEK_SET)
        while size:
            size -= os.write(handle, zeros[: min(size, len(zeros))])


def require_writable(folder: Path | str) -> None:
    """Refuse a folder that cannot be created or written to, before any work is lost. Does not create it.

    Removes temporary files that killed processes left in it.

    Raises:
        OptionError: the folder or its nearest existing parent is a file or cannot be written to.
    """
    place = given_path(folder).absolute()
    there = next(above for above in (place, *place.parents) if above.exists())
    if not there.is_dir():
        raise OptionError(f"{there} is a file; out must be a folder. Choose another.")
    try:
        with tempfile.TemporaryFile(dir=there):
            pass
    except OSError as error:
        reason = error.strerror or str(error)
        raise OptionError(f"{folder} cannot be written to ({reason}). Choose another place for results.") from error
    remove_left_over(place)


@contextlib.contextmanager
def alone_in(folder: Path | str) -> Iterator[None]:
    """Lock a folder against other processes of this project while the block runs; the lock ends with the process.

    A read-only folder needs no lock: no process writes to it.

    Raises:
        OptionError: another process holds the lock.
    """
    folder = Path(folder)
    file = folder / LOCK
    lock = FileLock(file)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock.acquire(timeout=0)
    except Timeout as error:
        raise OptionError(f"Another process is working in {folder}. Wait for it, or choose another out.") from error
    except NotImplementedError:  # a file system without locks
        yield
        return
    except OSError as error:
        if error.errno not in _READ_ONLY:
            raise
        yield
        return
    place = str(folder.absolute())
    try:
        _held[place] = _inode(file)
        yield
    finally:
        if _inode(file) == _held.pop(place, None):  # else the folder was replaced, and the lock is not ours
            file.unlink(missing_ok=True)
        lock.release()


def require_in_place(folder: Path | str) -> None:
    """Raise an error if a folder that this process has locked was removed or replaced.

    Raises:
        OptionError: the folder is gone, or another one took its place.
    """
    held = _held.get(str(Path(folder).absolute()))
    if held is not None and held != _inode(Path(folder) / LOCK):
        raise OptionError(f"{folder} was removed or moved while it was in use. Run the command again.")


def _inode(file: Path) -> tuple[int, int] | None:
    try:
        found = file.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


def digest(path: Path | str) -> str:
    """Return the SHA-256 of a file, as 64 hexadecimal digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def model_digest(path: Path | str) -> str:
    """Return a SHA-256 that changes whenever the model's output may change.

    Args:
        path: a model folder (its weights and configuration count); an ONNX file, with its external files; or any other
            file.

    Raises:
        ModelError: an ONNX file is broken, or a file that it refers to is missing.
        OSError: a file is missing.
    """
    path = Path(path)
    if path.is_dir():
        both = f"{digest(path / 'model.safetensors')} {digest(path / 'config.json')}"
        return hashlib.sha256(both.encode()).hexdigest()
    return digest_of(path) if path.suffix == ".onnx" else digest(path)


def as_any_new_file(path: Path) -> None:
    """Give a temporary file, readable by its owner only, the permissions that the umask gives any new file."""
    current = os.umask(0)
    os.umask(current)
    path.chmod(0o666 & ~current)
