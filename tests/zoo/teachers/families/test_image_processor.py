"""Configurations of image processors that others wrote, or that are damaged."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from zoo.errors import ModelError
from zoo.teachers.families.image_processor import FILE, preprocessing_beside, preprocessing_from

CROPPED: dict[str, Any] = {"size": {"shortest_edge": 256}, "crop_size": {"height": 224, "width": 224}}


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"size": {"shortest_edge": 10**400}}, "Images resized to .* pixels .* have no counterpart; sizes are 8 to"),
        ({"size": {"shortest_edge": float("inf")}}, "cannot convert float infinity"),
        ({"crop_size": 0}, "cropped to 0 have no counterpart"),
        ({"crop_size": None, "do_center_crop": False, "crop_pct": 0.0}, "crop_pct is 0.0; it must be above 0"),
        ({"crop_size": None, "do_center_crop": False, "crop_pct": -1}, "crop_pct is -1; it must be above 0"),
        ({"crop_size": None, "do_center_crop": False, "crop_pct": 1e-308}, "cannot convert float infinity"),
        ({"resample": []}, "unhashable"),
        ({"size": [256]}, "it must be a number or an object"),
    ],
)
def test_values_that_cannot_work_are_refused(changed: dict[str, Any], message: str, tmp_path: Path) -> None:
    (tmp_path / FILE).write_text(json.dumps(CROPPED))
    found = preprocessing_beside([tmp_path])
    assert found is not None and (found.resized_size, found.input_size) == ((256, 256), (224, 224))
    (tmp_path / FILE).write_text(json.dumps(CROPPED | changed))
    with pytest.raises(ModelError, match=rf"{FILE} cannot be followed \(.*{message}"):
        preprocessing_beside([tmp_path])


@pytest.mark.parametrize("edge", [224, 384])
def test_a_share_may_be_whole(edge: int) -> None:
    said = {"size": {"shortest_edge": edge}, "crop_pct": 1, "resample": 3}
    found = preprocessing_from(said)
    assert found == preprocessing_from(said | {"crop_pct": 1.0})
    assert (found.resized_size, found.input_size) == ((edge, edge), (edge, edge))
