"""Invalid options are reported before anything is computed."""

from __future__ import annotations

import numpy as np
import pytest

from zoo.arguments import require_neighbours, require_valid
from zoo.errors import OptionError


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("bootstrap", 10**8, "bootstrap is 100000000; it must be at most 100000"),
        ("image_size", 10**9, "at most 4096"),
        ("workers", 10**6, "at most 1024"),
        ("views", 10**400, "too large"),
        ("epochs", "3", "epochs is '3'; it must be a number"),
        ("epochs", 2.5, "epochs is 2.5; it must be a whole number"),
        ("epochs", True, "epochs is True; it must be a number"),
        ("lr", [0.1], r"lr is \[0.1\]; it must be a number"),
        ("lr", float("nan"), "lr is nan; it must be above 0"),
        ("min_crop", "x", "min_crop is 'x'; it must be a number"),
        ("seed", 2**32, "seed is 4294967296; it must be at most 4294967295"),
        ("max_drop", {}, r"max_drop is \{\}; it must be a number"),
    ],
)
def test_values_that_cannot_work(name: str, value: object, message: str) -> None:
    with pytest.raises(OptionError, match=message):
        require_valid({name: value})


def test_values_that_can() -> None:
    require_valid({"epochs": np.int64(3), "lr": 1, "bootstrap": 10**5, "gradient_clip": None, "other": "anything"})
    require_neighbours((1, 10, 1000))
    require_neighbours([1])


@pytest.mark.parametrize(
    ("ks", "message"),
    [
        ((1, 10**9), "at most 1000"),
        ((2, 4), "Recall@1"),
        ((1, 0), "at least 1"),
        ((), "Recall@1"),
        ((1, 2.0), "whole number"),
        (5, "Recall@1"),
        ("12", "whole number"),
        ([1, True], "whole number"),
    ],
)
def test_neighbours_that_cannot_be(ks: object, message: str) -> None:
    with pytest.raises(OptionError, match=message):
        require_neighbours(ks)  # type: ignore[arg-type]
