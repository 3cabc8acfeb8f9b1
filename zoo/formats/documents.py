"""Untrusted JSON: read with a size limit, its values checked, and sealed by a digest."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from zoo.errors import shown

_LARGEST = 64 * 2**20  # bytes; parsing takes up to about 600 MB, and ids.json of a million images has 40 MB


class Kind(NamedTuple):
    """What a value must be, in words and as a test."""

    words: str
    fits: Callable[[Any], bool]


def whole(lowest: int, highest: int = 2**63 - 1) -> Kind:
    """Return the kind of whole numbers in an inclusive range."""
    words = f"a whole number of at least {lowest}" if highest == 2**63 - 1 else f"a whole number in {lowest}..{highest}"
    return Kind(words, lambda value: type(value) is int and lowest <= value <= highest)


def number(words: str, fits: Callable[[float], bool] = lambda value: True) -> Kind:
    """Return the kind of finite numbers that pass a test."""
    return Kind(words, lambda value: type(value) in (int, float) and _is_finite(value) and fits(value))


def one_of(*known: str) -> Kind:
    """Return the kind of texts that are one of the known words."""
    return Kind(" or ".join(known), lambda value: isinstance(value, str) and value in known)


def list_of(kind: Kind, count: int | None = None) -> Kind:
    """Return the kind of lists whose values are of a kind, with a length if ``count`` is given."""
    return Kind(
        f"a list of {'' if count is None else f'{count} times '}{kind.words}",
        lambda value: isinstance(value, list | tuple) and count in (None, len(value)) and all(map(kind.fits, value)),
    )


def maybe(kind: Kind) -> Kind:
    """Return the kind that also allows null."""
    return Kind(f"{kind.words}, or null", lambda value: value is None or kind.fits(value))


TEXT = Kind("text", lambda value: isinstance(value, str))
MAPPING = Kind("an object", lambda value: isinstance(value, dict))
FLAG = Kind("true or false", lambda value: isinstance(value, bool))


def parsed(text: str) -> Any:
    """Parse JSON text.

    Raises:
        ValueError: it is not JSON, or nested too deeply.
    """
    try:
        return json.loads(text)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


def read_document(file: Path) -> dict[str, Any]:
    """Read a JSON file that holds an object.

    Raises:
        OSError: the file cannot be read.
        ValueError: the file is not JSON in UTF-8, not an object, or too large.
    """
    content = parsed(read_text(file))
    if not isinstance(content, dict):
        raise ValueError(f"it holds {shown(content)}, not an object")
    return content


def has_keys(file: Path, *keys: str) -> bool:
    """Return whether a file is a JSON object with these keys, which shows that a folder is one of ours."""
    try:
        return set(keys) <= read_document(file).keys()
    except (OSError, ValueError):
        return False


def read_text(file: Path) -> str:
    """Read a UTF-8 file of at most 64 MiB.

    Raises:
        OSError: the file cannot be read.
        ValueError: the file is larger, or not UTF-8.
    """
    with open(file, "rb") as opened:
        content = opened.read(_LARGEST + 1)
    if len(content) > _LARGEST:
        raise ValueError(f"it has more than {_LARGEST // 2**20} MiB")
    return content.decode("utf-8")


def require_kinds(
    document: Mapping[str, Any], kinds: Mapping[str, Kind], optional: Mapping[str, Kind] | None = None
) -> None:
    """Refuse a document that lacks a value, or has a value of another kind.

    Args:
        document: values by key.
        kinds: kinds of the values that it must have.
        optional: kinds of the values that it may have.

    Raises:
        ValueError: names the key, the value, and what it must be.
    """
    for key in kinds:
        if key not in document:
            raise ValueError(f"it lacks {key}")
    for key, kind in (dict(kinds) | dict(optional or {})).items():
        if key in document and not kind.fits(document[key]):
            raise ValueError(f"{key} is {shown(document[key])}; it must be {kind.words}")


def seal_of(document: Mapping[str, Any]) -> str:
    """Return the SHA-256 of a document, independent of key order and whitespace."""
    return hashlib.sha256(json.dumps(document, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def _is_finite(value: float) -> bool:
    try:
        return math.isfinite(value)
    except OverflowError:  # an integer beyond the range of floats
        return False
