"""Columns of millions of images in a few bytes each: texts in compressed blocks, and items made when asked for."""

from __future__ import annotations

import json
import zlib
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from operator import index as whole
from typing import Any, TypeVar, overload

import numpy as np

Item = TypeVar("Item", covariant=True)

_BLOCK = 256  # texts; one is read with its block, and names of files side by side have most letters in common
_AT_ONCE = 256


class Computed(Sequence[Item]):
    """A sequence whose items are made each time they are asked for.

    Args:
        length: how many there are.
        item: returns the one of a row, 0 <= row < length.
    """

    def __init__(self, length: int, item: Callable[[int], Item]) -> None:
        self._length, self._item = length, item

    def __len__(self) -> int:
        return self._length

    @overload
    def __getitem__(self, at: int) -> Item: ...
    @overload
    def __getitem__(self, at: slice) -> list[Item]: ...
    def __getitem__(self, at: int | slice) -> Item | list[Item]:
        if isinstance(at, slice):
            return [self._item(row) for row in range(*at.indices(self._length))]
        row = whole(at)
        row += self._length if row < 0 else 0
        if not 0 <= row < self._length:
            raise IndexError(f"{at} is not one of {self._length} rows")
        return self._item(row)


class Texts(Computed[str]):
    """Texts that are kept compressed, and can be added to at the end.

    Rows in order take microseconds each, and any others as many as their blocks. Several threads may read.

    Args:
        texts: the first of them.
    """

    def __init__(self, texts: Iterable[str] = ()) -> None:
        super().__init__(0, self._text)
        self._blocks: list[bytes] = []
        self._last: list[str] = []  # not a whole block yet
        self._read: tuple[int, list[str]] = (-1, [])
        self.extend(texts)

    def append(self, text: str) -> None:
        """Add a text."""
        self._last.append(text)
        self._length += 1
        if len(self._last) == _BLOCK:
            self._blocks.append(zlib.compress(json.dumps(self._last).encode(), 1))
            self._last = []

    def extend(self, texts: Iterable[str]) -> None:
        """Add texts."""
        for text in texts:
            self.append(text)

    def __iter__(self) -> Iterator[str]:
        for number in range(len(self._blocks)):
            yield from self._opened(number)
        yield from self._last

    def _text(self, row: int) -> str:
        number, place = divmod(row, _BLOCK)
        if number == len(self._blocks):
            return self._last[place]
        read = self._read
        if read[0] != number:
            read = self._read = number, self._opened(number)
        return read[1][place]

    def _opened(self, number: int) -> list[str]:
        texts: list[str] = json.loads(zlib.decompress(self._blocks[number]))
        return texts


def hashes(keys: Iterable[Hashable], count: int) -> np.ndarray:
    """Return int64 ``(count,)``: equal keys have the same number in this process, and others almost never."""
    return np.fromiter((hash(key) for key in keys), np.int64, count)


def repeated(numbers: np.ndarray) -> np.ndarray:
    """Return the rows, in order, whose number other rows have too."""
    ordered = np.sort(numbers)
    twice = ordered[1:][ordered[1:] == ordered[:-1]]
    return np.flatnonzero(np.isin(numbers, twice)) if len(twice) else np.empty(0, np.int64)


def most_repeated(texts: Sequence[str]) -> str | None:
    """Return the text that occurs most often, the first of several; None where all are different."""
    rows = repeated(hashes(texts, len(texts)))
    if not len(rows):
        return None
    text, times = Counter(texts[row] for row in rows.tolist()).most_common(1)[0]
    return text if times > 1 else None


def json_items(values: Iterable[Any]) -> Iterator[str]:
    """Yield the JSON of a list of values piece by piece: joined, they are what ``json.dumps`` makes of the whole."""
    yield "["
    waiting: list[Any] = []
    before = ""
    for value in values:
        waiting.append(value)
        if len(waiting) == _AT_ONCE:
            yield before + json.dumps(waiting)[1:-1]
            before, waiting = ", ", []
    yield (before + json.dumps(waiting)[1:-1] if waiting else "") + "]"
