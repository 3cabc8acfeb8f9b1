"""The usual names of split parts and roles in folders and tables."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from functools import lru_cache

import numpy as np

from zoo.data.image_set import BOTH, GALLERY, QUERY
from zoo.errors import DataError

TRAIN, VALIDATION, TEST, UNUSED = "train", "validation", "test", ""

_SPELLINGS = {
    TRAIN: "train training trainings trains trn tr trainval learn learning seen",
    VALIDATION: "validation val valid validate validating vali vld dev devel development",
    TEST: "test testing tests tst te eval evaluation evaluate heldout holdout unseen",
    QUERY: "query queries probe probes",
    GALLERY: "gallery galleries database db reference references catalog catalogue index",
}
_WORDS = {word: part for part, words in _SPELLINGS.items() for word in words.split()}
_JOINED: dict[tuple[str, ...], str] = {("train", "val"): TRAIN, ("held", "out"): TEST, ("hold", "out"): TEST}
_JOINED |= {(TEST, QUERY): QUERY, (QUERY, TEST): QUERY, (TEST, GALLERY): GALLERY, (GALLERY, TEST): GALLERY}
_FILLERS = (
    "set sets data dataset datasets split splits subset part partition folder dir image images img imgs photo photos "
    "picture pictures pic pics sample samples file files crop crops bounding box bbox"
)
_ENDINGS = ("dataset", "data", "daten", "set", "split", "images", "image", "imgs", "img", "photos")


@lru_cache(maxsize=4096)  # called for every image in a folder
def part_of(word: str) -> str | None:
    """Return the meaning of a folder's name or a cell: "train", "validation", "test", "query" or "gallery".

    Case, digits, punctuation, and words such as "set" and "images" do not matter: ``Training_Set``, ``testImages`` and
    ``01-val2017`` are understood.

    Returns:
        The part or role, or None if the word is none of these.
    """
    found = tuple(_bare(token) for token in _tokens(word) if token not in _FILLERS.split())
    return _WORDS.get(found[0]) if len(found) == 1 else _JOINED.get(found)


def parts_of(names: Iterable[str]) -> dict[str, str | None]:
    """Return the meanings of sibling folders by name, as :func:`part_of` does.

    If none is understood, words that all of them begin or end with are left out: ``birds_train`` and ``birds_test``,
    or ``trainA`` and ``testA``, are parts.
    """
    found = {name: part_of(name) for name in names}
    if len(found) < 2 or any(found.values()):
        return found
    tokens = [_tokens(name) for name in found]
    begin, end = _shared(tokens), _shared([each[::-1] for each in tokens])
    within = [part_of(" ".join(each[begin : len(each) - end])) for each in tokens]
    return dict(zip(found, within, strict=True)) if all(within) and len(set(within)) > 1 else found


def parts_and_roles(name: str, parts: Sequence[str]) -> tuple[np.ndarray, np.ndarray | None]:
    """Return the split and the roles of images.

    Queries and gallery belong to the test part. If only one of these occurs, "test" means the other.

    Args:
        name: name of the data, for messages.
        parts: N words as ``part_of`` returns them, or "" for unused images.

    Returns:
        The split, ``(N,)``; and the roles, ``(N,)``, or None if all images have both roles.

    Raises:
        DataError: there are queries without a gallery, or a gallery without queries.
    """
    words = np.array(parts, dtype=object)
    there = {role for role in (QUERY, GALLERY) if (words == role).any()}
    split = np.where(np.isin(words, (QUERY, GALLERY)), TEST, words).astype(object)
    if not there:
        return split, None
    rest = BOTH
    if len(there) == 1:
        (one,) = there
        rest = GALLERY if one == QUERY else QUERY
        if not (words == TEST).any():
            raise DataError(f"{name} has a part called {one} but none called {rest} or test. Rename the other.")
    roles = np.where(np.isin(words, (QUERY, GALLERY)), words, np.where(words == TEST, rest, BOTH)).astype(object)
    return split, roles


def _tokens(word: str) -> list[str]:
    """Return the words in a name, in lower case: ``TestImages_2`` has "test" and "images"."""
    return re.findall(r"[^\W\d_]+", re.sub(r"(?<=[a-z])(?=[A-Z])", " ", word).lower())


def _shared(lists: Sequence[Sequence[str]]) -> int:
    """Return how many words all lists begin with."""
    columns = zip(*lists, strict=False)
    return next((place for place, words in enumerate(columns) if len(set(words)) > 1), min(map(len, lists)))


def _bare(token: str) -> str:
    """Remove an ending, such as "set" in "trainset", if a known word is left."""
    for ending in _ENDINGS:
        if token.removesuffix(ending) in _WORDS:
            return token.removesuffix(ending)
    return token
