"""A stage of work in a folder of its own: knows whether it is finished, and with which options it was begun."""

from __future__ import annotations

import inspect
import json
import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from zoo.arguments import same_place
from zoo.errors import OptionError
from zoo.files import digest, require_writable, write_json

log = logging.getLogger(__name__)

# Options that say where and how fast, not what.
_NOT_COMPARED = frozenset({"out", "workers", "devices", "num_nodes", "teacher_cache"})
_PLACES = frozenset({"data", "split", "continuous_labels", "pretrained", "student"})
_OPTIONS_FILE = "options.json"
CHECKPOINTS = "checkpoints"


@dataclass(frozen=True)
class Stage:
    """One verb's work in a folder.

    Attributes:
        folder: where the result goes.
        options: what was asked for, ready for JSON.
        finished: the folder holds a finished result of the same options.
    """

    folder: Path
    options: dict[str, Any]
    finished: bool

    @classmethod
    def open(cls, folder: str | Path, verb: Callable[..., Any], arguments: dict[str, Any], **digests: str) -> Stage:
        """Begin a stage, or find it begun or finished.

        Args:
            folder: made if it is not there.
            verb: the function whose options these are.
            arguments: its arguments by name; others are passed over.
            digests: of what the arguments point to (data, teacher), by name, so that a change there is noticed; that
                of a weight file is added.

        Raises:
            OptionError: the folder holds work that was begun with other options, or is not a folder.
        """
        folder = Path(folder)
        weights = arguments.get("pretrained")
        if isinstance(weights, str | Path):
            digests["pretrained_digest"] = digest(weights)[:16] if Path(weights).is_file() else "missing"
        parameters = inspect.signature(verb).parameters
        names = [name for name in parameters if name not in _NOT_COMPARED]
        options = {name: plain(arguments[name]) for name in names} | digests
        require_writable(folder)
        recorded = folder / _OPTIONS_FILE
        finished = (folder / "config.json").is_file()
        if finished and not recorded.is_file():
            raise OptionError(f"{folder} already holds a model that was not made here. Choose another out.")
        if recorded.is_file() and (finished or (folder / CHECKPOINTS).is_dir()):
            # An option that came with a later version was at its default, so to say, in an earlier one.
            defaults = {name: plain(parameters[name].default) for name in names}
            _require_same(folder, defaults | _read(recorded), options)
        else:
            write_json(recorded, options)  # nothing is lost by other options, such as a mistake mended
        if finished:
            log.info("%s is finished already: reused", folder)
        return cls(folder, options, finished)


def plain(value: Any) -> Any:
    """Return an option as JSON and YAML can hold it: paths as text, objects by their name."""
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


def _read(recorded: Path) -> dict[str, Any]:
    try:
        options: dict[str, Any] = json.loads(recorded.read_text(encoding="utf-8"))
    except ValueError as error:
        raise OptionError(f"{recorded} is not valid JSON ({error}). Remove its folder to start anew.") from error
    return options


def _require_same(folder: Path, old: dict[str, Any], new: dict[str, Any]) -> None:
    def differs(name: str) -> bool:
        before, now = old.get(name), new.get(name)
        if name in _PLACES:  # a digest knows what is in them
            return not same_place(before, now)
        return bool(before != now)

    changed = [name for name in sorted(old.keys() | new.keys()) if differs(name)]
    if changed:
        listed = ", ".join(f"{name} {old.get(name)!r} (now {new.get(name)!r})" for name in changed[:3])
        raise OptionError(f"{folder} was begun with {listed}. Choose another out, or remove the folder to start anew.")
