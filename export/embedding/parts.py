"""Embed images into a folder of Parquet files, each written once and whole by the process it is assigned to."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from export.embedding.shard import Broken, Shard, rows_of
from export.index.gallery import Encoder
from zoo.data.image_set import ImageSet
from zoo.formats.embedding_parts import write_part
from zoo.progress import without_bars

_CHUNK = 256  # images decoded while the chunk before is embedded
_CACHE_BYTES = 512 << 20  # decoded pixels kept per chunk


def embed_parts(encoder: Encoder, images: ImageSet, shard: Shard) -> None:
    """Write the missing parts of a shard.

    Args:
        encoder: embeds the images.
        images: all images, in the same order in each run.
        shard: the parts that this process writes.

    Raises:
        DataError: too many images cannot be read.
    """
    for part in shard.waiting:
        found, vectors, broken = embed_rows(encoder, images.subset(rows_of(part, shard.facts)), shard.count)
        shard.require_few(broken)
        write_part(shard.folder, part, shard.facts, found.ids, vectors, class_of_each(found), broken)
        shard.written(broken)
    shard.finish()


def embed_rows(
    encoder: Encoder, images: ImageSet, count: Callable[[int], object] = int
) -> tuple[ImageSet, np.ndarray, Broken]:
    """Embed the images that can be read.

    Args:
        encoder: embeds them.
        images: the images of one part.
        count: called with the number of images done since its last call.

    Returns:
        The readable images, their embeddings, float32 ``(N, D)``, and id and reason of each unreadable one.
    """
    readable: list[int] = []
    vectors = [np.empty((0, encoder.dim), np.float32)]
    broken: list[tuple[str, str]] = []
    for chunk, decoded, reasons in _decoded(images):
        broken += [(images.ids[row], reason) for row, reason in reasons.items()]
        kept = [row for row in chunk if row not in reasons]
        if kept:
            with without_bars():
                vectors.append(np.asarray(encoder.embed(decoded), np.float32))
        readable += kept
        count(len(chunk))
    return images.subset(readable), np.concatenate(vectors), broken


def class_of_each(images: ImageSet) -> list[str] | None:
    """Return the class name of each image, or None if classes are unknown."""
    return None if images.labels is None else [str(images.class_names[label]) for label in images.labels]


def _decoded(images: ImageSet) -> Iterator[tuple[list[int], ImageSet, dict[int, str]]]:
    """Yield chunks of rows, their readable images decoded, and why others are unreadable. Decodes one chunk ahead."""
    chunks = [list(range(start, min(start + _CHUNK, len(images)))) for start in range(0, len(images), _CHUNK)]
    with ThreadPoolExecutor(1) as ahead:
        following = ahead.submit(images.decoded, chunks[0], _CACHE_BYTES)
        for number, chunk in enumerate(chunks):
            decoded, reasons = following.result()
            if number + 1 < len(chunks):
                following = ahead.submit(images.decoded, chunks[number + 1], _CACHE_BYTES)
            yield chunk, decoded, reasons
