"""A Python function of one image's pixels as a model."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any

import numpy as np

from zoo.errors import ModelError, first_line, require_known
from zoo.models.facts import COSINE, EUCLIDEAN
from zoo.teachers.base import PixelsTeacher
from zoo.teachers.runtimes.vectors import require_vectors


class FunctionTeacher(PixelsTeacher):
    """A function that takes the pixels of an image and returns its vector, as a shipped application does.

    ``validate`` measures it as a model, and gates apply to it. When it is timed, its number of threads cannot be set.
    It is first run on a fixed image, and its digest is computed from the result.

    Args:
        embed: takes uint8 ``(H, W, 3)``, RGB, of any size; returns ``(D,)`` numbers.
        name: name for reports.
        metric: how its vectors are compared, "cosine" or "euclidean".

    Raises:
        ModelError: it fails on the fixed image, or does not return a vector.
    """

    runtime = "function"
    ships = True

    def __init__(self, embed: Callable[[np.ndarray], Any], name: str = "function", metric: str = COSINE) -> None:
        require_known("metric", metric, (COSINE, EUCLIDEAN))
        self._embed = embed
        self.name, self.metric = name, metric
        shown = np.random.default_rng(0).integers(0, 256, (96, 128, 3), dtype=np.uint8)
        (vector,) = self.embed_pixels(shown)
        rounded = np.round(1000 * vector / max(float(np.abs(vector).max()), 1e-12)).astype(int).tolist()
        self.digest = hashlib.sha256(f"{metric} {rounded}".encode()).hexdigest()[:16]

    def embed_pixels(self, pixels: np.ndarray) -> np.ndarray:
        try:
            found = np.asarray(self._embed(pixels), dtype=np.float32)
        except Exception as error:  # foreign functions may raise anything
            raise ModelError(
                f"{self.name} failed on an image of shape {pixels.shape} ({first_line(error)})."
            ) from error
        rows = require_vectors(found[None], 1, self.dim, self.name)
        self.dim = rows.shape[1]
        return rows

    def with_threads(self, threads: int) -> FunctionTeacher:
        return self
