"""Split folders, such as ``train`` and ``test``, above the classes or in each class."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Sequence
from itertools import product
from pathlib import Path, PurePosixPath

import numpy as np

from zoo.data.division.words import TEST, part_of, parts_and_roles, parts_of
from zoo.data.image_set import GALLERY, QUERY
from zoo.errors import DataError, all_shown

log = logging.getLogger(__name__)


def without_parts(
    root: Path, names: list[PurePosixPath]
) -> tuple[list[PurePosixPath], np.ndarray | None, np.ndarray | None]:
    """Remove split folders from the images' names.

    They are recognised in the root, in its only folder (as archives of a folder usually have), and directly above the
    images, as in ``ant/train/1.png``.

    Args:
        root: the data's root, for messages.
        names: names of the images, relative to the root.

    Returns:
        The names, the split and the roles; None for the latter two without split folders.

    Raises:
        DataError: an image lies beside these folders, or they are elsewhere: classes would be wrong.
    """
    above = 0
    while len({name.parts[above] for name in names}) == 1 and all(len(name.parts) > above + 2 for name in names):
        above += 1
    of_tops = parts_of({name.parts[above] for name in names if len(name.parts) > above + 1})
    tops = [of_tops[name.parts[above]] if len(name.parts) > above + 1 else None for name in names]
    lasts = [part_of(name.parent.name) if len(name.parts) > above + 2 else None for name in names]
    if _parts(tops):
        rest = [PurePosixPath(*name.parts[above + 1 :]) for name in names]
        found = tops
        inner = [part_of(name.parts[0]) if len(name.parts) > 1 else None for name in rest]
        tested = [place for place, part in enumerate(tops) if part == TEST]
        if {inner[place] for place in tested} == {QUERY, GALLERY}:
            found = [inner[place] if part == TEST else part for place, part in enumerate(tops)]
            for place in tested:
                rest[place] = PurePosixPath(*rest[place].parts[1:])
    elif _parts(lasts):
        rest = [name.parent.parent / name.name for name in names]
        found = lasts
    else:
        _require_classes(root, names)
        return names, None, None
    beside = next((name for name, part in zip(names, found, strict=True) if not part), None)
    if beside is not None:
        parts = " and ".join(sorted({part for part in found if part}))
        raise DataError(
            f"{root} has folders called {parts}, but {beside} is in none of them. Move it into one, or remove it."
        )
    _require_classes(root, rest)
    split, roles = parts_and_roles(str(root), [part or "" for part in found])
    return rest, split, roles


def _parts(words: Sequence[str | None]) -> bool:
    return len(set(words) - {None}) > 1


def _require_classes(root: Path, names: Sequence[PurePosixPath]) -> None:
    """Refuse split folders where they would be mistaken for classes."""
    below: dict[PurePosixPath, set[str]] = defaultdict(set)
    lowest = {name.parent for name in names}
    for folder in {parent for one in lowest for parent in (one, *one.parents) if parent.name}:
        below[folder.parent].add(folder.name)
    for parent, folders in below.items():
        words = {folder: part_of(folder) for folder in sorted(folders)}
        if _parts(list(words.values())):
            listed = " and ".join(folder for folder, part in words.items() if part)
            raise DataError(
                f"{root}: {parent} holds folders called {listed}, which define a split for only part of the data. "
                "Put such folders above all classes, or in each class."
            )
        named = [folder for folder, part in words.items() if part]
        others = folders - set(named)
        inner = [below.get(parent / folder, set()) for folder in folders]
        if not named and len(folders) > 1 and len(inner[0]) > 1 and all(each == inner[0] for each in inner):
            log.warning(
                "%s: %s hold folders of the same names, such as %s, which are taken as different classes. If they are "
                "a split, call them train, validation, test, query or gallery.",
                root,
                all_shown(sorted(folders), 3),
                min(inner[0]),
            )
        for one, other in product(named, sorted(others)):
            shared = below.get(parent / one, set()) & below.get(parent / other, set())
            if shared:
                raise DataError(
                    f"{root}: folders {parent / one} and {parent / other} hold the same classes, such as "
                    f"{min(shared)}. If they are a split, call them train, validation, test, query or gallery."
                )
        for one in named:
            if below.get(parent / one) and others:
                log.warning(
                    "%s: %s and %s are taken as groups of classes. If they are a split, call them train, validation, "
                    "test, query or gallery.",
                    root,
                    parent / one,
                    parent / min(others),
                )
