"""What the benchmarks show while they run."""

from __future__ import annotations

import atexit
from contextlib import ExitStack

from compressor.cli.manners import Manners, heard


def quieten() -> None:
    """Show our own messages plainly until the process ends, and of the libraries warnings only."""
    messages = ExitStack()
    messages.enter_context(heard(Manners()))
    atexit.register(messages.close)
