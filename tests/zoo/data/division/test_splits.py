"""Split rules: the divisions they make, disjoint train and test classes, and the protocols that papers use."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from zoo.data import READERS, load_data
from zoo.data.continuous import VectorLabels
from zoo.data.division.splits import Source, divide
from zoo.data.image_set import DataSplits, ImageSet
from zoo.errors import DataError, OptionError

REPOSITORY = Path(__file__).parents[4]
SHARED = REPOSITORY.parent / "shared" / "data"


def source(labels: list[int], class_names: list[str] | None = None, split: list[str] | None = None) -> Source:
    """One image per label; the id of image i is its number."""
    names = class_names or [f"class {i:03d}" for i in range(max(labels) + 1)]
    pixels = np.zeros((1, 1, 3), dtype=np.uint8)
    images = ImageSet([str(i) for i in range(len(labels))], [pixels] * len(labels), np.array(labels), names)
    return Source(images, None if split is None else np.array(split, dtype=object))


def classes(images: ImageSet) -> set[str]:
    assert images.labels is not None
    return {images.class_names[label] for label in images.labels}


def parts(data: DataSplits) -> tuple[set[str], set[str], set[str]]:
    return classes(data.train), classes(data.validation), classes(data.test)


def split_list(folder: Path, text: str) -> str:
    (folder / "list.yaml").write_text(text, encoding="utf-8")
    return f"list:{folder / 'list.yaml'}"


ABCDE = source([0, 1, 2, 3, 4] * 2, list("abcde"))


@pytest.mark.parametrize(("rule", "train"), [("first-half", "abc"), ("even-odd", "ace"), ("auto", "abc")])
def test_rules_on_five_classes(rule: str, train: str) -> None:
    data = divide("letters", ABCDE, rule, validation=0)
    assert parts(data) == (set(train), set(), set("abcde") - set(train))
    assert len(data.train) == 6 and len(data.test) == 4
    assert data.protocol["train"] == {"images": 6, "classes": 3}
    assert data.protocol["test"] == {"images": 4, "classes": 2}


def test_auto_takes_the_split_that_the_data_gives() -> None:
    given_split = source([0, 1, 2, 2], list("abc"), ["test", "train", "validation", ""])
    data = divide("letters", given_split)
    assert parts(data) == ({"b"}, {"c"}, {"a"})
    assert data.protocol["split"] == "given" and len(data.validation) == 1


@given(
    labels=st.lists(st.integers(0, 30), min_size=1, max_size=80),
    rule=st.sampled_from(["auto", "first-half", "even-odd", "list"]),
    validation=st.floats(0, 1, exclude_max=True),
)
def test_no_class_is_on_two_sides(tmp_path_factory, labels: list[int], rule: str, validation: float) -> None:
    numbers = sorted(set(labels))
    data = source([numbers.index(label) for label in labels])
    if rule == "list":
        folder = tmp_path_factory.mktemp("list")
        names = [str(name) for name in data.images.class_names]
        rule = split_list(folder, f"train: {names[1:]}\ntest: {names[:1]}\n")
    if len(numbers) < 2:
        with pytest.raises(DataError, match="1 class; a class-disjoint split needs at least 2"):
            divide("numbers", data, rule, validation)
        return
    result = divide("numbers", data, rule, validation)
    train, held, test = parts(result)
    assert train and test and not (train & test or train & held or held & test)
    assert train | held | test == set(data.images.class_names)
    # every image of a class is on the side of its class
    ids = [name for part in (result.train, result.validation, result.test) for name in part.ids]
    assert sorted(ids) == sorted(data.images.ids)


@given(count=st.integers(2, 60), fraction=st.floats(0, 1, exclude_max=True))
def test_validation_takes_the_fraction_but_leaves_classes_to_train_on(count: int, fraction: float) -> None:
    data = divide("numbers", source(list(range(2 * count)) * 2), "first-half", fraction)
    train, held, _ = parts(data)
    assert len(train) >= 2 and len(held) != 1  # neither training nor recall makes sense on one class
    if fraction > 0 and 2 <= round(fraction * count) <= count - 2:
        assert len(held) == round(fraction * count)
    if fraction == 0:
        assert not held


def test_validation_classes_are_spread_evenly() -> None:
    data = divide("numbers", source(list(range(20)) * 2), "first-half", 0.2)
    assert parts(data)[1] == {"class 002", "class 007"}


def test_classes_of_one_image_are_not_held_out() -> None:
    labels = [*range(20), 0, 1, 3, 4, 5, 6, 8, 9]  # 2 and 7 have one image
    train, held, _ = parts(divide("numbers", source(labels), "first-half", 0.2))
    assert len(held) == 2 and {"class 002", "class 007"} <= train
    assert not parts(divide("numbers", source(list(range(20))), "first-half", 0.2))[1]


def test_a_single_class_is_not_held_out() -> None:
    data = divide("numbers", source([0, *range(9)]), "all-train", 0.2)  # one class of two images, eight of one
    assert (len(data.train), len(data.validation)) == (10, 0)


def test_no_validation_classes_are_held_out_where_the_data_names_its_own() -> None:
    labels = [0, 1, 2, 3, 4, 5, 6, 7, 8]
    data = divide("numbers", source(labels, split=["train"] * 7 + ["validation", "test"]), "given", 0.5)
    assert [len(part) for part in parts(data)] == [7, 1, 1]


def test_a_given_split_that_shares_a_class_is_refused() -> None:
    shared = source([0, 1, 1, 2], ["ant", "bee", "cat"], ["train", "train", "test", "test"])
    with pytest.raises(DataError, match=r"1 classes, 'bee' among them, are in both train and test.*even-odd"):
        divide("animals", shared)
    validation = source([0, 1, 1, 2], ["ant", "bee", "cat"], ["train", "validation", "test", "test"])
    with pytest.raises(DataError, match="'bee'"):
        divide("animals", validation)


def test_unlabelled_images_train_unless_the_data_says_otherwise() -> None:
    images = source([0, 1, 2]).images.without_labels()
    data = divide("photographs", Source(images))
    assert (len(data.train), len(data.validation), len(data.test)) == (3, 0, 0)
    data = divide("photographs", Source(images, np.array(["train", "test", "test"], dtype=object)))
    assert (len(data.train), len(data.validation), len(data.test)) == (1, 0, 2)
    with pytest.raises(OptionError, match=r"even-odd.*no labels"):
        divide("photographs", Source(images), "even-odd")


def test_query_and_gallery_roles_go_with_their_images() -> None:
    plain = source([0, 1, 2, 2], list("abc"))
    roles = np.array(["both", "both", "query", "gallery"], dtype=object)
    images = ImageSet(plain.images.ids, plain.images.sources, plain.images.labels, plain.images.class_names, roles)
    test = divide("letters", Source(images), "first-half", 0).test
    assert test.roles is not None and test.roles.tolist() == ["query", "gallery"]
    assert divide("letters", plain, "first-half", 0).test.roles is None  # all against all others


def test_a_list_names_classes_and_patterns(tmp_path: Path) -> None:
    data = source(list(range(6)), ["ant", "bee", "cat/a", "cat/b", "dog [1]", "7"])
    rule = split_list(tmp_path, "train: [ant, 'cat/*']\nvalidation: [bee]\ntest: ['dog [1]', 7]\n")
    assert parts(divide("animals", data, rule)) == ({"ant", "cat/a", "cat/b"}, {"bee"}, {"dog [1]", "7"})
    rule = split_list(tmp_path, "train: [ant]\ntest: [bee]\n")
    assert parts(divide("animals", data, rule)) == ({"ant"}, set(), {"bee"})  # others are not used


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("train: [ant]", "must have the keys train and test"),
        ("train: [ant]\ntest: [bee]\nvals: [cat]", "must have the keys train and test"),
        ("- ant", "must have the keys train and test"),
        ("train: ant\ntest: [bee]", "train must be a list"),
        ("train: [[ant]]\ntest: [bee]", "train must be a list"),
        ("train: [ant, bees]\ntest: [cat]", "'bees' matches no class. Did you mean bee"),
        ("train: ['b*']\ntest: [bee, cat]", "class 'bee' is in train and test"),
        ("train: [ant", "not valid YAML"),
        ("train: " + "[" * 5000, "not valid YAML .it is nested too deeply"),
    ],
)
def test_a_wrong_list_is_an_error_that_names_it(tmp_path: Path, text: str, message: str) -> None:
    rule = split_list(tmp_path, text)
    with pytest.raises(DataError, match=rf"list\.yaml.*{message}"):
        divide("animals", source([0, 1, 2], ["ant", "bee", "cat"]), rule)


def test_a_missing_list_is_an_error_that_names_it(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"none\.yaml cannot be read"):
        divide("animals", ABCDE, f"list:{tmp_path / 'none.yaml'}")


@pytest.mark.parametrize(
    ("rule", "validation", "message"),
    [
        ("even-od", 0.2, "Unknown split 'even-od'.* Did you mean even-odd"),
        ("given", 0.2, "letters has no split of its own"),
        ("even-odd", 1.0, r"validation is 1\.0"),
        ("even-odd", -0.1, r"validation is -0\.1"),
    ],
)
def test_wrong_options(rule: str, validation: float, message: str) -> None:
    with pytest.raises(OptionError, match=message):
        divide("letters", ABCDE, rule, validation)


def test_a_split_without_images_is_an_error() -> None:
    with pytest.raises(DataError, match="no images left"):
        divide("letters", source([0, 1], split=["validation", ""]))


def unlabelled(count: int, split: list[str] | None = None, labels: bool = True) -> Source:
    pixels = np.zeros((1, 1, 3), dtype=np.uint8)
    continuous = VectorLabels(np.arange(float(count))) if labels else None
    images = ImageSet([str(i) for i in range(count)], [pixels] * count, continuous=continuous)
    return Source(images, None if split is None else np.array(split, dtype=object))


def test_without_classes_random_images_are_held_out_to_measure_continuous_labels_on() -> None:
    given = unlabelled(50, ["train"] * 40 + ["test"] * 10)
    data = divide("a", given, validation=0.25)
    held = sorted(map(int, data.validation.ids))
    assert len(held) == 10 and len(set(held) | set(map(int, data.train.ids))) == 40 == len(held) + len(data.train)
    assert max(held) < 40 and len(set(np.diff(held))) > 2  # of the training images, not at even steps
    assert list(divide("b", given, validation=0.25).validation.ids) == list(data.validation.ids)
    assert data.protocol["label_distance"] == "euclidean distance of 1 number"
    # The same ones where the labels are still to come; none where there are not to be any.
    bare = unlabelled(50, ["train"] * 40 + ["test"] * 10, labels=False)
    assert list(divide("a", bare, validation=0.25, continuous=True).validation.ids) == list(data.validation.ids)
    assert len(divide("a", bare, validation=0.25).validation) == 0


def test_images_held_out_are_enough_to_rank_or_none() -> None:
    for count, fraction, expected in (
        (8, 0.2, 0),
        (9, 0.01, 3),
        (20, 0.9, 17),
        (30, 0.2, 6),
        (30, 0.0, 0),
        (2, 0.5, 0),
    ):
        assert len(divide("a", unlabelled(count), validation=fraction).validation) == expected
    named = divide("a", unlabelled(20, ["train"] * 15 + ["validation"] * 5), validation=0.4)
    assert list(named.validation.ids) == ["15", "16", "17", "18", "19"]


def test_classes_are_held_out_where_there_are_continuous_labels_too() -> None:
    images = replace(ABCDE.images, continuous=VectorLabels(np.arange(float(len(ABCDE.images)))))
    both = divide("a", Source(images, ABCDE.split), "all-train", 0.4)
    assert parts(both) == parts(divide("a", ABCDE, "all-train", 0.4)) and len(both.validation)


def test_unknown_kinds_and_missing_paths() -> None:
    with pytest.raises(DataError, match=r"Unknown kind of data 'foldr'.*Did you mean folder"):
        load_data("foldr:photos")
    with pytest.raises(DataError, match="write sop:PATH"):
        load_data("sop")


def test_a_ready_split_passes_through() -> None:
    data = divide("letters", ABCDE)
    assert load_data(data) is data


def test_a_reader_is_added_by_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(READERS, "letters", f"{__name__}:read_letters")
    assert parts(load_data("letters:anywhere", validation=0)) == (set("abc"), set(), set("de"))


def read_letters(path: str) -> Source:
    assert path == "anywhere"
    return ABCDE


@pytest.mark.skipif(not SHARED.is_dir(), reason="needs the data in ../shared")
def test_the_omniglot_protocol() -> None:
    data = load_data(f"folder:{SHARED / 'omniglot'}", f"list:{REPOSITORY / 'configs/splits/omniglot.yaml'}")
    train, held, test = parts(data)
    assert len(train | held) == 136 and len(test) == 106
    assert {name.split("/")[0] for name in train | held} == {"images_background_small1"}
    assert {name.split("/")[1] for name in test} == {"Japanese_(katakana)", "Sanskrit", "Tagalog"}
    assert len(data.train) + len(data.validation) == 136 * 20 and len(data.test) == 2120
    assert data.test.pixels(0).shape == (105, 105, 3)


@pytest.mark.skipif(not SHARED.is_dir(), reason="needs the data in ../shared")
def test_the_grocery_protocol() -> None:
    data = load_data(f"grocery:{SHARED / 'grocery-store-160px.zip'}", "even-odd")
    train, held, test = parts(data)
    assert len(data.train) + len(data.validation) + len(data.test) == 5421
    assert len(train | held) == 41 and len(test) == 40 and len(data.test) == 2640
    assert "Golden-Delicious" in train | held and "Granny-Smith" in test  # fine ids 0 and 1
    assert min(data.test.pixels(0).shape[:2]) == 160


@pytest.mark.parametrize(("rule", "sizes"), [("all-train", (8, 0)), ("all-test", (0, 8))])
def test_everything_on_one_side(rule: str, sizes: tuple[int, int]) -> None:
    labels = np.arange(8, dtype=np.int64) // 2
    images = ImageSet([str(i) for i in range(8)], [np.zeros((2, 2, 3), np.uint8)] * 8, labels, list("abcd"))
    splits = divide("x", Source(images), rule, validation=0.0)
    assert (len(splits.train), len(splits.test)) == sizes
