"""Untrusted YAML, read with limits, because a few bytes of aliases can stand for very many values."""

from __future__ import annotations

from pathlib import Path
from typing import Any

_LARGEST = 2**20  # bytes
_MOST_VALUES = 100_000  # with all aliases expanded
_DEEPEST = 50


def read_yaml(file: Path) -> Any:
    """Read a YAML file of plain types.

    Raises:
        OSError: the file cannot be read.
        ValueError: the file is larger than 1 MiB, not UTF-8, not YAML, nested too deeply, or its aliases expand to more
            than 100,000 values.
    """
    import yaml

    with open(file, "rb") as opened:
        content = opened.read(_LARGEST + 1)
    if len(content) > _LARGEST:
        raise ValueError(f"it has more than {_LARGEST // 2**20} MiB")
    try:
        value = yaml.safe_load(content.decode("utf-8"))
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
    except yaml.YAMLError as error:
        raise ValueError(" ".join(str(error).split()).replace('"<unicode string>", ', "")) from error
    except (TypeError, AttributeError, OverflowError) as error:  # unhashable keys, impossible dates
        raise ValueError(f"it holds what YAML cannot ({error})") from error
    _require_few(value)
    return value


def _require_few(value: Any) -> None:
    """Refuse too many values, counted with all aliases expanded, as copying or printing would."""
    count, waiting = 0, [(value, 0)]
    while waiting:
        item, depth = waiting.pop()
        count += 1
        if depth > _DEEPEST:
            raise ValueError("it is nested too deeply")
        if count + len(waiting) > _MOST_VALUES:
            raise ValueError(f"it names more than {_MOST_VALUES} values, most of them by aliases")
        if isinstance(item, dict):
            waiting.extend((inner, depth + 1) for pair in item.items() for inner in pair)
        elif isinstance(item, list | tuple | set):
            waiting.extend((inner, depth + 1) for inner in item)
