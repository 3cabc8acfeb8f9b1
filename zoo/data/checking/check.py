"""Check all images once, before hours of training: :func:`check`."""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from zoo.arguments import DataLike, TeacherLike, require_valid
from zoo.data.checking.copies import copies_in
from zoo.data.checking.findings import ERROR, NOTE, Check, Finding
from zoo.data.checking.hashing import MAX_RADIUS, RADIUS, of_one_colour
from zoo.data.checking.labels import alike_but_for_writing, of_one_image, on_both_sides, suspects
from zoo.data.checking.reading import read_all
from zoo.data.division.splits import Source, split_by
from zoo.data.division.words import TEST, TRAIN, UNUSED, VALIDATION
from zoo.data.image_set import DataSplits
from zoo.data.sources.opening import open_source
from zoo.errors import DataError, OptionError
from zoo.versions import available_cores

log = logging.getLogger(__name__)

_PARTS = (TRAIN, VALIDATION, TEST)


def check(
    data: DataLike,
    *,
    split: str = "auto",
    columns: dict[str, str] | None = None,
    teacher: TeacherLike | None = None,
    radius: int = RADIUS,
    max_unreadable: int = 10,
    strict: bool = False,
    workers: int | None = None,
) -> Check:
    """Read all images once and report what is wrong with them, before hours of training instead of after.

    Errors must be fixed: more unreadable images in a part than training leaves out, classes on both sides of the split,
    the same image in train and test, or in two classes. Notes should be looked at: other copies and images that look
    nearly the same, classes of one image, class names that differ only in case or spaces, images of one colour,
    formats that are left out, and labels that a teacher doubts. docs/how-to/check.md lists all of them.

    Args:
        data: images, such as folder:PATH or csv:FILE; see docs/data.md.
        split: rule that divides the classes, as in training: auto, given, first-half, even-odd, all-train, all-test or
            list:FILE.
        columns: names of a table's columns, such as {path: file, label: sku}; see docs/data.md.
        teacher: a model folder, an .onnx or .npz file, or a name such as hf:NAME, whose embeddings judge the labels;
            null for no such judgement.
        radius: bits of 64 in which the perceptual hashes of two images that look nearly the same may differ, up to 11;
            -1 to look for no such images.
        max_unreadable: unreadable images of a part up to which they are a note, as training leaves them out.
        strict: let notes fail the check, too.
        workers: processes that read images; null for one per core.

    Returns:
        The findings. They raise no error; the command ends with exit code 3 if the check fails.

    Raises:
        UserError: the data, an option or the teacher cannot be used at all.
    """
    require_valid({"max_unreadable": max_unreadable, "workers": workers})
    if isinstance(radius, bool) or not isinstance(radius, int) or not -1 <= radius <= MAX_RADIUS:
        raise OptionError(f"radius is {radius}; it must be a whole number in -1..{MAX_RADIUS}.")
    opened = None
    if teacher is not None:
        from zoo.teachers.opening import open_teacher

        opened = open_teacher(teacher)  # report mistakes in it before reading the images
    begun = time.monotonic()
    name, source, rule, parts, obstacle = _divided(data, split, columns)
    images = source.images
    readings = read_all(images, available_cores() if workers is None else max(workers, 1))
    readable = readings.readable
    tested, used = parts == TEST, parts != UNUSED
    can_be_read = np.zeros(len(images), dtype=bool)
    can_be_read[readable] = True
    found: list[Finding | None] = [
        _found("split", ERROR, "split that cannot be made", obstacle, "Choose another split, or fix the data."),
        _unreadable(images.ids, readings.unreadable, parts, max_unreadable),
    ]
    copies = copies_in(images, readings, tested, used, radius)
    if images.labels is not None:
        both = on_both_sides(images, np.flatnonzero(used & ~tested), np.flatnonzero(tested))
        remedy = "Retrieval is measured on classes never seen in training: fix the split, or use split even-odd."
        found.append(_found("classes_on_both_sides", ERROR, "classes in both train and test", both, remedy))
    remedy = "Remove one of each pair: results must be measured on unseen images."
    found.append(_found("copies_across", ERROR, "test images in train, byte for byte", copies.across, remedy))
    remedy = "Decide on one class, and remove the other copies."
    found.append(
        _found("copies_of_other_class", ERROR, "same images in several classes", copies.of_other_class, remedy)
    )
    remedy = "Look at them: results may be better than on unseen images. Remove one of each pair that is one picture."
    found.append(_found("near_across", NOTE, "test images that look like one in train", copies.near_across, remedy))
    remedy = "Look at them: one of the two labels may be wrong."
    near = copies.near_of_other_class
    found.append(_found("near_of_other_class", NOTE, "images that look alike, of two classes", near, remedy))
    if opened is not None and images.labels is not None:
        rows = np.flatnonzero(can_be_read & used)
        doubted = suspects(images, rows, opened.embed_images, opened.metric)
        remedy = "Look at them: the label may be wrong."
        found.append(_found("suspects", NOTE, "labels that the teacher doubts", doubted, remedy))
    if images.labels is not None:
        remedy = "Rename one, if they are one class."
        there = [images.class_names[label] for label in np.unique(images.labels).tolist()]
        alike = alike_but_for_writing(there)
        found.append(_found("names_alike", NOTE, "class names that differ in writing only", alike, remedy))
        rows_of = [np.flatnonzero(can_be_read & (parts == part)) for part in _PARTS]
        alone = [item for rows in rows_of for item in of_one_image(images, rows)]
        remedy = "Add images: a class of one has nothing to be found, and nothing to learn from."
        found.append(_found("single", NOTE, "classes of one image in their part", alone, remedy))
    remedy = "They weigh more than others, and are found at once. Remove all but one."
    found.append(_found("copies", NOTE, "groups of the same images", copies.others, remedy))
    remedy = "They make results look better than they are, where they are tested. Keep one, or leave them in knowingly."
    found.append(_found("near", NOTE, "groups of images that look alike", copies.near, remedy))
    flat = [{"id": images.ids[row]} for row in readable[of_one_colour(readings.small[readable])].tolist()]
    found.append(_found("one_colour", NOTE, "images of one colour", flat, "Remove them, if there should be something."))
    unread = [{"id": left_out} for left_out in source.left_out]
    remedy = "Convert them to JPEG or PNG."
    found.append(_found("left_out", NOTE, "images in formats that are not read", unread, remedy))
    findings = tuple(sorted((each for each in found if each), key=lambda each: each.level != ERROR))
    sides = readings.sizes[readable].min(axis=1)
    counts = {part: int((parts == part).sum()) for part in _PARTS} | {"unused": int((~used).sum())}
    return Check(
        name=name,
        split=rule,
        images=len(images),
        classes=None if images.labels is None else len(np.unique(images.labels)),
        parts={part: count for part, count in counts.items() if count},
        kinds=dict(Counter(kind for kind in readings.kinds if kind).most_common()),
        sides=(int(sides.min()), int(np.median(sides)), int(sides.max())) if len(sides) else None,
        findings=findings,
        passed=not any(strict or each.level == ERROR for each in findings),
        seconds=round(time.monotonic() - begun, 1),
    )


