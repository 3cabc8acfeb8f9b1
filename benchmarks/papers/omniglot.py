"""The protocol on Omniglot that several tables share."""

from __future__ import annotations

from pathlib import Path

import numpy as np

SPLIT = f"list:{Path(__file__).resolve().parents[2] / 'configs' / 'splits' / 'omniglot.yaml'}"
"""Characters of the first small background set train, those that only the second has test."""


def every_fourth(labels: np.ndarray) -> np.ndarray:
    """Return which images are the fourth, eighth ... of their class, bool ``(N,)``: a quarter to judge by.

    Args:
        labels: int ``(N,)``.
    """
    chosen = np.zeros(len(labels), dtype=bool)
    for label in np.unique(labels):
        chosen[np.flatnonzero(labels == label)[3::4]] = True
    return chosen
