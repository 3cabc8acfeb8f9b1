"""Images that are the same, or look nearly the same."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import Any

import numpy as np

from zoo.data.checking.hashing import groups_of, near_pairs
from zoo.data.checking.reading import Readings
from zoo.data.image_set import ImageSet


@dataclass(frozen=True, eq=False)
class Copies:
    """Pairs and groups of images, ready for JSON, each in one list only.

    Attributes:
        across: test images with the same bytes as a training image.
        of_other_class: groups with the same bytes and several classes.
        others: the other groups with the same bytes.
        near_across: test images that look like a training image.
        near_of_other_class: other pairs of two classes that look nearly the same.
        near: the other groups of images that look nearly the same.
    """

    across: list[dict[str, Any]]
    of_other_class: list[dict[str, Any]]
    others: list[dict[str, Any]]
    near_across: list[dict[str, Any]]
    near_of_other_class: list[dict[str, Any]]
    near: list[dict[str, Any]]


def copies_in(images: ImageSet, readings: Readings, tested: np.ndarray, used: np.ndarray, radius: int) -> Copies:
    """Find the copies among the readable images.

    Args:
        images: the images.
        readings: the readings of all images.
        tested: bool ``(N,)``, which are in the test part.
        used: bool ``(N,)``, which are in any part.
        radius: bits of the perceptual hash that may differ; negative to find exact copies only.
    """
    labels = images.labels
    groups: dict[bytes, list[int]] = defaultdict(list)
    for row in readings.readable.tolist():
        groups[readings.digests[row]].append(row)
    across: list[dict[str, Any]] = []
    of_other_class: list[dict[str, Any]] = []
    others: list[dict[str, Any]] = []
    for group in groups.values():
        if len(group) == 1:
            continue
        seen = [row for row in group if used[row] and not tested[row]]
        here = [row for row in group if tested[row]]
        across += [{"id": images.ids[row], "like": images.ids[seen[0]]} for row in here if seen]
        ids = [images.ids[row] for row in group]
        classes = [] if labels is None else sorted({str(images.class_names[labels[row]]) for row in group})
        if len(classes) > 1:
            of_other_class.append({"ids": ids, "classes": classes})
        elif not (seen and here) or min(len(seen), len(here)) > 1:
            others.append({"ids": ids})
    if radius < 0:
        return Copies(across, of_other_class, others, [], [], [])
    # One image on each side represents all with the same bytes.
    kept = np.array([row for group in groups.values() for row in _one_of_each_side(group, tested)], dtype=np.int64)
    kept.sort()
    pairs, differing, alike = near_pairs(readings.hashes[kept], readings.small[kept], radius)
    pairs = kept[pairs]
    near_across: list[dict[str, Any]] = []
    near_of_other_class: list[dict[str, Any]] = []
    rest = []
    for (one, other), bits, similarity in zip(pairs.tolist(), differing.tolist(), alike.tolist(), strict=True):
        if readings.digests[one] == readings.digests[other]:
            continue
        how = {"differing_bits": bits, "similarity": round(similarity, 4)}
        if tested[one] != tested[other] and used[one] and used[other]:
            test, train = (one, other) if tested[one] else (other, one)
            near_across.append({"id": images.ids[test], "like": images.ids[train]} | how)
        elif labels is not None and labels[one] != labels[other]:
            classes = [str(images.class_names[labels[row]]) for row in (one, other)]
            near_of_other_class.append({"id": images.ids[one], "like": images.ids[other], "classes": classes} | how)
        else:
            rest.append((one, other))
    near = groups_of(np.array(rest, dtype=np.int64).reshape(-1, 2), len(images))
    in_groups = [{"ids": [images.ids[row] for row in group]} for group in near]
    for found in (near_across, near_of_other_class):
        found.sort(key=lambda item: -item["similarity"])
    return Copies(across, of_other_class, others, near_across, near_of_other_class, in_groups)


def _one_of_each_side(group: list[int], tested: np.ndarray) -> list[int]:
    first: dict[bool, int] = {}
    for row in group:
        first.setdefault(bool(tested[row]), row)
    return list(first.values())
