"""Perceptual hashes of images, and pairs of images that look nearly the same.

The hash is the usual 64-bit pHash: shrink an image to 32 x 32 grey pixels, take the 8 x 8 lowest frequencies of its
DCT-II, and compare each with their median. Copies in another quality, size or brightness differ in few bits; so do some
images that merely share a composition. Pairs within a radius are therefore compared again, by the correlation of their
grey values at 16 x 16 pixels.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain

import numpy as np
from PIL import Image

SIDE = 32
SMALL = 16
RADIUS = 6
"""Bits that may differ. Of 600 photographs of Caltech-101 and Grocery Store, 98 % of the copies in JPEG quality 20, and
98 % of those at half the size, differ by no more."""
MAX_RADIUS = 11
SIMILARITY = 0.98
"""Smallest correlation of two images that look nearly the same."""
_CHUNKS, _CHUNK_BITS = 4, 16
_BLOCK = 1 << 21  # candidates that are compared at a time
_COMPARED = 50  # images with one hash that are compared in pairs; the rest only with the first
_ONE_COLOUR = 1.0  # largest standard deviation of grey values, in 0..255, of an image of one colour


def grey_of(image: Image.Image) -> np.ndarray:
    """Return the grey values of a loaded image as :func:`shrunk` makes them, uint8 ``(32, 32)``."""
    return np.asarray(shrunk(image))


def shrunk(image: Image.Image) -> Image.Image:
    """Return a loaded image in grey, resized to 32 x 32 pixels regardless of its aspect ratio."""
    grey = image if image.mode == "L" else image.convert("L")
    factors = max(grey.width // (2 * SIDE), 1), max(grey.height // (2 * SIDE), 1)
    if factors != (1, 1):
        grey = grey.reduce(factors)  # several times faster than resizing in one step
    return grey.resize((SIDE, SIDE), Image.Resampling.BOX)


def hashes_of(greys: np.ndarray) -> np.ndarray:
    """Return the hashes, uint64 ``(N,)``, of grey images, uint8 ``(N, 32, 32)``; the bit order is our own."""
    rows = np.arange(8)[:, None]
    basis = np.cos(np.pi / SIDE * rows * (np.arange(SIDE) + 0.5)) * np.where(rows == 0, np.sqrt(0.5), 1.0)
    lowest = (basis @ greys.astype(np.float64) @ basis.T).reshape(len(greys), 64)
    bits = lowest > np.median(lowest, axis=1, keepdims=True)
    # Each chunk of 16 bits mixes low and high frequencies: low ones alone agree in too many images.
    spread = np.concatenate([np.arange(chunk, 64, _CHUNKS) for chunk in range(_CHUNKS)])
    return np.ascontiguousarray(np.packbits(bits[:, spread], axis=1)).view(np.uint64).ravel()


def smaller(greys: np.ndarray) -> np.ndarray:
    """Return grey images at half the side, uint8 ``(N, 16, 16)``."""
    sums = sum(greys[:, top::2, left::2].astype(np.uint16) for top in (0, 1) for left in (0, 1))
    return np.asarray((sums + np.uint16(2)) >> np.uint16(2)).astype(np.uint8)


def of_one_colour(small: np.ndarray) -> np.ndarray:
    """Return which images, uint8 ``(N, 16, 16)``, have only one colour; bool ``(N,)``."""
    return np.asarray(small.reshape(len(small), -1).std(axis=1) <= _ONE_COLOUR)


def near_pairs(
    hashes: np.ndarray, small: np.ndarray, radius: int = RADIUS, similarity: float = SIMILARITY
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Find the pairs of images that look nearly the same.

    Images of one colour are ignored. Of more than 50 images with the same hash, each is compared with the first, and
    the first 50 with one another.

    Args:
        hashes: uint64 ``(N,)``.
        small: uint8 ``(N, 16, 16)``, as :func:`smaller` returns them.
        radius: bits that may differ, 0 to 11.
        similarity: smallest correlation of the grey values.

    Returns:
        int64 ``(P, 2)`` sorted pairs, the lower index first; uint8 ``(P,)``, the number of different bits; and float32
        ``(P,)``, the correlation.
    """
    rows = np.flatnonzero(~of_one_colour(small))
    codes, code_of = np.unique(hashes[rows], return_inverse=True)
    members = rows[np.argsort(code_of, kind="stable")]
    counts = np.bincount(code_of, minlength=len(codes))
    starts = np.concatenate([[0], np.cumsum(counts)[:-1]]).astype(np.int64)
    found = [_verified(_first_with_others(members, starts, counts), hashes, small, similarity)]
    alone = np.arange(len(codes))
    for one, other in chain(_blocks(alone[counts > 1], alone[counts > 1]), near_codes(codes, radius)):
        between = _between(one, other, members, starts, np.minimum(counts, _COMPARED))
        found.append(_verified(between, hashes, small, similarity))
    pairs = np.concatenate([each[0] for each in found])
    pairs, at = np.unique(pairs, axis=0, return_index=True)
    return pairs, np.concatenate([each[1] for each in found])[at], np.concatenate([each[2] for each in found])[at]


