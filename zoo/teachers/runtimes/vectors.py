"""Check a runtime's output: a finite vector of the same size for each image."""

from __future__ import annotations

from typing import Any

import numpy as np

from zoo.errors import ModelError, first_line


def require_vectors(found: Any, count: int, dim: int | None, name: str) -> np.ndarray:
    """Check and return a runtime's output for images, as float32 ``(N, D)``.

    Args:
        found: the output: an array or lists of numbers.
        count: number of images.
        dim: dimensions of earlier outputs, or None.
        name: name of the model, for messages.

    Raises:
        ModelError: there are more or fewer vectors than images, they differ in size, or they are not finite.
    """
    try:
        rows = np.asarray(found, dtype=np.float32)
    except (TypeError, ValueError, OverflowError) as error:
        raise ModelError(f"{name} must give a vector for each image ({first_line(error)}).") from error
    if rows.ndim != 2 or len(rows) != count or rows.shape[1] == 0:
        raise ModelError(f"{name} must give ({count}, D) for {count} images, found shape {rows.shape}.")
    if dim is not None and rows.shape[1] != dim:
        raise ModelError(f"{name} gave vectors of {rows.shape[1]} dimensions, and of {dim} before.")
    if not np.isfinite(rows).all():
        row = int(np.flatnonzero(~np.isfinite(rows).all(axis=1))[0])
        raise ModelError(f"{name} gave a vector that is not finite for image {row + 1} of {count}.")
    return rows