def _divided(
    data: DataLike, split: str, columns: dict[str, str] | None
) -> tuple[str, Source, str, np.ndarray, list[dict[str, Any]]]:
    """Return the data's name, all images, the rule, the part of each image, and why they cannot be split, if so."""
    if isinstance(data, DataSplits):
        from zoo.data.sources.parts import joined

        parts = {part: getattr(data, part) for part in _PARTS if len(getattr(data, part))}
        sources = {part: Source(replace(images, continuous=None)) for part, images in parts.items()}  # not checked
        source = joined(data.name, sources, with_parts_in_ids=False)
        part_of = source.split if source.split is not None else np.full(len(source), next(iter(parts)), dtype=object)
        return data.name, source, str(data.protocol.get("split", "given")), part_of, []
    source = open_source(data, columns)
    name = str(data) if isinstance(data, str | Path) else source.name
    try:
        rule, part_of = split_by(name, source, split, validation=0)
    except DataError as error:
        return name, source, split, np.full(len(source), TRAIN, dtype=object), [{"reason": str(error)}]
    return name, source, rule, part_of, []


def _found(kind: str, level: str, title: str, items: Sequence[dict[str, Any]], remedy: str) -> Finding | None:
    return Finding(kind, level, title, len(items), remedy, list(items)) if items else None


def _unreadable(ids: Sequence[str], reasons: dict[int, str], parts: np.ndarray, most: int) -> Finding | None:
    items = [{"id": ids[row], "part": str(parts[row]), "reason": reason} for row, reason in sorted(reasons.items())]
    beyond = any(count > most for count in Counter(item["part"] for item in items).values())
    remedy = (
        f"Fix or remove them: training stops at more than {most} of a part (max_unreadable)."
        if beyond
        else f"Training leaves them out, up to {most} of a part (max_unreadable)."
    )
    return _found("unreadable", ERROR if beyond else NOTE, "images that cannot be read", items, remedy)
