"""What holds for every verb: whether results are printed as JSON, what is said on the way, and where it is kept."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from zoo.errors import OptionError
from zoo.paths import given_path
from zoo.progress import SWITCH, are_bars_shown, close_bars

log = logging.getLogger(__name__)
log.addHandler(logging.NullHandler())  # outside of heard, Python itself would write what is told a second time

FLAGS = {  # and their help
    "json": "Print the result as JSON.",
    "quiet": "Say nothing on the way but warnings and errors; show no progress bars.",
    "verbose": "Say more: times, what libraries do, and the traceback of an error.",
}
LOG_FILE = "log_file"
ABOUT_LOG_FILE = "Add all that is said, with times, to this file too."
OWN = ("zoo", "compressor", "export")
_CHATTY = ("lightning.pytorch", "lightning.pytorch.utilities.rank_zero", "lightning.fabric")
_TOLD = "told"  # of a record: it is on the terminal already


@dataclass(frozen=True)
class Manners:
    """How the shell behaves, whatever the verb.

    Attributes:
        json: results are printed as JSON.
        quiet: only warnings and errors are said on the way.
        verbose: libraries are heard too, and errors come with their traceback.
        log_file: where all that is said is kept too; None for nowhere.
    """

    json: bool = False
    quiet: bool = False
    verbose: bool = False
    log_file: Path | None = None


def manners_in(words: list[str]) -> tuple[Manners, list[str]]:
    """Take the options of this module out of a command's words, wherever they stand.

    Returns:
        Them, and the other words.

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
    """Have messages written to standard error, and to the log file, while the block runs.

    Our own are shown plainly, of the libraries warnings only.

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
        file.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
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
    """Write what a command ends with to standard error, on a line of its own, and to the log file."""
    close_bars()
    print(text, file=sys.stderr)
    log.error("%s", text, extra={_TOLD: True})


class _Terminal(logging.Handler):
    """Writes to standard error as it is now, above progress bars."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            text = self.format(record)
            if not are_bars_shown():
                print(text, file=sys.stderr, flush=True)
                return

            from tqdm import tqdm

            tqdm.write(text, file=sys.stderr)
        except Exception:
            self.handleError(record)
