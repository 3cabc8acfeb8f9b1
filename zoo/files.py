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
_held: dict[str, tuple[int, int] | None] = {}  # folders that this process is alone in, and their locks


@contextlib.contextmanager
def replacing(path: Path | str) -> Iterator[Path]:
    """Give a temporary path beside ``path`` to write a file to; rename it into place when the block succeeds.

    When the block raises, ``path`` is left as it was and the temporary file is removed. What a process that was killed
    leaves behind, :func:`remove_left_over` removes.

    Raises:
        OSError: the disk is full, or another limit of the system is reached, whatever the writing library makes of it.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=f".part{path.suffix}")
    temporary = Path(name)
    try:
        _lock(handle)  # until it is closed: a sign that this process is alive
        if os.name == "nt":
            os.close(handle)  # an open file cannot be replaced there
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
    """Raise what libraries make of a full disk, or of a file that may grow no more, as the OSError it was.

    Args:
        path: a file or folder, which the error is to name.
        written: the file that the block writes, by which a limit of its size is found; None for none.

    Raises:
        OSError: named ``path``, in place of an error of another kind, or of one without a name.
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
    """Return the system's number of an error, as Python and Rust have it; None for an error of another kind."""
    if isinstance(error, OSError):
        return error.errno
    said = re.search(r"\(os error (\d+)\)", str(error))
    return int(said[1]) if said else None


def _obstacle_to_writing(folder: Path | str, written: Path | None) -> int | None:
    """Return the system's number of the error that writing one more MiB ends in, or None."""
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
    """Lock an open file until it is closed; return False where another process has, or there are no locks."""
    try:
        import fcntl  # not on Windows

        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (ImportError, OSError):
        return False
    return True


def write_text(path: Path | str, text: str) -> None:
    """Write a UTF-8 text file, whole or not at all; what is not Unicode, as names of files may be, is escaped."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8", errors="backslashreplace")


def write_lines(path: Path | str, lines: Iterable[str]) -> None:
    """Write a UTF-8 text file of lines, as :func:`write_text` does."""
    write_text(path, "".join(f"{line}\n" for line in lines))


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

    size = 4 * math.prod(shape)
    try:
        with open(path, "wb") as file:
            reserve(file.fileno(), size)
    except OSError as error:
        path.unlink(missing_ok=True)
        raise OptionError(
            f"{path.parent} has no room for {size} bytes of preprocessed images ({error.strerror or error}). Set "
            "TMPDIR to a folder that has."
        ) from error
    return np.memmap(path, np.float32, "r+", shape=shape)


def reserve(handle: int, size: int) -> None:
    """Give a new file its size and the space for it; a mapped page without space would end the process.

    Raises:
        OSError: there is no such space.
    """
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

    What killed processes left half written in it is removed.

    Raises:
        OptionError: it, or what it is to lie in, is a file or cannot be written to.
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
    """Keep other processes of this kind out of a folder while the block runs; the lock ends with the process, too.

    A read-only folder needs no lock: no process writes to it.

    Raises:
        OptionError: another process is in it.
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
        if _inode(file) == _held.pop(place, None):  # else it is another process's, in a folder that took the place
            file.unlink(missing_ok=True)
        lock.release()


def require_in_place(folder: Path | str) -> None:
    """Refuse to go on where a folder that this process is alone in is gone, or another one took its place.

    Raises:
        OptionError: it is so.
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


def as_any_new_file(path: Path) -> None:
    """Give a temporary file, which its owner alone may read, the permissions that the umask gives to any new file."""
    current = os.umask(0)
    os.umask(current)
    path.chmod(0o666 & ~current)
