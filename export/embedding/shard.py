"""What falls to one process of a folder of embeddings: the parts that wait, how fast they come, what cannot be read."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from pathlib import Path

from zoo.errors import DataError, OptionError
from zoo.files import write_lines
from zoo.formats.embedding_parts import (
    EmbeddingFacts,
    is_embedding_folder,
    part_file,
    read_facts,
    read_part,
    read_unreadable,
    write_facts,
)
from zoo.progress import progress

log = logging.getLogger(__name__)

UNREADABLE = "_unreadable.tsv"
Broken = Sequence[tuple[str, str]]
"""Images that cannot be read: id and reason of each."""


class Shard:
    """The parts of a folder that fall to this process.

    Args:
        folder: of the parts; made, with what says what they are, where it is not there.
        facts: of all parts.
        shard: (i, n): this process's is every n-th part, from the i-th on; 1 <= i <= n.
        max_unreadable: images of this shard that cannot be read, those of parts that are there already included; one
            more raises an error.

    Attributes:
        folder: as given.
        facts: as given.
        max_unreadable: as given.
        waiting: parts that are not there yet; one that is broken, damaged or another's is made again.

    Raises:
        OptionError: the folder has embeddings of another model or of other images.
        DataError: too many images cannot be read.
    """

    def __init__(self, folder: Path, facts: EmbeddingFacts, shard: tuple[int, int], max_unreadable: int) -> None:
        self.folder, self.facts, self.max_unreadable = folder, facts, max_unreadable
        if is_embedding_folder(folder):
            _require_same(folder, read_facts(folder), facts)
        else:
            write_facts(folder, facts)
        self.waiting: list[int] = []
        self._unreadable = 0
        mine = range(shard[0] - 1, facts.parts, shard[1])
        for part in mine:
            broken = _unreadable_if_whole(folder, part, facts)
            if broken is None:
                self.waiting.append(part)
            else:
                self.require_few(broken)
                self._unreadable += len(broken)
        if len(self.waiting) < len(mine):
            log.info("%s: %d of %d parts exist already", folder, len(mine) - len(self.waiting), len(mine))
        self._total = sum(len(rows_of(part, facts)) for part in self.waiting)
        self._began, self._done, self._parts = time.monotonic(), 0, 0
        self._bar = progress(None, "embedding", self._total)

    def require_few(self, broken: Broken) -> None:
        """Raise a DataError where these would be more unreadable images than ``max_unreadable``."""
        require_few(broken, self.max_unreadable, self._unreadable)

    def count(self, images: int) -> None:
        """Note that so many images more are done."""
        self._done += images
        self._bar.update(images)

    def written(self, broken: Broken) -> None:
        """Note that a part is written, all of whose images were counted, and say how long the others will take."""
        self._unreadable += len(broken)
        self._parts += 1
        rate = self._done / (time.monotonic() - self._began)
        left = _in_words((self._total - self._done) / rate)
        log.info("part %d of %d: %.0f images/s, %s left", self._parts, len(self.waiting), rate, left)

    def finish(self) -> None:
        """List the unreadable images of all parts that are there, also those of other shards."""
        self._bar.close()
        there = [part for part in range(self.facts.parts) if part_file(self.folder, part).is_file()]
        broken = [each for part in there for each in read_unreadable(self.folder, part, self.facts)]
        write_lines(self.folder / UNREADABLE, [f"{name}\t{' '.join(reason.split())}" for name, reason in broken])
        if broken:
            log.warning("%d images could not be read and have no row; see %s", len(broken), self.folder / UNREADABLE)


def require_few(broken: Broken, most: int, before: int = 0) -> None:
    """Raise a DataError where more images cannot be read than may be.

    Args:
        broken: those found now.
        most: how many there may be.
        before: how many were found before.
    """
    if broken and before + len(broken) > most:
        raise DataError(
            f"{before + len(broken)} images cannot be read; the limit is {most} (max_unreadable). The last: "
            f"{broken[-1][1]}"
        )


def rows_of(part: int, facts: EmbeddingFacts) -> range:
    """Return which images a part is of."""
    return range(part * facts.rows_per_part, min((part + 1) * facts.rows_per_part, facts.images))


def _require_same(folder: Path, there: EmbeddingFacts, asked: EmbeddingFacts) -> None:
    for name, value in vars(asked).items():
        found = getattr(there, name)
        if found != value and name != "model":  # the same model may lie elsewhere
            raise OptionError(
                f"{folder} has embeddings with {name} {found}, and {value} is asked for. Name another folder."
            )


def _unreadable_if_whole(folder: Path, part: int, facts: EmbeddingFacts) -> Broken | None:
    """Return what could not be read of a part that is there and whole; None where it is to be made."""
    if not part_file(folder, part).is_file():
        return None
    try:
        return read_part(folder, part, facts).unreadable
    except DataError as error:
        log.warning("%s Embedding it again.", error)
        return None


def _in_words(seconds: float) -> str:
    minutes = seconds / 60
    return f"{seconds:.0f} s" if minutes < 2 else f"{minutes:.0f} min" if minutes < 120 else f"{minutes / 60:.1f} h"
