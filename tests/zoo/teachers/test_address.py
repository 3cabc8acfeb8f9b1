"""The options after the # of a teacher's address are understood, or refused with a list of known ones."""

from __future__ import annotations

import re

import pytest

from zoo.errors import OptionError
from zoo.teachers.address import FAMILIES, Options, parse_address

TEACHERS = [*(f"{family}:NAME" for family in FAMILIES), "theirs.onnx", "folder", "ready.npz"]
OF_NETWORKS = "mean, std, size, resize, crop_pct, interpolation, metric, batch_size"


@pytest.mark.parametrize("teacher", TEACHERS)
@pytest.mark.parametrize(
    ("fragment", "message"),
    [
        ("", "nothing follows #"),
        (" ", "nothing follows #"),
        (",metric=cosine", "nothing stands beside a comma"),
        ("metric=cosine,", "nothing stands beside a comma"),
        (":cls", "':cls' names no output. Write the output before the colon"),
        ("tokens:", "Unknown pooling ''; known are cls and mean"),
        ("tokens:max", "Unknown pooling 'max'"),
        ("=1", "'=1' is no option of such a teacher"),
        ("metrics=cosine", "Did you mean metric?"),
        ("metric=cosine,cls", "'cls' is no option of such a teacher"),
        ("metric=cosine,metric=cosine", "metric is given twice"),
        ("metric=", "metric is ''; it must be cosine or euclidean"),
        ("metric=Cosine", "metric is 'Cosine'; it must be cosine or euclidean"),
    ],
)
def test_what_no_teacher_understands_is_refused(teacher: str, fragment: str, message: str) -> None:
    with pytest.raises(OptionError, match=re.escape(message)):
        parse_address(f"{teacher}#{fragment}")


@pytest.mark.parametrize("teacher", TEACHERS)
def test_each_teacher_names_the_options_that_it_knows(teacher: str) -> None:
    known = OF_NETWORKS
    if teacher.endswith(".onnx"):
        known = known.replace("metric", "layout, metric")
        assert parse_address(f"{teacher}#layout=nhwc").options == Options(layout="nhwc")
    elif teacher.endswith(".npz"):
        known = "metric"
        with pytest.raises(OptionError, match="'size=8' is no option of such a teacher"):
            parse_address(f"{teacher}#size=8")
    else:
        with pytest.raises(OptionError, match="'layout=nhwc' is no option of such a teacher"):
            parse_address(f"{teacher}#layout=nhwc")
    with pytest.raises(OptionError, match=re.escape(f"may follow as name=value: {known}.")):
        parse_address(f"{teacher}#colour=red")
    assert parse_address(f"{teacher}#metric=euclidean").options == Options(metric="euclidean")


@pytest.mark.parametrize("teacher", [name for name in TEACHERS if not name.endswith(".npz")])
@pytest.mark.parametrize(
    "word", ["mean=", "std=0.1/0.2", "size=1e3", "size=8x", "resize=Squash", "crop_pct=0", "crop_pct=nan"]
)
def test_bad_values_are_refused(teacher: str, word: str) -> None:
    name, _, value = word.partition("=")
    with pytest.raises(OptionError, match=re.escape(f"{teacher}#{word}: {name} is {value!r}; it must be")):
        parse_address(f"{teacher}#{word}")
