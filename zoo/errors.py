"""Errors that a user can cause, and fix.

Every message names the thing that is wrong (file, row, option), the value found, and the remedy, in one or two lines.
The command line prints them without a traceback and exits with 1.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from typing import Any

_SHOWN = 60  # characters of a value in a message
_HEAD, _TAIL = 440, 220  # characters of a message that are kept where it is longer: what is wrong, and the remedy


class UserError(Exception):
    """Base of all errors that a user can fix. A message that quotes something very long is cut in the middle."""

    def __str__(self) -> str:
        message = super().__str__()
        if len(message) <= _HEAD + _TAIL:
            return message
        return f"{message[:_HEAD]} [...] {message[-_TAIL:]}"


class DataError(UserError):
    """A folder, file, row or image of the data is missing or broken."""


class ModelError(UserError):
    """An architecture, a weight file or a model folder is missing or broken."""


class ForeignModelError(ModelError):
    """An ONNX file is whole, but was not made by ``export``."""


class OptionError(UserError):
    """An option has a value that cannot work."""


class MissingExtraError(UserError):
    """A package that an extra brings is not installed."""


class DivergedError(OptionError):
    """Training ended with weights that are not finite."""


class RefusedError(UserError):
    """No int8 file keeps recall inside the budget.

    Attributes:
        found: what was measured.
        remedy: what may be done about it.
        content: what was tried, as ``candidates.json`` holds it.
        network: the graph that was to be quantised, in fp32.
    """

    def __init__(self, found: str, remedy: str, content: dict[str, Any], network: Any) -> None:
        super().__init__(f"{found} {remedy}")
        self.found = found
        self.remedy = remedy
        self.content = content
        self.network = network


def did_you_mean(name: str, known: Iterable[str], count: int = 3, cutoff: float = 0.5) -> str:
    """Return `` Did you mean a, b or c?`` with the most similar known names, or an empty string.

    Args:
        name: what was given.
        known: what may be given.
        count: most names to return.
        cutoff: how alike names must be, in [0, 1].
    """
    near = difflib.get_close_matches(name, list(known), n=count, cutoff=cutoff)
    if not near:
        return ""
    listed = near[0] if len(near) == 1 else f"{', '.join(near[:-1])} or {near[-1]}"
    return f" Did you mean {listed}?"


def require_known(what: str, word: str, known: Iterable[str]) -> None:
    """Raise an OptionError where a word is not one of those known; it names them, and those that are near.

    Args:
        what: what the word stands for, such as "split".
        word: what was given.
        known: what may be given.
    """
    names = list(known)
    if word not in names:
        listed = f"{', '.join(names[:-1])} and {names[-1]}"
        raise OptionError(f"Unknown {what} {shown(word)}; known are {listed}.{did_you_mean(str(word)[:100], names)}")


def shown(value: Any) -> str:
    """Return a value as messages show it: on one line, and cut off where it is long."""
    if isinstance(value, int) and abs(value) >= 10**_SHOWN:
        return "a number of very many digits"
    try:
        text = repr(value)
    except RecursionError:
        return "something nested deeply"
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."


def all_shown(names: Sequence[str], most: int = 12) -> str:
    """Return names as messages list them: those at the start, each cut off where it is long, and how many more."""
    some = [name if len(name) <= _SHOWN else f"{name[:_SHOWN]}..." for name in names[:most]]
    more = [f"{len(names) - most} more"] if len(names) > most else []
    return ", ".join([*some, *more])


def printable(name: object) -> str:
    """Return a name as text that UTF-8 can hold; file names that are not UTF-8 reach Python as lone surrogates."""
    return str(name).encode("utf-8", "backslashreplace").decode("utf-8")


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message, cut off where it is long, or the name of its kind without one."""
    lines = str(error).strip().splitlines()
    if not lines:
        return type(error).__name__
    return lines[0] if len(lines[0]) <= _HEAD else f"{lines[0][:_HEAD]}..."
