"""A stage of work with its own folder, which records whether it is finished and the options it was started with."""

from __future__ import annotations

import inspect
import logging
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import numpy as np

from zoo.arguments import same_place
from zoo.errors import OptionError, shown
from zoo.files import (
    LOCK,
    alone_in,
    digest,
    full_disk_named,
    remove_left_over,
    require_in_place,
    require_writable,
    write_json,
)
from zoo.formats.documents import read_document
from zoo.formats.model_config import FACTS_KEY
from zoo.models.facts import names_only
from zoo.paths import given_path

log = logging.getLogger(__name__)

# Options that affect where results go and how fast, not the results.
_NOT_COMPARED = frozenset({"out", "workers", "devices", "num_nodes", "teacher_cache"})
_PLACES = frozenset({"data", "split", "continuous_labels", "pretrained", "student"})
_OPTIONS_FILE = "options.json"
_RANKS = ("RANK", "LOCAL_RANK", "NODE_RANK", "SLURM_PROCID")
CHECKPOINTS = "checkpoints"

P = ParamSpec("P")
R = TypeVar("R")
_locks: ContextVar[ExitStack | None] = ContextVar("_locks", default=None)


@dataclass(frozen=True)
class Stage:
    """One verb's work in a folder.

    Attributes:
        folder: where the result goes.
        options: the verb's options, ready for JSON.
        finished: whether the folder holds a finished result of the same options.
    """

    folder: Path
    options: dict[str, Any]
    finished: bool

    @classmethod
    def open(cls, folder: str | Path, verb: Callable[..., Any], arguments: dict[str, Any], **digests: str) -> Stage:
        """Start a stage, resume it, or find it finished.

        An unfinished folder is locked before its options are compared or written. It stays locked until the verb ends,
        if :func:`locking` decorates it. A finished folder is only read, and may be read-only.

        Args:
            folder: created if missing.
            verb: the function whose options these are.
            arguments: its arguments by name; others are ignored.
            digests: digests of what the arguments point to (data, teacher), by name, so that a change is noticed; the
                digest of a weight file is added here.

        Raises:
            OptionError: the folder holds work that was started with other options, is not a folder, or is in use by
                another process.
        """
        folder = given_path(folder)
        weights = arguments.get("pretrained")
        if isinstance(weights, str | Path):
            digests["pretrained_digest"] = digest(file)[:16] if (file := given_path(weights)).is_file() else "missing"
        parameters = inspect.signature(verb).parameters
        names = [name for name in parameters if name not in _NOT_COMPARED]
        options = {name: plain(arguments[name]) for name in names} | digests
        # Earlier versions behaved as if options added since then were at their defaults.
        defaults = {name: plain(parameters[name].default) for name in names}
        if _is_finished(folder, verb, options, defaults):
            _remove_left_over_in(folder)
            return cls(folder, options, True)
        require_writable(folder)
        if not is_first_process():  # the first process locks and records for all of them
            return cls(folder, options, False)
        with _until_the_verb_ends() as locks:
            locks.enter_context(alone_in(folder))
            locks.enter_context(_checked_at_the_end(folder))
            remove_left_over(folder / CHECKPOINTS)
            _remove_unsaved(folder)
            if _is_finished(folder, verb, options, defaults):  # by another process, just now
                return cls(folder, options, True)
            recorded = folder / _OPTIONS_FILE
            if recorded.is_file() and (folder / CHECKPOINTS).is_dir():
                _require_same(folder, defaults | _read(recorded), options)
            else:
                write_json(recorded, options)  # no work would be lost, so options may still change
        return cls(folder, options, False)


def locking(verb: Callable[P, R]) -> Callable[P, R]:
    """Keep the folder of the stage that a verb opens locked until the verb returns or raises."""

    @wraps(verb)
    def locked(*args: P.args, **kwargs: P.kwargs) -> R:
        with ExitStack() as locks:
            token = _locks.set(locks)
            try:
                return verb(*args, **kwargs)
            finally:
                _locks.reset(token)

    return locked


