"""The words that folders and tables have for the parts of a split and for roles, in their usual spellings."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache

import numpy as np

from zoo.data.image_set import BOTH, GALLERY, QUERY
from zoo.errors import DataError

TRAIN, VALIDATION, TEST, UNUSED = "train", "validation", "test", ""

_SPELLINGS = {
    TRAIN: "train training trains trn tr trainval learn learning seen",
    VALIDATION: "validation val valid validate validating vali vld dev devel development",
    TEST: "test testing tests tst te eval evaluation evaluate heldout holdout unseen",
    QUERY: "query queries probe probes",
    GALLERY: "gallery galleries database db reference references catalog catalogue index",
}
_WORDS = {word: part for part, words in _SPELLINGS.items() for word in words.split()}
_JOINED = {("train", "val"): TRAIN, ("held", "out"): TEST, ("hold", "out"): TEST}
_JOINED |= {(TEST, QUERY): QUERY, (QUERY, TEST): QUERY, (TEST, GALLERY): GALLERY, (GALLERY, TEST): GALLERY}
_FILLERS = (
    "set sets data dataset datasets split splits subset part partition folder dir image images img imgs photo photos "
    "picture pictures pic pics sample samples file files crop crops bounding box bbox"
)
_ENDINGS = ("dataset", "data", "set", "split", "images", "image", "imgs", "img", "photos")


@lru_cache(maxsize=4096)  # of a folder, it is asked for each image in it
def part_of(word: str) -> str | None:
    """Return what a folder's name or a cell stands for: "train", "validation", "test", "query" or "gallery".

    Case, digits, signs, and words such as "set" and "images" do not matter: ``Training_Set``, ``testImages`` and
    ``01-val2017`` are understood.

    Returns:
        None where the word is none of these.
    """
    apart = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", word)
    found = tuple(token for token in re.findall(r"[^\W\d_]+", apart.lower()) if token not in _FILLERS.split())
    found = tuple(_bare(token) for token in found)
    return _WORDS.get(found[0]) if len(found) == 1 else _JOINED.get(found)


def parts_and_roles(name: str, parts: Sequence[str]) -> tuple[np.ndarray, np.ndarray | None]:
    """Return the split and the roles of images of which each is of a part as ``part_of`` says, or "" for unused.

    Queries and gallery are tested. Where only one of these is there, what is called test is the other.

    Args:
        name: of the data, for messages.
        parts: N words.

    Returns:
        The split, ``(N,)``; and the roles, ``(N,)``, or None where all images are on both sides.

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


def _bare(token: str) -> str:
    """Take endings such as that of "trainset" off, where a known word is left."""
    for ending in _ENDINGS:
        if token.removesuffix(ending) in _WORDS:
            return token.removesuffix(ending)
    return token
