"""Split a data set into train, validation and test sets with disjoint classes."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import numpy as np

from zoo.data.division.twins import twins
from zoo.data.division.words import TEST, TRAIN, UNUSED, VALIDATION, part_of
from zoo.data.image_set import DataSplits, ImageSet
from zoo.errors import DataError, OptionError, did_you_mean, first_line, printable
from zoo.formats.yaml_document import read_yaml
from zoo.images import require_regular
from zoo.paths import given_path

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Source:
    """The result of a reader: the images and, if the data defines it, their split.

    Attributes:
        images: all images.
        split: ``(N,)`` of "train", "validation", "test" or "" (unused), or None if the data defines none.
        note: how the data set defines its split, for reports.
        name: name of the data, for messages and reports, if the user did not name it by text.
        left_out: names of images in formats that cannot be read.
        is_table: whether the images have an order, so that labels can be given without ids.
    """

    images: ImageSet
    split: np.ndarray | None = None
    note: str = ""
    name: str = "images"
    left_out: Sequence[str] = ()
    is_table: bool = False

    def __len__(self) -> int:
        return len(self.images)


def divide(
    name: str, source: Source, rule: str = "auto", validation: float = 0.2, continuous: bool = False
) -> DataSplits:
    """Split a data set by a rule on its classes, and hold out part of the training classes for validation.

    Args:
        name: the name of the data, for the result.
        source: the images.
        rule: ``given`` (the data's own split), ``first-half`` (train on the first half of the classes), ``even-odd``
            (train on classes of even index), ``list:FILE`` (YAML file with ``train`` and ``test``, each a list of class
            names or patterns with ``*``), ``all-train``, ``all-test``, or ``auto``: given if the data has a split, else
            first-half; unlabelled images without a split are all for training.
        validation: fraction of the training classes held out to choose checkpoints, in [0, 1). If there are continuous
            labels and no classes: fraction of the training images, drawn with a fixed seed. Ignored if the data has its
            own validation images.
        continuous: whether the images will get continuous labels later.

    Raises:
        OptionError: the rule is unknown, or the fraction is out of range.
        DataError: the rule cannot be applied to this data, leaves no image, or puts a class into both train and test.
    """
    images = source.images
    rule, split = split_by(name, source, rule, validation, continuous)
    parts = {part: images.subset(np.flatnonzero(split == part)) for part in (TRAIN, VALIDATION, TEST)}
    if not len(parts[TRAIN]) and not len(parts[TEST]):
        raise DataError(f"{name} has no images left after split {rule!r}.")
    _require_disjoint(name, parts)
    protocol: dict[str, Any] = {"split": rule, "validation_fraction": validation}
    if rule == "given" and source.note:
        protocol["note"] = source.note
    if images.continuous is not None:
        protocol["label_distance"] = images.continuous.description
    for part, subset in parts.items():
        protocol[part] = {"images": len(subset)}
        if subset.labels is not None:
            protocol[part]["classes"] = len(np.unique(subset.labels))
    protocol["test_images_seen"] = _tell_twins(name, parts)
    return DataSplits(name, parts[TRAIN], parts[VALIDATION], parts[TEST], protocol)


def split_by(
    name: str, source: Source, rule: str = "auto", validation: float = 0.2, continuous: bool = False
) -> tuple[str, np.ndarray]:
    """Return the rule, with ``auto`` resolved, and the part of each image. Takes the arguments of :func:`divide`.

    Does not check whether parts have classes in common.

    Returns:
        The rule; and ``(N,)`` of "train", "validation", "test" or "" (unused).

    Raises:
        OptionError: as in :func:`divide`.
        DataError: the rule cannot be applied to this data.
    """
    images = source.images
    if not 0 <= validation < 1:
        raise OptionError(f"validation is {validation}; it must be a fraction of the training classes in [0, 1).")
    if rule == "auto":
        rule = "given" if source.split is not None else "first-half"
        if images.labels is None and source.split is None:
            rule = "all-train"
    if rule in ("all-train", "all-test"):
        split = np.full(len(images), rule.removeprefix("all-"), dtype=object)
    elif rule == "given":
        if source.split is None:
            raise OptionError(f"split is 'given', but {name} has no split of its own. Use first-half or even-odd.")
        split = np.asarray(source.split, dtype=object)
    else:
        split = _by_class_rule(name, images, rule)
    if validation > 0 and not (split == VALIDATION).any():
        if images.labels is not None:
            split = _hold_out(images.labels, split, validation)
        elif continuous or images.continuous is not None:
            split = _hold_out_images(split, validation)
    return rule, split


def _by_class_rule(name: str, images: ImageSet, rule: str) -> np.ndarray:
    if images.labels is None:
        raise OptionError(f"split {rule!r} divides classes, but {name} has no labels.")
    count = len(images.class_names)
    if rule == "first-half":
        side_of_class = np.where(np.arange(count) < (count + 1) // 2, TRAIN, TEST).astype(object)
    elif rule == "even-odd":
        side_of_class = np.where(np.arange(count) % 2 == 0, TRAIN, TEST).astype(object)
    elif rule.startswith("list:"):
        side_of_class = _listed(images, given_path(rule.removeprefix("list:")))
    else:
        known = ["auto", "given", "first-half", "even-odd", "all-train", "all-test", "list:FILE"]
        raise OptionError(f"Unknown split {rule!r}; known are {', '.join(known)}.{did_you_mean(rule, known)}")
    if count < 2:
        raise DataError(f"{name} has {count} class; a class-disjoint split needs at least 2.")
    return np.asarray(side_of_class[images.labels])


def _listed(images: ImageSet, path: Path) -> np.ndarray:
    try:
        require_regular(path)
        lists = read_yaml(path)
    except OSError as error:
        raise DataError(
            f"Split list {path} cannot be read ({error.strerror}). Relative paths start from the working directory."
        ) from error
    except ValueError as error:
        raise DataError(f"Split list {path} is not valid YAML ({first_line(error)}).") from error
    keys = [part_of(str(key)) for key in lists] if isinstance(lists, dict) else []
    if not {TRAIN, TEST} <= set(keys) <= {TRAIN, VALIDATION, TEST} or len(set(keys)) < len(keys):
        raise DataError(f"Split list {path} must have the keys train and test (and may have validation), each a list.")
    index = {class_name: i for i, class_name in enumerate(images.class_names)}
    side = np.full(len(images.class_names), UNUSED, dtype=object)
    for part, patterns in zip(keys, lists.values(), strict=True):
        if not isinstance(patterns, list) or not all(isinstance(pattern, str | int) for pattern in patterns):
            raise DataError(f"Split list {path}: {part} must be a list of class names or patterns.")
        for pattern in map(str, patterns):
            if pattern in index:  # an exact name wins, even if it contains * or [
                matched = [index[pattern]]
            else:
                matched = [i for i, class_name in enumerate(images.class_names) if fnmatchcase(class_name, pattern)]
            if not matched:
                hint = did_you_mean(pattern, images.class_names)
                raise DataError(f"Split list {path}: {part} entry {pattern!r} matches no class.{hint}")
            for i in matched:
                if side[i] not in (UNUSED, part):
                    raise DataError(f"Split list {path}: class {images.class_names[i]!r} is in {side[i]} and {part}.")
                side[i] = part
    return side


def _hold_out(labels: np.ndarray, split: np.ndarray, fraction: float) -> np.ndarray:
    """Move whole training classes, evenly spaced in class order, to the validation split.

    Classes of one image stay in training, since their image has nothing to find.
    """
    every, sizes = np.unique(labels[split == TRAIN], return_counts=True)
    classes = every[sizes > 1]
    count = min(round(fraction * len(every)), len(every) - 2)  # training needs two classes
    if count < 2:  # recall within a single class means nothing
        count = 2 if len(every) >= 6 else 0
    count = min(count, len(classes)) if len(classes) > 1 else 0
    held = classes[((np.arange(count) + 0.5) * len(classes) / max(count, 1)).astype(int)]
    split = split.copy()
    split[(split == TRAIN) & np.isin(labels, held)] = VALIDATION
    return split


def _hold_out_images(split: np.ndarray, fraction: float) -> np.ndarray:
    """Move random training images to the validation split, independent of a run's seed."""
    rows = np.flatnonzero(split == TRAIN)
    count = min(round(fraction * len(rows)), len(rows) - 3)  # training needs an anchor and two others
    if count < 3:  # with only one other image, every order is the best
        count = 3 if len(rows) >= 9 else 0
    split = split.copy()
    split[np.random.default_rng(0).choice(rows, count, replace=False)] = VALIDATION
    return split


def _require_disjoint(name: str, parts: dict[str, ImageSet]) -> None:
    tested = parts[TEST].labels
    if tested is None:
        return
    seen = np.union1d(*(parts[part].labels for part in (TRAIN, VALIDATION)))  # type: ignore[arg-type]
    common = np.intersect1d(seen, tested)
    if len(common):
        example = parts[TEST].class_names[common[0]]
        raise DataError(
            f"{name}: {len(common)} classes, {example!r} among them, are in both train and test; retrieval must be "
            "measured on classes never seen in training. Put each class on one side, or use split even-odd."
        )


def _tell_twins(name: str, parts: dict[str, ImageSet]) -> int:
    """Log and return how many test images are also training or validation images."""
    count = 0
    for part in (TRAIN, VALIDATION):
        found = twins(parts[TEST], parts[part])
        if found:
            tested, same = found[0]
            log.warning(
                "%s: %d of %d test images are in %s too, byte for byte: %s is %s. Remove one of each pair; results "
                "must be measured on unseen images.",
                printable(name),
                len(found),
                len(parts[TEST]),
                part,
                printable(parts[TEST].ids[tested]),
                printable(parts[part].ids[same]),
            )
        count += len(found)
    return count


Reader = Callable[[str], Source]
