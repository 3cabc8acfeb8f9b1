"""Names of the parts of a split."""

from __future__ import annotations

import pytest

from zoo.data.division.words import part_of, parts_and_roles, parts_of
from zoo.errors import DataError


@pytest.mark.parametrize(
    ("part", "spellings"),
    [
        (
            "train",
            "train Training TRAIN train_set trainset TrainingSet train2017 01_train images-train trn train_val seen",
        ),
        ("validation", "val valid Validation validation_images val2017 dev DevSet ValidSet"),
        ("test", "test Testing tst TestImages test-data bounding_box_test eval Evaluation held-out holdout unseen"),
        ("query", "query Queries test_query query_images probe"),
        ("gallery", "gallery Galleries gallery_set test-gallery database DB reference"),
    ],
)
def test_usual_spellings(part: str, spellings: str) -> None:
    assert {word: part_of(word) for word in spellings.split()} == dict.fromkeys(spellings.split(), part)


@pytest.mark.parametrize(
    "word", ["trainer", "latest", "test tube", "training shoe", "valley", "contest", "images", "2017", "", "Böttcher"]
)
def test_other_words(word: str) -> None:
    assert part_of(word) is None


def test_what_is_neither_query_nor_gallery_is_the_other() -> None:
    split, roles = parts_and_roles("x", ["train", "test", "query", ""])
    assert roles is not None
    assert split.tolist() == ["train", "test", "test", ""] and roles.tolist() == ["both", "gallery", "query", "both"]
    _, roles = parts_and_roles("x", ["test", "gallery"])
    assert roles is not None and roles.tolist() == ["query", "gallery"]
    assert parts_and_roles("x", ["train", "test"])[1] is None
    with pytest.raises(DataError, match="x has a part called gallery but none called query or test"):
        parts_and_roles("x", ["train", "gallery"])


@pytest.mark.parametrize(
    ("names", "parts"),
    [
        ("birds_train birds_test", ["train", "test"]),
        ("trainA testA", ["train", "test"]),
        ("cub-query-v2 cub-gallery-v2", ["query", "gallery"]),
        ("Trainingsdaten Testdaten", ["train", "test"]),
        ("train test_of_mine", ["train", None]),  # one is understood as it stands
        ("train_station test_tube", [None, None]),
        ("birds_red birds_train", [None, None]),
        ("my_train", [None]),
    ],
)
def test_words_that_all_names_share_do_not_matter(names: str, parts: list[str | None]) -> None:
    assert parts_of(names.split()) == dict(zip(names.split(), parts, strict=True))
