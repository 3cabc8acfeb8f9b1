"""Options of every verb: whether results are printed as JSON, how much is logged, and where."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from zoo.errors import OptionError, for_terminal
from zoo.paths import given_path
from zoo.progress import SWITCH, are_bars_shown, close_bars

log = logging.getLogger(__name__)
log.addHandler(logging.NullHandler())  # outside of heard, Python itself would print messages of tell again

FLAGS = {  # and their help
    "json": "Print the result as JSON.",
    "quiet": "Say nothing on the way but warnings and errors; show no progress bars.",
    "verbose": "Say more: times, what libraries do, and the traceback of an error.",
}
LOG_FILE = "log_file"
ABOUT_LOG_FILE = "Add all that is said, with times, to this file too."
OWN = ("zoo", "compressor", "export")
_CHATTY = ("lightning.pytorch", "lightning.pytorch.utilities.rank_zero", "lightning.fabric")
_TOLD = "told"  # attribute of a log record that is on the terminal already


@dataclass(frozen=True)
class Manners:
    """Options that every verb has.

    Attributes:
        json: print results as JSON.
        quiet: log only warnings and errors.
        verbose: log messages of libraries too, and print the traceback of an error.
        log_file: file that messages are added to; None for none.
    """

    json: bool = False
    quiet: bool = False
    verbose: bool = False
    log_file: Path | None = None


def manners_in(words: list[str]) -> tuple[Manners, list[str]]:
    """Separate the options of this module, at any position, from the other words of a command.

    Returns:
        The options, and the other words.

    Raises:
        OptionError: the log file has no name, or quiet and verbose are both given.
    """
    flags: set[str] = set()
    log_file: Path | None = None
    others: list[str] = []
    waiting = list(words)
    while waiting:
        word = waiting.pop(0)
        name, equals, value = word.removeprefix("--").replace("-", "_").partition("=")
        if not word.startswith("--") or name not in (*FLAGS, LOG_FILE) or (equals and name in FLAGS):
            others.append(word)
        elif name in FLAGS:
            flags.add(name)
        else:
            value = word.partition("=")[2] if equals else (waiting.pop(0) if waiting else "")
            if not value or value.startswith("--"):
                raise OptionError("log_file has no name. Write --log_file FILE.")
            log_file = given_path(value)
    if {"quiet", "verbose"} <= flags:
        raise OptionError("quiet and verbose are opposites. Leave one of them out.")
    return Manners(**dict.fromkeys(flags, True), log_file=log_file), others


@contextmanager
def heard(manners: Manners) -> Iterator[None]:
    """Write messages to standard error and the log file while the block runs.

    Without ``verbose``, messages of libraries are limited to warnings.

    Raises:
        OSError: the log file cannot be opened.
    """
    terminal = _Terminal()
    terminal.setLevel(logging.WARNING if manners.quiet else logging.NOTSET)
    terminal.addFilter(lambda record: not hasattr(record, _TOLD))
    terminal.setFormatter(logging.Formatter("%(asctime)s %(message)s" if manners.verbose else "%(message)s"))
    handlers: list[logging.Handler] = [terminal]
    if manners.log_file is not None:
        manners.log_file.parent.mkdir(parents=True, exist_ok=True)
        file = logging.FileHandler(manners.log_file, encoding="utf-8", errors="backslashreplace")
        file.setFormatter(_Plain("%(asctime)s %(levelname)s %(name)s: %(message)s"))
        handlers.append(file)
    root, libraries = logging.getLogger(), logging.INFO if manners.verbose else logging.WARNING
    levels = {root: libraries}
    levels |= {logging.getLogger(name): logging.DEBUG if manners.verbose else logging.INFO for name in OWN}
    levels |= {logging.getLogger(name): libraries for name in _CHATTY}
    with ExitStack() as afterwards:
        for logger, level in levels.items():
            afterwards.callback(logger.setLevel, logger.level)
            logger.setLevel(level)
        for handler in handlers:
            root.addHandler(handler)
            afterwards.callback(handler.close)
            afterwards.callback(root.removeHandler, handler)
        if manners.quiet and SWITCH not in os.environ:
            os.environ[SWITCH] = "1"
            afterwards.callback(os.environ.pop, SWITCH, None)
        yield


def tell(text: str) -> None:
    """Write the final message of a command to standard error, on its own line, and to the log file."""
    close_bars()
    print(for_terminal(text), file=sys.stderr)
    log.error("%s", text, extra={_TOLD: True})


class _Plain(logging.Formatter):
    """For a file that will be looked at on a terminal."""

    def format(self, record: logging.LogRecord) -> str:
        return for_terminal(super().format(record))


class _Terminal(logging.Handler):
    """Writes to the current ``sys.stderr``, above progress bars."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            text = for_terminal(self.format(record))
            if not are_bars_shown():
                print(text, file=sys.stderr, flush=True)
                return

            from tqdm import tqdm

            tqdm.write(text, file=sys.stderr)
        except Exception:
            self.handleError(record)
