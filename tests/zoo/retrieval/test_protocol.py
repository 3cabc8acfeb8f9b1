"""Images on which retrieval cannot be measured."""

from __future__ import annotations

import numpy as np
import pytest

from zoo.data.image_set import ImageSet
from zoo.errors import DataError
from zoo.retrieval.protocol import require_measurable


@pytest.mark.parametrize(
    ("labels", "roles", "message"),
    [
        ([0, 0, 0], None, r"fewer than two classes \('a' only\)"),
        ([0, 1, 2], None, "No test query has another image of its class"),
        ([0, 0, 1], ["query", "query", "gallery"], r"fewer than two classes \('b' only\)"),
        ([0, 1, 2], ["query", "gallery", "gallery"], "No test query has another image of its class"),
        ([0, 0, 1], None, None),
        ([0, 0, 1], ["query", "gallery", "gallery"], None),
    ],
)
def test_images_that_say_nothing_are_refused(labels: list[int], roles: list[str] | None, message: str | None) -> None:
    images = ImageSet(
        list("xyz"),
        [np.zeros((1, 1, 3), dtype=np.uint8)] * 3,
        np.array(labels),
        list("abc"),
        None if roles is None else np.array(roles, dtype=object),
    )
    if message is None:
        require_measurable(images, "test")
        require_measurable(images.without_labels(), "test")
        return
    with pytest.raises(DataError, match=message):
        require_measurable(images, "test")