def is_first_process() -> bool:
    """Return whether this process is the first or only one of the processes that train together."""
    return all(os.environ.get(name, "0") == "0" for name in _RANKS)


def plain(value: Any) -> Any:
    """Return an option in a form that JSON and YAML can hold: paths as text, objects by name."""
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, np.generic):
        return value.item()
    return getattr(value, "name", None) or type(value).__name__


@contextmanager
def _until_the_verb_ends() -> Iterator[ExitStack]:
    locks = _locks.get()
    if locks is not None:
        yield locks
    else:
        with ExitStack() as locks:
            yield locks


@contextmanager
def _checked_at_the_end(folder: Path) -> Iterator[None]:
    """Name the real cause of an error in a folder: a full disk, or a folder that is gone."""
    try:
        with full_disk_named(folder):
            yield
    except Exception:
        require_in_place(folder)
        raise
    require_in_place(folder)


def _remove_left_over_in(folder: Path) -> None:
    """Remove what a process left in a finished folder if it was killed after writing its last file."""
    if not is_first_process() or not any((folder / name).exists() for name in (LOCK, CHECKPOINTS)):
        return
    from zoo.training.checkpoints import remove_checkpoints  # imports torch, which most reuses of finished work avoid

    with suppress(OptionError, OSError), alone_in(folder):  # another process is ending, or the folder is read-only
        for place in (folder, folder / CHECKPOINTS):
            remove_left_over(place)
        remove_checkpoints(folder / CHECKPOINTS)
        _remove_unsaved(folder)


def _remove_unsaved(folder: Path) -> None:
    """Remove what a process left if it was killed while saving the model."""
    for unsaved in folder.glob(".saving.*"):
        shutil.rmtree(unsaved, ignore_errors=True)


def _is_finished(folder: Path, verb: Callable[..., Any], options: dict[str, Any], defaults: dict[str, Any]) -> bool:
    """Return whether a folder holds a verb's finished result for these options.

    Raises:
        OptionError: it holds another result.
    """
    if not (folder / "config.json").is_file():
        return False
    made_with = _made_with(folder, verb)
    if not made_with:
        raise OptionError(f"{folder} already contains another model. Choose another out.")
    _require_same(folder, defaults | names_only(made_with), names_only(options))  # config.json holds names only
    log.info("%s is already finished: reused", folder)
    return True


def _made_with(folder: Path, verb: Callable[..., Any]) -> dict[str, Any]:
    """Return the options that a finished folder's weights were made with; empty if unknown."""
    facts = _read(folder / "config.json").get(FACTS_KEY)
    options = facts.get("options") if isinstance(facts, dict) else None
    if isinstance(options, dict) and options:
        own = options.get(verb.__name__, options)  # the int8 finish keeps its own among those of the student
        return own if isinstance(own, dict) else {}
    recorded = folder / _OPTIONS_FILE
    return _read(recorded) if recorded.is_file() else {}


def _read(recorded: Path) -> dict[str, Any]:
    try:
        options = read_document(recorded)
    except (ValueError, RecursionError) as error:
        raise OptionError(f"{recorded} is not valid JSON ({error}). Remove its folder to start again.") from error
    if not isinstance(options, dict):
        raise OptionError(f"{recorded} holds no options by name. Remove its folder to start again.")
    return options


def _require_same(folder: Path, old: dict[str, Any], new: dict[str, Any]) -> None:
    def differs(name: str) -> bool:
        before, now = old.get(name), new.get(name)
        if name in _PLACES:  # a digest covers their contents
            return not same_place(before, now)
        return bool(before != now)

    changed = [name for name in sorted(old.keys() | new.keys()) if differs(name)]
    if changed:
        listed = ", ".join(f"{name[:60]} {shown(old.get(name))} (now {shown(new.get(name))})" for name in changed[:3])
        raise OptionError(
            f"{folder} was started with {listed}. Choose another out, or remove the folder to start again."
        )
