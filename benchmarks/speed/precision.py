"""What bfloat16 changes in a teacher: its recall on photographs that it was not trained on, and its time."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from zoo.data import load_images
from zoo.models.folder import load_model
from zoo.models.making import create_model
from zoo.models.network import preprocessing_of
from zoo.models.preprocessing import Preprocess
from zoo.retrieval.measures import measure

BATCH, WARM = 50, 2
RESAMPLES = 2000


def measure_precision(teachers: Sequence[str], photos: str, count: int) -> list[dict[str, Any]]:
    """Return a row for each teacher: milliseconds of one thread an image in both precisions, and what recall loses.

    Every batch goes through the network in float32 and in bfloat16, one right after the other.

    Args:
        teachers: model folders, or ARCH=FILE for pretrained weights at 128 pixels, compared without their head.
        photos: labelled images, as ``load_images`` takes them.
        count: how many of them, evenly spaced.
    """
    torch.set_num_threads(1)
    images = load_images(photos, labelled=True)
    images = images.subset(np.unique(np.linspace(0, len(images) - 1, min(count, len(images))).astype(int)))
    rows = []
    for name in teachers:
        arch, _, file = name.partition("=")
        network = create_model(arch, 64, file, None, 128) if file else load_model(name)
        if file:
            network.reset_classifier(0)
        network = network.eval().to(memory_format=torch.channels_last)
        prepare = Preprocess(preprocessing_of(network))
        vectors: dict[bool, list[np.ndarray]] = {False: [], True: []}
        seconds: dict[bool, list[float]] = {False: [], True: []}
        with torch.inference_mode():
            for first in range(0, len(images), BATCH):
                shown = range(first, min(first + BATCH, len(images)))
                batch = torch.cat([prepare(torch.from_numpy(images.pixels(row))[None]) for row in shown])
                batch = batch.contiguous(memory_format=torch.channels_last)
                for reduced in (False, True):
                    began = time.thread_time()
                    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=reduced):
                        found = network(batch).float()
                    seconds[reduced].append((time.thread_time() - began) / len(batch))
                    vectors[reduced].append(found.flatten(1).numpy())
        results = [measure(np.concatenate(vectors[reduced]), images) for reduced in (False, True)]
        times = [np.array(seconds[reduced][WARM:]) for reduced in (False, True)]
        rows.append(
            {
                "teacher": arch.rstrip("/").split("/")[-1],
                "images": len(images),
                "fp32_ms": round(1e3 * float(np.median(times[0])), 2),
                "bf16_ms": round(1e3 * float(np.median(times[1])), 2),
                "speedup": round(float(np.median(times[0] / times[1])), 2),
                "recall": difference(*(result.recall[1] for result in results)),
                "map_at_r": difference(*(result.average_precision for result in results)),
            }
        )
    return rows


def difference(exact: np.ndarray, reduced: np.ndarray) -> list[float]:
    """Return both means, their difference and its 95 % interval by a paired bootstrap over queries, in percent."""
    of_each = 100 * (np.asarray(reduced, float) - np.asarray(exact, float))
    draw = np.random.default_rng(0)
    means = [of_each[draw.integers(0, len(of_each), len(of_each))].mean() for _ in range(RESAMPLES)]
    found = [100 * np.mean(exact), 100 * np.mean(reduced), of_each.mean(), *np.percentile(means, [2.5, 97.5])]
    return [round(float(each), 3) for each in found]
