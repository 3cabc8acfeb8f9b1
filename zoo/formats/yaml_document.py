"""YAML that others may have written: read with limits, since few bytes of it can name very many values."""

from __future__ import annotations

from pathlib import Path
from typing import Any

_LARGEST = 2**20  # bytes
_MOST_VALUES = 100_000  # with every alias written out
_DEEPEST = 50


def read_yaml(file: Path) -> Any:
    """Return what a YAML file holds, of plain types only.

    Raises:
        OSError: it cannot be read.
        ValueError: it is larger than a MiB, not UTF-8, not YAML, nested too deeply, or its aliases name more than
            100,000 values.
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
    except (TypeError, AttributeError, OverflowError) as error:  # keys that cannot be keys, dates that cannot be dates
        raise ValueError(f"it holds what YAML cannot ({error})") from error
    _require_few(value)
    return value


def _require_few(value: Any) -> None:
    """Count values as if each alias were written out, as whoever copies or prints them would."""
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
