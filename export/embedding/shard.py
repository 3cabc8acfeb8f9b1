"""One process's share of a folder of embeddings: parts to write, progress, and unreadable images."""

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
"""Unreadable images: id and reason of each."""


class Shard:
    """The parts of a folder that this process writes.

    Args:
        folder: folder of the parts; created with its facts if it does not exist.
        facts: what all parts have in common.
        shard: (i, n): this process writes every n-th part, starting with the i-th; 1 <= i <= n.
        max_unreadable: unreadable images allowed in this shard, including those of parts that exist already; one more
            raises an error.

    Attributes:
        folder: as given.
        facts: as given.
        max_unreadable: as given.
        waiting: parts still to write, including those that exist but are broken, damaged or of other embeddings.

    Raises:
        OptionError: the folder has embeddings by another model or of other images.
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
        """Raise a DataError if these make more unreadable images than ``max_unreadable``."""
        require_few(broken, self.max_unreadable, self._unreadable)

    def count(self, images: int) -> None:
        """Add a number of images to those done."""
        self._done += images
        self._bar.update(images)

    def written(self, broken: Broken) -> None:
        """Record that a part, its images counted already, is written, and log the rate and the time left."""
        self._unreadable += len(broken)
        self._parts += 1
        rate = self._done / (time.monotonic() - self._began)
        left = _in_words((self._total - self._done) / rate)
        log.info("part %d of %d: %.0f images/s, %s left", self._parts, len(self.waiting), rate, left)

    def finish(self) -> None:
        """Write the list of unreadable images of all existing parts, other shards' included.

        The shard's own parts are whole by now: a damaged part is another shard's, which is told and stops nothing here.
        """
        self._bar.close()
        broken: list[tuple[str, str]] = []
        for part in range(self.facts.parts):
            if not part_file(self.folder, part).is_file():
                continue
            try:
                broken += read_unreadable(self.folder, part, self.facts)
            except DataError as error:
                log.warning("The parts of this shard are written, but another shard's is damaged: %s", error)
        write_lines(self.folder / UNREADABLE, [f"{name}\t{' '.join(reason.split())}" for name, reason in broken])
        if broken:
            log.warning("%d images could not be read and have no row; see %s", len(broken), self.folder / UNREADABLE)


def require_few(broken: Broken, most: int, before: int = 0) -> None:
    """Raise a DataError if too many images are unreadable.

    Args:
        broken: unreadable images found now.
        most: number allowed.
        before: number found before.
    """
    if broken and before + len(broken) > most:
        raise DataError(
            f"{before + len(broken)} images cannot be read; the limit is {most} (max_unreadable). The last: "
            f"{broken[-1][1]}"
        )


def rows_of(part: int, facts: EmbeddingFacts) -> range:
    """Return the rows of the images in a part."""
    return range(part * facts.rows_per_part, min((part + 1) * facts.rows_per_part, facts.images))


def _require_same(folder: Path, there: EmbeddingFacts, asked: EmbeddingFacts) -> None:
    for name, value in vars(asked).items():
        found = getattr(there, name)
        if found != value and name != "model":  # the same model may have another path
            raise OptionError(
                f"{folder} has embeddings with {name} {found}, and {value} is asked for. Name another folder."
            )


def _unreadable_if_whole(folder: Path, part: int, facts: EmbeddingFacts) -> Broken | None:
    """Return the unreadable images of a part that exists and is whole, or None if it must be written."""
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
