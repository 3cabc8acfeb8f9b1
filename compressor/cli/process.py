"""The process that a command runs in: signals, and streams that are closed or write other letters than ours."""

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
        code: what the process exits with.
    """

    code: int = INTERRUPTED


@contextlib.contextmanager
def prepared() -> Iterator[Ended]:
    """Run a command with SIGTERM as Ctrl-C, from the first moment on, and with output that cannot fail on a letter.

    Interrupted while modules are imported, where Python or a library may make another error of it, or none in callbacks
    of its own, the command ends with 130 all the same.
    """
    interrupted = threading.Event()

    def stop(number: int, frame: FrameType | None) -> None:
        interrupted.set()
        raise KeyboardInterrupt

    def unraised(what: sys.UnraisableHookArgs) -> None:
        if interrupted.is_set() and isinstance(what.exc_value, KeyboardInterrupt):
            threading.Timer(0.05, _interrupt).start()  # once more, when the callback has returned
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
    """Interrupt the main thread, also where it sleeps, which a mark that Python looks at later would not."""
    main = threading.main_thread().ident
    for number in (signal.SIGINT, signal.SIGTERM):
        if main is not None and callable(signal.getsignal(number)) and hasattr(signal, "pthread_kill"):
            signal.pthread_kill(main, number)
            return
    interrupt_main()


def silence() -> None:
    """Let what is still to be printed go nowhere: the reader of standard output has gone."""
    with contextlib.suppress(OSError, ValueError, io.UnsupportedOperation):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)


def _handled(number: int, handler: Callable[[int, FrameType | None], None]) -> Any:
    """Install a handler, and return the one before; None outside the main thread, and where a signal is ignored."""
    if threading.current_thread() is not threading.main_thread() or signal.getsignal(number) is signal.SIG_IGN:
        return None  # ignored: as nohup and shells do for what runs in the background
    return signal.signal(number, handler)


def _open_streams() -> None:
    """Give closed standard streams a place to go, and have letters that a terminal lacks written in others."""
    codecs.register_error("plain_letters", _in_plain_letters)
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            # The lowest free number, so that no file that is opened later is taken for a standard stream.
            nowhere = os.open(os.devnull, os.O_RDWR)
            setattr(sys, name, os.fdopen(nowhere, mode, encoding="utf-8"))
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="plain_letters")


def _in_plain_letters(error: UnicodeError) -> tuple[str, int]:
    """Write what an encoding has no letter for in ASCII: signs by similar ones, other letters by their number."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    letters = error.object[error.start : error.end]
    return "".join(_PLAIN.get(letter) or ascii(letter)[1:-1] for letter in letters), error.end
