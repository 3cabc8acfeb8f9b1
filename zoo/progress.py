"""Progress bars: on standard error, and only where that is a terminal."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tqdm import tqdm

SWITCH = "TQDM_DISABLE"
"""tqdm's own environment variable; with "1" no bar is shown, in processes that this one starts neither."""


def are_bars_shown() -> bool:
    """Return whether standard error is a terminal, and bars were not switched off."""
    return sys.stderr is not None and sys.stderr.isatty() and os.environ.get(SWITCH, "0") in ("", "0")


def progress(items: Iterable[Any] | None, what: str, total: int | None = None, shown: bool = True) -> tqdm[Any]:
    """Return the items with a bar, which goes when they are done.

    Args:
        items: to go through; None where the caller counts by ``update``.
        what: is done, as the bar says it.
        total: how many there are; None for what ``len`` says.
        shown: false for no bar here.
    """
    from tqdm import tqdm

    return tqdm(items, desc=what, total=total, leave=False, disable=not (shown and are_bars_shown()))


@contextmanager
def without_bars() -> Iterator[None]:
    """Show no new bars: the caller shows one for all."""
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
    """End the bars that an error or an interruption left, so that what is said next begins a line of its own."""
    if "tqdm" in sys.modules:
        from tqdm import tqdm

        for bar in list(getattr(tqdm, "_instances", ())):
            bar.close()
