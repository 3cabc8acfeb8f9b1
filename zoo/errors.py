"""Errors that a user can cause, and mend.

Every message names the thing that is wrong (file, row, option), the value found, and the remedy, in one or two lines.
The command line prints them without a traceback and exits with 1.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Any


class UserError(Exception):
    """Base of all errors that the user can mend."""


class DataError(UserError):
    """A folder, file, row or image of the data is missing or broken."""


class ModelError(UserError):
    """An architecture, a weight file or a model folder is missing or broken."""


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
    """Return `` Did you mean a, b or c?`` with the nearest of the known names, or an empty string.

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
        raise OptionError(f"Unknown {what} {word!r}; known are {listed}.{did_you_mean(str(word), names)}")


def printable(name: object) -> str:
    """Return a name as text that UTF-8 can hold; file names that are not UTF-8 reach Python as lone surrogates."""
    return str(name).encode("utf-8", "backslashreplace").decode("utf-8")


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message, or the name of its kind where it has none."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
