"""Progress bars on standard error, shown only in a terminal."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tqdm import tqdm

SWITCH = "TQDM_DISABLE"
"""tqdm's own environment variable; "1" hides all bars, also in child processes."""


def are_bars_shown() -> bool:
    """Return whether standard error is a terminal and bars are not switched off."""
    return sys.stderr is not None and sys.stderr.isatty() and os.environ.get(SWITCH, "0") in ("", "0")


def progress(items: Iterable[Any] | None, what: str, total: int | None = None, shown: bool = True) -> tqdm[Any]:
    """Return the items wrapped in a progress bar that disappears when they are done.

    Args:
        items: the items to iterate over; None if the caller counts with ``update``.
        what: the bar's label.
        total: how many items there are; None for their ``len``.
        shown: False for no bar.
    """
    from tqdm import tqdm

    return tqdm(items, desc=what, total=total, leave=False, disable=not (shown and are_bars_shown()))


@contextmanager
def without_bars() -> Iterator[None]:
    """Show no new bars in the block; the caller shows one for all of it."""
    before = os.environ.get(SWITCH)
    os.environ[SWITCH] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ[SWITCH]
        else:
            os.environ[SWITCH] = before


def close_bars() -> None:
    """Close the bars that an error or an interruption left open, so that the next message starts on a new line."""
    if "tqdm" in sys.modules:
        from tqdm import tqdm

        for bar in list(getattr(tqdm, "_instances", ())):
            bar.close()
