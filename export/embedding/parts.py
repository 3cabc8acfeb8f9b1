"""Embedding images into a folder of Parquet files, each written once, whole, by whichever process it falls to."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from export.index.gallery import Encoder
from zoo.data.image_set import ImageSet
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
    write_part,
)
from zoo.progress import progress, without_bars

log = logging.getLogger(__name__)

UNREADABLE = "_unreadable.tsv"
_CHUNK = 256  # images that are decoded while those before are embedded
_CACHE_BYTES = 512 << 20  # of decoded pixels in a chunk


def embed_parts(
    encoder: Encoder,
    images: ImageSet,
    folder: Path,
    facts: EmbeddingFacts,
    shard: tuple[int, int] = (1, 1),
    max_unreadable: int = 10,
) -> None:
    """Write those parts of a shard that are not there yet.

    Args:
        encoder: embeds the images.
        images: all of them, in an order that is the same in each run.
        folder: of the parts.
        facts: of all parts.
        shard: (i, n): this process's is every n-th part, from the i-th on; 1 <= i <= n.
        max_unreadable: images that cannot be read, in all parts of this process; one more raises an error.

    Raises:
        OptionError: the folder has embeddings of another model or of other images.
        DataError: too many images cannot be read.
    """
    if is_embedding_folder(folder):
        _require_same(folder, read_facts(folder), facts)
    else:
        write_facts(folder, facts)
    mine = range(shard[0] - 1, facts.parts, shard[1])
    waiting = [part for part in mine if not _is_whole(folder, part, facts)]
    if len(waiting) < len(mine):
        log.info("%s: %d of %d parts exist already", folder, len(mine) - len(waiting), len(mine))
    unreadable = 0
    began, done = time.monotonic(), 0
    rows = [_rows(part, facts) for part in waiting]
    total = sum(map(len, rows))
    bar = progress(None, "embedding", total)
    for number, (part, those) in enumerate(zip(waiting, rows, strict=True), 1):
        found, vectors, broken = _embed(encoder, images, those, bar.update)
        unreadable += len(broken)
        if unreadable > max_unreadable:
            raise DataError(
                f"{unreadable} images cannot be read; the limit is {max_unreadable} (max_unreadable). The last: "
                f"{broken[-1][1]}"
            )
        labels = None if images.labels is None else [str(images.class_names[images.labels[row]]) for row in found]
        write_part(folder, part, facts, [images.ids[row] for row in found], vectors, labels, broken)
        done += len(those)
        rate = done / (time.monotonic() - began)
        left = (total - done) / rate
        log.info("part %d of %d: %.0f images/s, %s left", number, len(waiting), rate, _in_words(left))
    bar.close()
    _list_unreadable(folder, facts)


def _require_same(folder: Path, there: EmbeddingFacts, asked: EmbeddingFacts) -> None:
    for name, value in vars(asked).items():
        found = getattr(there, name)
        if found != value and name != "model":  # the same model may lie elsewhere
            raise OptionError(
                f"{folder} has embeddings with {name} {found}, and {value} is asked for. Name another folder."
            )


def _is_whole(folder: Path, part: int, facts: EmbeddingFacts) -> bool:
    """Return whether a part is there; one that is broken, damaged or another's is made again."""
    if not part_file(folder, part).is_file():
        return False
    try:
        read_part(folder, part, facts)
    except DataError as error:
        log.warning("%s Embedding it again.", error)
        return False
    return True


def _rows(part: int, facts: EmbeddingFacts) -> range:
    return range(part * facts.rows_per_part, min((part + 1) * facts.rows_per_part, facts.images))


def _embed(
    encoder: Encoder, images: ImageSet, rows: range, count: Callable[[int], object]
) -> tuple[list[int], np.ndarray, list[tuple[str, str]]]:
    """Return the rows that can be read, their embeddings ``(N, D)``, and id and reason of the others."""
    found: list[int] = []
    vectors = [np.empty((0, encoder.dim), np.float32)]
    broken: list[tuple[str, str]] = []
    for chunk, readable, reasons in _decoded(images, rows):
        broken += [(images.ids[row], reason) for row, reason in reasons.items()]
        kept = [row for row in chunk if row not in reasons]
        if kept:
            with without_bars():
                vectors.append(np.asarray(encoder.embed(readable), np.float32))
        found += kept
        count(len(chunk))
    return found, np.concatenate(vectors), broken


def _decoded(images: ImageSet, rows: range) -> Iterator[tuple[list[int], ImageSet, dict[int, str]]]:
    """Yield chunks of rows, their readable images decoded, and which are not readable and why; one chunk ahead."""
    chunks = [list(rows[start : start + _CHUNK]) for start in range(0, len(rows), _CHUNK)]
    with ThreadPoolExecutor(1) as ahead:
        following = ahead.submit(images.decoded, chunks[0], _CACHE_BYTES)
        for number, chunk in enumerate(chunks):
            readable, reasons = following.result()
            if number + 1 < len(chunks):
                following = ahead.submit(images.decoded, chunks[number + 1], _CACHE_BYTES)
            yield chunk, readable, reasons


def _list_unreadable(folder: Path, facts: EmbeddingFacts) -> None:
    """List the unreadable images of the parts that there are."""
    parts = [part for part in range(facts.parts) if part_file(folder, part).is_file()]
    broken = [each for part in parts for each in read_unreadable(folder, part, facts)]
    write_lines(folder / UNREADABLE, [f"{name}\t{' '.join(reason.split())}" for name, reason in broken])
    if broken:
        log.warning("%d images could not be read and have no row; see %s", len(broken), folder / UNREADABLE)


def _in_words(seconds: float) -> str:
    minutes = seconds / 60
    return f"{seconds:.0f} s" if minutes < 2 else f"{minutes:.0f} min" if minutes < 120 else f"{minutes / 60:.1f} h"
