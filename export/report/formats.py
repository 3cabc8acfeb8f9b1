"""Numbers formatted for page and terminal; unknown values are a dash."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

DASH = "–"


def readable(value: Any) -> str:
    """Return a value of the protocol in words, such as "images 40, classes 8" for a dictionary."""
    if isinstance(value, dict):
        return ", ".join(f"{key.replace('_', ' ')} {readable(entry)}" for key, entry in value.items())
    if isinstance(value, Sequence) and not isinstance(value, str):
        return ", ".join(map(readable, value)) or DASH
    if isinstance(value, float):
        return f"{value:g}"
    return DASH if value is None or value == "" else str(value)


def percent(value: float | None, digits: int = 2) -> str:
    """Return a share in percent, without the sign."""
    return DASH if value is None else f"{100 * value:.{digits}f}"


def points(difference: float) -> str:
    """Return a difference of two shares in percentage points, with its sign."""
    text = f"{100 * difference:+.2f}"
    return "0.00" if text in ("+0.00", "-0.00") else text.replace("-", "−")


def decimals(value: float | None, digits: int = 2) -> str:
    """Return a number with a number of decimals."""
    return DASH if value is None else f"{value:.{digits}f}"


def significant(value: float) -> str:
    """Return a label distance, in the labels' unit, with four significant digits."""
    return f"{value:.4g}"


def count(value: int | None) -> str:
    """Return a whole number with commas between thousands."""
    return DASH if value is None else f"{value:,}"


def megabytes(value: int | None) -> str:
    """Return bytes as megabytes (1e6 bytes), with more decimals for small files."""
    return DASH if value is None else f"{value / 1e6:.{2 if value >= 100_000 else 4}f}"
