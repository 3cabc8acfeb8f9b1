"""Facts meant for others name files without their path on this machine."""

from __future__ import annotations

import pytest

from zoo.models.facts import names_only, told_apart


@pytest.mark.parametrize(
    ("place", "name"),
    [
        ("/home/me/w.safetensors", "w.safetensors"),
        ("folder:/home/me/photos/", "folder:photos"),
        ("open_clip:/home/me/clip", "open_clip:clip"),
        ("open_clip:RN50//home/me/w.safetensors", "open_clip:RN50/w.safetensors"),
        ("hf:facebook/dinov2-small", "hf:facebook/dinov2-small"),
        ("runs/student", "runs/student"),
    ],
)
def test_absolute_paths_become_names(place: str, name: str) -> None:
    assert names_only(place) == name
    assert told_apart([place]) == {place: name}


def test_places_of_one_name_are_told_apart() -> None:
    one, two, third = "/home/me/one/model.onnx", "/home/me/two/model.onnx", "hf:/x/clip#mean=0.4/0.5/0.6"
    assert list(told_apart([one, two, third, one]).values()) == [
        "one/model.onnx",
        "two/model.onnx",
        "hf:clip#mean=0.4/0.5/0.6",
    ]
