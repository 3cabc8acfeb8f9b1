"""The content of an ONNX file, including the files beside it that hold its weights ("external data").

Reads the protobuf messages of onnx.proto by their field numbers, because the device does not have the package onnx.
"""

from __future__ import annotations

import contextlib
import hashlib
import mmap
from collections.abc import Iterator, Mapping
from pathlib import Path, PureWindowsPath
from typing import Any, NamedTuple

from zoo.errors import ModelError

DIGEST_KEY = "content_digest"
# The metadata entries that the digest covers; other programs may add their own.
OUR_KEYS = (
    "architecture",
    "data",
    "dim",
    "loss",
    "metric",
    "parameters",
    "precision",
    "preprocessing",
    "quantization",
    "schema",
    "source_digest",
    "teacher",
    "versions",
)
_DEEPEST = 64  # nested messages; protobuf itself stops at 100

# message -> field number -> message of that field; fields that are not listed hold no tensors.
_MESSAGES: dict[str, dict[int, str]] = {
    "model": {7: "graph", 25: "function"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "function": {7: "node"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"},
    "sparse": {1: "tensor", 2: "tensor"},
}
_RAW_DATA, _EXTERNAL_DATA, _DATA_LOCATION = 9, 13, 14  # fields of a tensor
_METADATA, _GRAPH, _OPSET, _FUNCTION = 14, 7, 8, 25  # fields of the model


class _Field(NamedTuple):
    number: int
    value: int | memoryview
    whole: memoryview  # with tag and length


class _Range(NamedTuple):
    """The place of a tensor's bytes in an external file; length None means up to its end."""

    location: str
    offset: int
    length: int | None


def files_of(path: str | Path) -> list[Path]:
    """Return an ONNX file and the files beside it that it refers to, each once, in order of reference.

    Raises:
        ModelError: it is not ONNX, or refers to a file that is missing or not beside it.
    """
    path = Path(path)
    found = {path: None}
    with _opened(path) as content, _broken_named(path):
        for tensor in _tensors(content, "model"):
            if (place := _external(tensor)) is not None:
                found[_beside(path, place.location)] = None
    return list(found)


def size_of(path: str | Path) -> int:
    """Return the size in bytes of an ONNX file and the files that it refers to.

    Raises:
        ModelError: as :func:`files_of`.
    """
    return sum(file.stat().st_size for file in files_of(path))


def digest_of(path: str | Path) -> str:
    """Return the SHA-256 of an ONNX file; if it refers to others, the SHA-256 of all their SHA-256.

    Raises:
        ModelError: as :func:`files_of`.
    """
    digests = []
    for file in files_of(path):
        with open(file, "rb") as opened:
            digests.append(hashlib.file_digest(opened, "sha256").hexdigest())
    return digests[0] if len(digests) == 1 else hashlib.sha256(" ".join(digests).encode()).hexdigest()


def content_digest(path: str | Path, entries: Mapping[str, str] | None = None) -> str:
    """Return the SHA-256 of the graph, the weights and the metadata that ``export`` wrote.

    It depends on what is computed, not on how it is stored, such as weights in the file or beside it.

    Args:
        path: the file.
        entries: metadata to use; None for the file's own.

    Raises:
        ModelError: as :func:`files_of`.
    """
    path = Path(path)
    with _opened(path) as content, _broken_named(path):
        said = metadata_of(content) if entries is None else entries
        hashed = hashlib.sha256()
        for field in _fields(content):
            if field.number in (_GRAPH, _FUNCTION):
                _hash(field, "model", path, hashed)
            elif field.number == _OPSET:
                hashed.update(field.whole)
        for key in OUR_KEYS:
            if key in said:
                hashed.update(f"{key} {len(said[key].encode())} {said[key]}".encode())
        return hashed.hexdigest()


def require_intact(path: str | Path) -> None:
    """Refuse a file that differs from what ``export`` wrote. One without a digest passes if its external files exist.

    Raises:
        ModelError: it is not ONNX, a file is missing, or the digests differ; names both.
    """
    path = Path(path)
    with _opened(path) as content, _broken_named(path):
        said = metadata_of(content).get(DIGEST_KEY)
    if said is None:
        files_of(path)
        return
    found = content_digest(path)
    if found != said:
        raise ModelError(
            f"{path} has changed since export wrote it: its digest is {found[:16]}, but it says {said[:16]}. If a "
            f"program changed it on purpose, remove {DIGEST_KEY!r} from its metadata; otherwise export it again."
        )


def metadata_of(content: memoryview) -> dict[str, str]:
    """Return the metadata of a serialised model, text by key.

    Raises:
        ValueError: it is not ONNX.
    """
    entries = [_entry(field) for field in _fields(content) if field.number == _METADATA]
    return dict(entries)


def _hash(field: _Field, message: str, path: Path, hashed: Any, depth: int = 0) -> None:
    """Feed a field to a hash, nested messages field by field, so that the place of weights does not matter."""
    inner = _MESSAGES.get(message, {}).get(field.number)
    if inner is None:
        hashed.update(field.whole)
        return
    if depth > _DEEPEST:
        raise ValueError("its graphs are nested too deeply")
    hashed.update(f"({field.number}".encode())
    content = _message(field)
    if inner == "tensor":
        for part in _fields(content):
            if part.number not in (_RAW_DATA, _EXTERNAL_DATA, _DATA_LOCATION):
                hashed.update(part.whole)
        if (place := _external(content)) is not None:
            with _slice_of(_beside(path, place.location), place) as data:
                _hash_data(data, hashed)
        else:
            for part in _fields(content):
                if part.number == _RAW_DATA:
                    _hash_data(_message(part), hashed)
    else:
        for part in _fields(content):
            _hash(part, inner, path, hashed, depth + 1)
    hashed.update(b")")


def _hash_data(data: memoryview, hashed: Any) -> None:
    hashed.update(f"data {len(data)} ".encode())
    hashed.update(data)


def _tensors(content: memoryview, message: str, depth: int = 0) -> Iterator[memoryview]:
    """Yield all tensors in a message, at any depth."""
    if depth > _DEEPEST:
        raise ValueError("its graphs are nested too deeply")
    known = _MESSAGES[message]
    for field in _fields(content):
        inner = known.get(field.number)
        if inner == "tensor":
            yield _message(field)
        elif inner is not None:
            yield from _tensors(_message(field), inner, depth + 1)


def _external(tensor: memoryview) -> _Range | None:
    """Return the place of a tensor's bytes if they are in another file, else None."""
    entries: dict[str, str] = {}
    outside = False
    for field in _fields(tensor):
        if field.number == _DATA_LOCATION:
            outside = field.value == 1
        elif field.number == _EXTERNAL_DATA:
            key, value = _entry(field)
            entries[key] = value
    if not outside:
        return None
    length = entries.get("length")
    return _Range(entries.get("location", ""), int(entries.get("offset") or 0), None if length is None else int(length))


def _beside(path: Path, location: str) -> Path:
    """Return the file that a location names, which must lie in the folder of the ONNX file.

    Raises:
        ModelError: it is elsewhere, or missing.
    """
    parts = PureWindowsPath(location)  # understands both kinds of slashes
    if not location or parts.is_absolute() or parts.drive or parts.root or ".." in parts.parts or "\0" in location:
        raise ModelError(
            f"{path} has weights in {location!r}, but only files in its own folder are read. Save it with its weights "
            "inside."
        )
    file = path.parent / location
    if not file.is_file():
        raise ModelError(f"{path} has weights in {file}, which does not exist. Put that file next to it.")
    return file


@contextlib.contextmanager
def _slice_of(file: Path, place: _Range) -> Iterator[memoryview]:
    with _opened(file) as content:
        end = len(content) if place.length is None else place.offset + place.length
        if not 0 <= place.offset <= end <= len(content):
            raise ValueError(f"weights at bytes {place.offset} to {end} of {file.name}, which has {len(content)}")
        with content[place.offset : end] as part:
            yield part


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[memoryview]:
    """Map a file's bytes into memory, so that only those used are read."""
    if not path.is_file():
        raise ModelError(f"{path} does not exist, or is not a file. Check the path of the ONNX file.")
    try:
        with open(path, "rb") as file:
            # An empty file cannot be mapped. The map closes when its last slice is released.
            content = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) if path.stat().st_size else b""
    except OSError as error:
        raise ModelError(f"{path} cannot be read ({error.strerror or error}). Check its permissions.") from error
    yield memoryview(content)


@contextlib.contextmanager
def _broken_named(path: Path) -> Iterator[None]:
    try:
        yield
    except (ValueError, OverflowError) as error:
        raise ModelError(
            f"{path} is not an ONNX file that onnxruntime loads (broken: {error}). Export it again."
        ) from error


def _fields(content: memoryview) -> Iterator[_Field]:
    """Yield the fields of a serialised message.

    Raises:
        ValueError: it is not a message.
    """
    at = 0
    while at < len(content):
        start = at
        tag, at = _varint(content, at)
        number, kind = tag >> 3, tag & 7
        value: int | memoryview
        if kind == 0:
            value, at = _varint(content, at)
        elif kind in (1, 2, 5):
            length, at = (8, at) if kind == 1 else (4, at) if kind == 5 else _varint(content, at)
            value = content[at : at + length]
            at += length
        else:
            raise ValueError(f"no protobuf message at byte {start}")
        if at > len(content) or not number:
            raise ValueError(f"no protobuf message at byte {start}")
        yield _Field(number, value, content[start:at])


def _varint(content: memoryview, at: int) -> tuple[int, int]:
    """Return a variable-length number of up to 64 bits, and the position after it."""
    value = 0
    for shift in range(0, 70, 7):
        if at >= len(content):
            break
        byte = content[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
    raise ValueError("a number without an end")


def _message(field: _Field) -> memoryview:
    if isinstance(field.value, int):
        raise ValueError(f"field {field.number} is a number where a message belongs")
    return field.value


def _entry(field: _Field) -> tuple[str, str]:
    """Return key and value of a StringStringEntryProto."""
    texts = {part.number: str(_message(part), "utf-8") for part in _fields(_message(field)) if part.number in (1, 2)}
    return texts.get(1, ""), texts.get(2, "")