def near_codes(codes: np.ndarray, radius: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield the pairs of different codes that differ in no more bits than the radius, each pair once.

    Uses multi-index hashing (Norouzi et al., arXiv:1307.2982): of four chunks of 16 bits, at least one differs in no
    more than a quarter of the radius, so few codes need to be compared.

    Args:
        codes: uint64 ``(U,)``, without duplicates.
        radius: 0 to 11.

    Yields:
        int64 ``(B,)`` and int64 ``(B,)``, the lower and the higher index.
    """
    chunks = [(codes >> np.uint64(_CHUNK_BITS * chunk)) & np.uint64(0xFFFF) for chunk in range(_CHUNKS)]
    within = radius // _CHUNKS
    masks = [mask for mask in range(1 << _CHUNK_BITS) if mask.bit_count() <= within]
    for number, values in enumerate(chunk.astype(np.int64) for chunk in chunks):
        order = np.argsort(values, kind="stable")
        counts = np.bincount(values, minlength=1 << _CHUNK_BITS)
        starts = np.concatenate([[0], np.cumsum(counts)[:-1]])
        for mask in masks:
            wanted = values ^ mask
            for one, other in _expanded(np.arange(len(codes)), counts[wanted], starts[wanted], order):
                kept = other > one
                one, other = one[kept], other[kept]
                differing = codes[one] ^ codes[other]
                kept = bits_set(differing) <= radius
                for earlier in range(number):  # pairs already found by an earlier chunk
                    part = (differing >> np.uint64(_CHUNK_BITS * earlier)) & np.uint64(0xFFFF)
                    kept &= bits_set(part) > within
                if kept.any():
                    yield one[kept], other[kept]


def bits_set(numbers: np.ndarray) -> np.ndarray:
    """Return the number of set bits of each number, uint64 ``(N,)`` to uint8 ``(N,)``."""
    return np.asarray(_BITS[np.ascontiguousarray(numbers).view(np.uint16).reshape(-1, 4)].sum(axis=1, dtype=np.uint8))


_BITS = np.array([number.bit_count() for number in range(1 << 16)], dtype=np.uint8)


def groups_of(pairs: np.ndarray, count: int) -> list[list[int]]:
    """Return the groups of 0..count-1 that pairs connect; members are sorted, and groups sorted by their first."""
    leader = np.arange(count)

    def find(one: int) -> int:
        while leader[one] != one:
            leader[one] = leader[leader[one]]
            one = int(leader[one])
        return one

    for one, other in pairs.tolist():
        first, second = sorted((find(one), find(other)))
        leader[second] = first
    groups: dict[int, list[int]] = {}
    for one in np.unique(pairs).tolist():
        groups.setdefault(find(one), []).append(one)
    return sorted(groups.values())


def _expanded(
    rows: np.ndarray, counts: np.ndarray, starts: np.ndarray, order: np.ndarray
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield each row with each element of its ``order[start : start + count]``, in blocks of bounded size."""
    ends = np.cumsum(counts)
    first = 0
    while first < len(rows):
        done = ends[first - 1] if first else 0
        last = max(int(np.searchsorted(ends, done + _BLOCK, side="right")), first + 1)
        of_each = counts[first:last]
        repeated = np.repeat(rows[first:last], of_each)
        offset = np.arange(len(repeated)) - np.repeat(np.cumsum(of_each) - of_each, of_each)
        yield repeated, order[np.repeat(starts[first:last], of_each) + offset]
        first = last


def _blocks(one: np.ndarray, other: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    step = 1024
    for start in range(0, len(one), step):
        yield one[start : start + step], other[start : start + step]


def _between(
    one: np.ndarray, other: np.ndarray, members: np.ndarray, starts: np.ndarray, counts: np.ndarray
) -> Iterator[np.ndarray]:
    """Yield the pairs of images, one from each code of a pair of codes, or both from the same code."""
    for places, rights in _expanded(np.arange(len(one)), counts[other], starts[other], members):
        codes = one[places]
        for at, lefts in _expanded(np.arange(len(places)), counts[codes], starts[codes], members):
            pairs = np.stack([lefts, rights[at]], axis=1)
            same = one[places[at]] == other[places[at]]
            yield np.sort(pairs[~same | (pairs[:, 0] < pairs[:, 1])], axis=1)


def _first_with_others(members: np.ndarray, starts: np.ndarray, counts: np.ndarray) -> Iterator[np.ndarray]:
    """Yield, for each code with more images than are compared in pairs, the first image with each of the rest."""
    many = np.flatnonzero(counts > _COMPARED)
    for code in many.tolist():
        rest = members[starts[code] + _COMPARED : starts[code] + counts[code]]
        yield np.stack([np.full(len(rest), members[starts[code]]), rest], axis=1)


def _verified(
    pairs: Iterator[np.ndarray], hashes: np.ndarray, small: np.ndarray, similarity: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    kept = [(np.empty((0, 2), np.int64), np.empty(0, np.uint8), np.empty(0, np.float32))]
    for block in pairs:
        for start in range(0, len(block), 1 << 14):
            part = block[start : start + (1 << 14)]
            alike = _correlations(small[part[:, 0]], small[part[:, 1]])
            near = alike >= similarity
            differing = bits_set(hashes[part[near, 0]] ^ hashes[part[near, 1]])
            kept.append((part[near], differing, alike[near].astype(np.float32)))
    return tuple(np.concatenate(column) for column in zip(*kept, strict=True))  # type: ignore[return-value]


def _correlations(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Return the correlation of the grey values of two sets of images, ``(B, 16, 16)`` each, pair by pair."""
    lefts, rights = (each.reshape(len(each), -1).astype(np.float32) for each in (one, other))
    lefts -= lefts.mean(axis=1, keepdims=True)
    rights -= rights.mean(axis=1, keepdims=True)
    lengths = np.linalg.norm(lefts, axis=1) * np.linalg.norm(rights, axis=1)
    return np.asarray(np.einsum("bi,bi->b", lefts, rights) / np.maximum(lengths, 1e-6))
