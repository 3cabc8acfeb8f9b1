"""Interleaved timing of several calls in one run."""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import TypeVar

import numpy as np

from export.benchmark.foreign_file import ForeignFile
from export.runtime import Embedder
from zoo.progress import progress
from zoo.versions import available_cores

Name = TypeVar("Name", bound=Hashable)


def timed_in_turn(
    calls: Mapping[Name, Callable[[int], object]], runs: int, warm_up: int = 5
) -> dict[Name, list[float]]:
    """Time all calls in turn, so that other load on the machine affects all of them alike.

    Args:
        calls: called with the number of the run; negative numbers are warm-up runs.
        runs: timed runs of each call.
        warm_up: untimed runs of each call before those.

    Returns:
        For each call, the ``runs`` times in milliseconds.
    """
    taken: dict[Name, list[float]] = {name: [] for name in calls}
    for run in progress(range(-warm_up, runs), "timing"):
        for name, call in calls.items():
            start = time.perf_counter()
            call(run)
            if run >= 0:
                taken[name].append(1000 * (time.perf_counter() - start))
    return taken


def median_and_p95(values: Sequence[float]) -> dict[str, float]:
    """Return ``{"median", "p95"}`` of times, rounded to three decimals."""
    median, p95 = np.quantile(values, [0.5, 0.95])
    return {"median": round(float(median), 3), "p95": round(float(p95), 3)}


def thread_counts() -> list[int]:
    """Return 1, 2 and the number of cores that this process may use, without repetition."""
    cores = available_cores()
    return sorted({1, min(2, cores), cores})


def sample_image(embedder: Embedder | ForeignFile, side: int) -> np.ndarray:
    """Return a random image in the form that the file takes: uint8 ``(side, side, 3)``, or float32 ``(3, H, W)``."""
    generator = np.random.default_rng(0)
    if embedder.input == "pixels":
        return generator.integers(0, 256, (side, side, 3), dtype=np.uint8)
    return generator.standard_normal((3, *embedder.input_size), dtype=np.float32)


def embedding_of(embedder: Embedder | ForeignFile, image: np.ndarray, batch: int) -> Callable[[int], object]:
    """Return a function that embeds ``batch`` copies of one image in one inference."""
    images = np.stack([image] * batch)
    return lambda run: embedder(images, batch_size=batch)
