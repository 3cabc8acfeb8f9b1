"""Columns of millions of images in a few bytes per image: compressed texts, and items computed on access."""

from __future__ import annotations

import json
import zlib
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from operator import index as whole
from typing import Any, TypeVar, overload

import numpy as np

Item = TypeVar("Item", covariant=True)

_BLOCK = 256  # texts that are compressed together; neighbouring file names share most of their letters
_AT_ONCE = 256  # values per call of json.dumps


class Computed(Sequence[Item]):
    """A sequence that computes its items on each access.

    Args:
        length: number of items.
        item: returns the item of a row, 0 <= row < length.
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
    """A list of texts, kept compressed in blocks, to which texts can be appended.

    Reading rows in order takes microseconds per row; reading them in any other order decompresses a block for each.
    Several threads may read at once.

    Args:
        texts: the first texts.
    """

    def __init__(self, texts: Iterable[str] = ()) -> None:
        super().__init__(0, self._text)
        self._blocks: list[bytes] = []
        self._last: list[str] = []  # texts that do not fill a block yet
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
    """Return int64 ``(count,)`` hashes: equal for equal keys within this process, and almost never for others."""
    return np.fromiter((hash(key) for key in keys), np.int64, count)


def repeated(numbers: np.ndarray) -> np.ndarray:
    """Return the rows, in order, whose number occurs more than once."""
    ordered = np.sort(numbers)
    twice = ordered[1:][ordered[1:] == ordered[:-1]]
    return np.flatnonzero(np.isin(numbers, twice)) if len(twice) else np.empty(0, np.int64)


def most_repeated(texts: Sequence[str]) -> str | None:
    """Return the text that occurs most often, the first if several do, or None if all are different."""
    rows = repeated(hashes(texts, len(texts)))
    if not len(rows):
        return None
    text, times = Counter(texts[row] for row in rows.tolist()).most_common(1)[0]
    return text if times > 1 else None


def json_items(values: Iterable[Any]) -> Iterator[str]:
    """Yield the JSON of a list of values in pieces, which joined equal ``json.dumps`` of the whole list."""
    yield "["
    waiting: list[Any] = []
    before = ""
    for value in values:
        waiting.append(value)
        if len(waiting) == _AT_ONCE:
            yield before + json.dumps(waiting)[1:-1]
            before, waiting = ", ", []
    yield (before + json.dumps(waiting)[1:-1] if waiting else "") + "]"
