"""Errors that a user can cause and fix.

Every message names what is wrong (file, row, option), the value found and the remedy, in one or two lines.
The command line prints them without a traceback and exits with 1.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Sequence
from typing import Any

_CONTROLS = re.compile("[\x00-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069]")
_CONTROLS_BUT_BREAKS = re.compile(f"(?![\n\t]){_CONTROLS.pattern}")
_SHOWN = 60  # characters of a value in a message
_HEAD, _TAIL = 440, 220  # characters kept at both ends of a longer message: what is wrong, and the remedy


class UserError(Exception):
    """Base of all errors that a user can fix. Very long messages are cut in the middle."""

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
    """An ONNX file is valid, but was not made by ``export``."""


class OptionError(UserError):
    """An option has a value that cannot work."""


class MissingExtraError(UserError):
    """A package from one of the extras is not installed."""


class DivergedError(OptionError):
    """Training ended with weights that are not finite."""


class RefusedError(UserError):
    """No int8 file keeps recall inside the budget.

    Attributes:
        found: what was measured.
        remedy: what the user can do about it.
        content: the candidates tried, in the form of ``candidates.json``.
        network: the fp32 graph that was to be quantised.
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
        name: the name given.
        known: the names allowed.
        count: how many names to return at most.
        cutoff: how similar names must be, in [0, 1].
    """
    near = difflib.get_close_matches(name, list(known), n=count, cutoff=cutoff)
    if not near:
        return ""
    listed = near[0] if len(near) == 1 else f"{', '.join(near[:-1])} or {near[-1]}"
    return f" Did you mean {listed}?"


def require_known(what: str, word: str, known: Iterable[str]) -> None:
    """Raise an OptionError if a word is unknown; the message lists the known words and the most similar ones.

    Args:
        what: what the word stands for, such as "split".
        word: the word given.
        known: the words allowed.
    """
    names = list(known)
    if word not in names:
        listed = f"{', '.join(names[:-1])} and {names[-1]}"
        raise OptionError(f"Unknown {what} {shown(word)}; known are {listed}.{did_you_mean(str(word)[:100], names)}")


def shown(value: Any) -> str:
    """Return a value as messages show it: on one line, long ones cut off."""
    if isinstance(value, int) and abs(value) >= 10**_SHOWN:
        return "a number of very many digits"
    try:
        text = repr(value)
    except RecursionError:
        return "something nested deeply"
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."


def all_shown(names: Sequence[str], most: int = 12) -> str:
    """Return names as messages list them: the first ones, long names cut off, and how many more there are."""
    some = [name if len(name) <= _SHOWN else f"{name[:_SHOWN]}..." for name in names[:most]]
    more = [f"{len(names) - most} more"] if len(names) > most else []
    return ", ".join([*some, *more])


def printable(name: object) -> str:
    """Return a name as valid UTF-8 text; file names that are not UTF-8 reach Python as lone surrogates."""
    return str(name).encode("utf-8", "backslashreplace").decode("utf-8")


def for_terminal(text: object, on_one_line: bool = False) -> str:
    """Return text that a terminal shows and does not obey; names of files may hold its commands.

    Control characters and marks that turn the direction of writing are written by their number, such as ``\\x1b``.

    Args:
        text: what is to be shown.
        on_one_line: write line breaks and tabs so too, as for a name in a table.
    """
    obeyed = _CONTROLS if on_one_line else _CONTROLS_BUT_BREAKS
    return obeyed.sub(lambda found: ascii(found[0])[1:-1], printable(text))


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message, cut off if long, or the error's class name if it has none."""
    lines = str(error).strip().splitlines()
    if not lines:
        return type(error).__name__
    return lines[0] if len(lines[0]) <= _HEAD else f"{lines[0][:_HEAD]}..."
