"""Train small teachers, and a student of one of them, on a given number of processes; run by test_ranks.

Lightning starts the other processes by running this script again.
"""

from __future__ import annotations

import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

import zoo.training.learner
from compressor import distill
from zoo import load_data, train
from zoo.data.continuous import VectorLabels
from zoo.data.image_set import ImageSet
from zoo.training.learner import embed


def momentum_steps(groups: list[dict[str, Any]], fused: bool) -> torch.optim.Optimizer:
    """Return SGD, never fused: torch's fused one fails where parameters join after the warm-up."""
    return torch.optim.SGD(groups, momentum=0.9)


def counted(file: Path) -> Any:
    """Return ``embed``, as the learner calls it, that also notes in a file how many images this process embeds."""

    def embed_and_note(model: torch.nn.Module, images: ImageSet, **options: Any) -> np.ndarray:
        with file.open("a") as opened:
            opened.write(f"{len(images)}\n")
        return embed(model, images, **options)

    return embed_and_note


def main(data: str, out: Path, devices: int) -> None:
    """Make ``out/teacher``, students of it, and a teacher with each of three other losses."""
    zoo.training.learner.embed = counted(out.with_suffix(f".rank{os.environ.get('LOCAL_RANK', 0)}"))
    # Adam would hide a constant factor in the gradients. So would a limit to their norm.
    torch.optim.AdamW = momentum_steps  # type: ignore[assignment,misc]
    options = {
        "pool": None,
        "image_size": 32,
        "crop_pct": 1.0,
        "batch_size": 13,  # which two processes cannot share evenly
        "lr": 1e-2,
        "gradient_clip": None,
        "validation": 0.34,
        "workers": 0,
        "devices": devices,
    }
    # Of the architectures without BatchNorm, which cannot be synchronised on CPUs.
    teacher = train(data, out / "teacher", arch="test_vit", dim=8, epochs=2, warmup_epochs=1, **options)  # type: ignore[arg-type]
    novel = {"loss": "novel_classes", "loss_options": {"warmup_epochs": 1}}
    train(data, out / "novel_classes", arch="test_vit", dim=8, epochs=2, **novel, **options)  # type: ignore[arg-type]
    for loss in ("relaxed_contrastive", "fitnet", "crd"):
        distill(teacher, data, out / loss, arch="test_vit", dim=4, epochs=1, loss=loss, **options)  # type: ignore[arg-type]
    # On two numbers for each image, with a loss that shows every difference in its gradient.
    splits = load_data(data, validation=0.34)
    numbers = np.random.default_rng(0).normal(size=(len(splits.train), 2))
    splits = replace(splits, train=replace(splits.train, continuous=VectorLabels(numbers)))
    for loss in ("log_ratio", "binary_triplet"):
        train(splits, out / loss, arch="test_vit", dim=8, loss=loss, epochs=2, **options)  # type: ignore[arg-type]


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]))
