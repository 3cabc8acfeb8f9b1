"""Break or damage a file, or make it hostile: in its bytes, its text, or its values."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

# Values of every type, length and size.
VALUES: list[Any] = [
    *(None, True, False, 0, -1, 1, 3, 7, 10**18, -(10**18), 10**400, 1e-4, 1e308, -0.5, 0.5),
    *(float("nan"), float("inf"), "", "x", "0", "1e9", "../../x", "/dev/zero", "\ud800", "\x00", "x" * 10_000),
    *([], [0], [1, 2, 3], [[]], ["a", "b"], [10**18] * 3, [1e-9] * 3, [None] * 3, list(range(10_000))),
    *({}, {"a": 1}, {"": {}}, {"kind": []}, {"x" * 1000: "y"}),
]
DEEP = "[" * 20_000 + "]" * 20_000


def bytes_changed(file: Path, random: np.random.Generator) -> None:
    """Flip bits, truncate, or insert or overwrite bytes."""
    content = bytearray(file.read_bytes())
    place = int(random.integers(len(content)))
    how = int(random.integers(8))
    if how < 4:
        for _ in range(1 if how < 3 else int(random.integers(1, 20))):
            content[int(random.integers(len(content)))] ^= 1 << int(random.integers(8))
    elif how == 4:
        del content[place:]
    elif how == 5:
        content[place:place] = random.bytes(int(random.integers(1, 50)))
    elif how == 6:
        length = int(random.integers(1, 200))
        content[place : place + length] = bytes([int(random.choice([0, 255]))]) * length
    else:  # sizes that a format stores in 4 or 8 bytes
        size = random.choice(np.array([2**31 - 1, 2**62, 2**63 - 1, 10**9], np.int64))
        content[place : place + 8] = int(size).to_bytes(8, "little")
    file.write_bytes(content)


def document_changed(file: Path, random: np.random.Generator) -> None:
    """Replace or remove values in a JSON document; sometimes make it something else altogether."""
    document = json.loads(file.read_text(encoding="utf-8"))
    how = int(random.integers(20))
    if how == 0:
        file.write_text(DEEP)
    elif how == 1:
        file.write_text(json.dumps(_value(random)))
    elif how == 2:
        bytes_changed(file, random)
    else:
        for _ in range(1 if how < 15 else 3):
            _change(document, random)
        file.write_text(json.dumps(document))


def _change(document: Any, random: np.random.Generator) -> None:
    """Change one value somewhere in a document, near the top or deep inside."""
    holder = document
    while True:
        keys = list(holder) if isinstance(holder, dict) else list(range(len(holder)))
        if not keys:
            return
        key = keys[int(random.integers(len(keys)))]
        inner = holder[key]
        if isinstance(inner, dict | list) and inner and random.random() < 0.7:
            holder = inner
            continue
        how = random.random()
        if how < 0.15:
            del holder[key]
        elif how < 0.3 and isinstance(inner, int | float) and not isinstance(inner, bool):
            holder[key] = inner * int(random.choice([2, -1, 1000])) + int(random.choice([0, 1]))
        elif how < 0.35 and isinstance(holder, list):
            holder.reverse()
        else:
            holder[key] = _value(random)
        return


def metadata_changed(file: Path, random: np.random.Generator) -> None:
    """Replace an entry of an ONNX file's metadata, or a value in its JSON."""
    import onnx

    proto = onnx.load(file)
    entry = proto.metadata_props[int(random.integers(len(proto.metadata_props)))]
    value = entry.value
    if entry.value.startswith("{") and random.random() < 0.8:
        document = json.loads(entry.value)
        _change(document, random)
        value = json.dumps(document)
    elif random.random() < 0.1:
        value = DEEP
    else:
        value = str(_value(random))
    entry.value = value.encode("utf-8", errors="replace").decode()
    file.write_bytes(proto.SerializeToString())


def text_changed(file: Path, random: np.random.Generator) -> None:
    """Change words of a text file, repeat or drop lines, or change its bytes."""
    lines = file.read_text(encoding="utf-8").splitlines()
    how = int(random.integers(8))
    place = int(random.integers(len(lines)))
    if how == 0:
        bytes_changed(file, random)
        return
    if how == 1:
        del lines[place]
    elif how == 2:
        lines[place:place] = [lines[place]] * int(random.integers(1, 50))
    elif how == 3:
        lines[place] = DEEP
    else:
        head, comma, tail = lines[place].partition(random.choice([",", ":", " "]))
        value = str(_value(random)).encode("utf-8", errors="replace").decode()
        lines[place] = f"{head}{comma} {value}" if how < 6 else f"{value}{comma}{tail}"
    file.write_text("\n".join(lines), encoding="utf-8")


def _value(random: np.random.Generator) -> Any:
    return VALUES[int(random.integers(len(VALUES)))]
