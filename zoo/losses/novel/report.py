"""Compare generated embeddings with real ones, in numbers and a picture."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from zoo.files import replacing, write_json
from zoo.losses.novel.energy import energy_distances, spreads

log = logging.getLogger(__name__)

_FEWEST = 4  # images of a class, so that each half has two
_CLASSES, _IMAGES = 100, 30  # the most that are measured; enough for stable means
_SHOWN = 5
_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#222222")


def report_generated(
    embeddings: np.ndarray,
    labels: np.ndarray,
    generate: Callable[[Tensor], Tensor],
    num_classes: int,
    novel_classes: int,
    folder: Path,
) -> None:
    """Write ``generated.json`` and ``generated.png``; see docs/formats.md.

    Measures up to 100 real classes of at least 4 images, with at most 30 images each, and up to 100 novel classes.
    Writes nothing if no class has enough images or an embedding is not finite.

    Args:
        embeddings: embeddings of real images, float ``(N, D)``.
        labels: int64 ``(N,)`` in 0..num_classes-1.
        generate: returns an L2-normalised embedding for each of the labels, int64 ``(M,)``.
        num_classes: number of real classes.
        novel_classes: number of novel classes; their labels follow the real classes'.
        folder: where to write.
    """
    rows = _chosen(labels)
    if not len(rows) or not np.isfinite(embeddings).all():
        log.warning("no class has %d images with finite embeddings; generated ones are not measured", _FEWEST)
        return
    real_labels = torch.from_numpy(labels[rows])
    real = functional.normalize(torch.from_numpy(embeddings[rows]).float(), dim=1)
    generated = generate(real_labels).float().cpu()
    novel_labels = num_classes + _evenly(torch.arange(novel_classes), _CLASSES).repeat_interleave(_IMAGES)
    novel = generate(novel_labels).float().cpu()
    write_json(folder / "generated.json", _measures(real, real_labels, generated, novel, novel_labels, num_classes))
    _draw(real, real_labels, generated, novel, novel_labels, folder / "generated.png")


def _chosen(labels: np.ndarray) -> np.ndarray:
    """Return the rows that are measured."""
    classes, counts = np.unique(labels, return_counts=True)
    chosen = _evenly(classes[counts >= _FEWEST], _CLASSES)
    rows = [np.flatnonzero(labels == label)[:_IMAGES] for label in chosen]
    return np.concatenate([np.empty(0, dtype=np.int64), *rows])


def _evenly(values: Any, count: int) -> Any:
    """Return up to ``count`` of the values, evenly spaced."""
    return values[np.linspace(0, len(values) - 1, min(count, len(values))).round().astype(int)]


def _measures(
    real: Tensor, labels: Tensor, generated: Tensor, novel: Tensor, novel_labels: Tensor, num_classes: int
) -> dict[str, Any]:
    halves = _halves(labels)
    to_real = energy_distances(real, labels, real, labels).fill_diagonal_(torch.inf)
    measures: dict[str, Any] = {
        "images": len(real),
        "classes": len(to_real),
        "novel_classes": len(novel_labels.unique()),
        "energy_distance": {
            "generated_to_real": _mean(energy_distances(generated, labels, real, labels).diagonal()),
            "half_to_other_half": _mean(
                energy_distances(real[halves], labels[halves], real[~halves], labels[~halves]).diagonal()
            ),
            "real_to_nearest_real": _mean(to_real.amin(dim=1)) if len(to_real) > 1 else None,
            "novel_to_nearest_real": None,
        },
        "spread": {"real": _mean(spreads(real, labels)), "generated": _mean(spreads(generated, labels)), "novel": None},
    }
    if len(novel):
        nearest = energy_distances(novel, novel_labels, real, labels).amin(dim=1)
        measures["energy_distance"]["novel_to_nearest_real"] = _mean(nearest)
        measures["spread"]["novel"] = _mean(spreads(novel, novel_labels))
    return measures


def _halves(labels: Tensor) -> Tensor:
    """Return a mask that selects every other row of each class."""
    same = labels[:, None] == labels[None, :]
    return same.tril(-1).sum(dim=1) % 2 == 0


def _mean(values: Tensor) -> float:
    return round(float(values.mean()), 6)


def _draw(real: Tensor, labels: Tensor, generated: Tensor, novel: Tensor, novel_labels: Tensor, path: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 5), layout="constrained")
    left, right = figure.subplots(1, 2)

    shown = _evenly(labels.unique(), _SHOWN)
    project = _plane(left, real[torch.isin(labels, shown)])
    for colour, label in zip(_COLOURS, shown, strict=False):
        for points, look in ((real, {"marker": "o"}), (generated, {"marker": "x"})):
            left.scatter(*project(points[labels == label]).T, s=28, color=colour, alpha=0.75, linewidth=1.2, **look)
    left.scatter([], [], s=28, color="#888888", marker="o", label="real")
    left.scatter([], [], s=28, color="#888888", marker="x", linewidth=1.2, label="generated")
    left.set_title(f"{len(shown)} real classes, a colour each")
    left.legend()

    centres = _centres(real, labels)
    project = _plane(right, centres)
    right.scatter(*project(centres).T, s=28, color=_COLOURS[0], alpha=0.75, linewidth=0, label="real")
    right.scatter(
        *project(_centres(generated, labels)).T, s=28, color=_COLOURS[0], marker="x", linewidth=1.2, label="generated"
    )
    if len(novel):
        right.scatter(
            *project(_centres(novel, novel_labels)).T, s=28, color=_COLOURS[1], marker="^", alpha=0.75, label="novel"
        )
    right.set_title(f"Means of {len(centres)} real and {len(novel_labels.unique())} novel classes")
    right.legend()
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=120)


def _centres(embeddings: Tensor, labels: Tensor) -> Tensor:
    return torch.stack([embeddings[labels == label].mean(dim=0) for label in labels.unique()])


def _plane(axes: Any, points: Tensor) -> Callable[[Tensor], Tensor]:
    """Return the projection on the first two principal directions of some points, and label the axes with them."""
    mean = points.mean(dim=0)
    _, scales, directions = torch.linalg.svd(points - mean, full_matrices=False)
    # With one class or dimension there are fewer than two directions.
    directions, variances = functional.pad(directions, (0, 0, 0, 2))[:2], functional.pad(scales.square(), (0, 2))
    first, second = (100 * variances / variances.sum().clamp(min=1e-12))[:2].tolist()
    axes.set_xlabel(f"first principal direction, {first:.0f} % of the variance")
    axes.set_ylabel(f"second principal direction, {second:.0f} % of the variance")
    return lambda embeddings: (embeddings - mean) @ directions.T
