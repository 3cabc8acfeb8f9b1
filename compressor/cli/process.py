"""The process of a command: signals, and standard streams that are closed or lack characters."""

from __future__ import annotations

import codecs
import contextlib
import io
import os
import signal
import sys
import threading
from _thread import interrupt_main
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import FrameType
from typing import Any

INTERRUPTED = 130
_PLAIN = {"\u2014": "-", "\u2013": "-", "\u2212": "-", "\u2026": "...", "\u00d7": "x", "\u2192": "->", "\u00b1": "+-"}
_PLAIN |= {"\u2265": ">=", "\u2264": "<=", "\u0394": "d", "\u2018": "'", "\u2019": "'", "\u201c": '"', "\u201d": '"'}
_PLAIN["\u00a0"] = " "


@dataclass
class Ended:
    """How a command ended.

    Attributes:
        code: exit code of the process.
    """

    code: int = INTERRUPTED


@contextlib.contextmanager
def prepared() -> Iterator[Ended]:
    """Run a command with SIGTERM treated as Ctrl-C, and with output that cannot fail on a character.

    An interrupt during imports may become another error in Python or a library, or get lost in one of its callbacks.
    The command ends with 130 all the same.
    """
    interrupted = threading.Event()

    def stop(number: int, frame: FrameType | None) -> None:
        interrupted.set()
        raise KeyboardInterrupt

    def unraised(what: sys.UnraisableHookArgs) -> None:
        if interrupted.is_set() and isinstance(what.exc_value, KeyboardInterrupt):
            threading.Timer(0.05, _interrupt).start()  # again, after the callback has returned
        else:
            hook(what)

    hook, sys.unraisablehook = sys.unraisablehook, unraised
    before = {number: _handled(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    _open_streams()
    ended = Ended()
    try:
        yield ended
        try:
            sys.stdout.flush()
        except OSError:  # nobody reads it, or it was reported
            silence()
    except BrokenPipeError:
        silence()
        ended.code = 1
    except BaseException as error:
        if not interrupted.is_set() and not isinstance(error, KeyboardInterrupt):
            raise
        print("Interrupted.", file=sys.stderr)
        ended.code = INTERRUPTED
    finally:
        sys.unraisablehook = hook
        for number, handler in before.items():
            if handler is not None:
                signal.signal(number, handler)


def _interrupt() -> None:
    """Interrupt the main thread, even if it sleeps; ``interrupt_main`` alone would not wake it."""
    main = threading.main_thread().ident
    for number in (signal.SIGINT, signal.SIGTERM):
        if main is not None and callable(signal.getsignal(number)) and hasattr(signal, "pthread_kill"):
            signal.pthread_kill(main, number)
            return
    interrupt_main()


def silence() -> None:
    """Discard all further output, because the reader of standard output is gone."""
    with contextlib.suppress(OSError, ValueError, io.UnsupportedOperation):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)


def _handled(number: int, handler: Callable[[int, FrameType | None], None]) -> Any:
    """Install a handler and return the previous one; None outside the main thread, and if the signal is ignored."""
    if threading.current_thread() is not threading.main_thread() or signal.getsignal(number) is signal.SIG_IGN:
        return None  # nohup, and shells for background jobs, ignore signals
    return signal.signal(number, handler)


def _open_streams() -> None:
    """Replace closed standard streams by the null device, and characters that a terminal lacks by others."""
    codecs.register_error("plain_letters", _in_plain_letters)
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            # This takes the lowest free number, so that no file opened later becomes a standard stream.
            nowhere = os.open(os.devnull, os.O_RDWR)
            setattr(sys, name, os.fdopen(nowhere, mode, encoding="utf-8"))
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="plain_letters")


def _in_plain_letters(error: UnicodeError) -> tuple[str, int]:
    """Replace characters that an encoding lacks: signs by similar ASCII ones, others by their escape sequence."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    letters = error.object[error.start : error.end]
    return "".join(_PLAIN.get(letter) or ascii(letter)[1:-1] for letter in letters), error.end
