"""Time of the losses, forward and backward, compared with the formula written with matrix products."""

from __future__ import annotations

import time
from collections.abc import Callable
from statistics import median
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import normalize

from compressor.losses.darkrank import DarkRankLoss
from compressor.losses.pkt import PKTLoss
from compressor.losses.relaxed_contrastive import RelaxedContrastiveLoss
from compressor.losses.relaxed_multi_similarity import RelaxedMultiSimilarityLoss
from compressor.losses.rkd import RKDLoss

SHAPES = ((180, 512), (1024, 64), (4096, 512))
LOSSES: dict[str, Callable[[], torch.nn.Module]] = {
    "relaxed_contrastive": RelaxedContrastiveLoss,
    "relaxed_multi_similarity": RelaxedMultiSimilarityLoss,
    "rkd, distances alone": lambda: RKDLoss(angle_weight=0),
    "darkrank": DarkRankLoss,
    "pkt": PKTLoss,
}


def measure_losses(repeats: int) -> list[dict[str, Any]]:
    """Return a row for each loss and shape: medians in milliseconds, and the median ratio to the plain formula."""
    rows = []
    for count, dim in SHAPES:
        generator = torch.Generator().manual_seed(0)
        student, teacher = (torch.randn(count, dim, generator=generator) for _ in range(2))
        for name, make in LOSSES.items():
            loss = make()
            pairs = [(seconds(by_products, student, teacher), seconds(loss, student, teacher)) for _ in range(repeats)]
            rows.append(
                {
                    "loss": name,
                    "shape": f"{count} x {dim}",
                    "ms": round(1e3 * median(own for _, own in pairs), 2),
                    "plain_ms": round(1e3 * median(plain for plain, _ in pairs), 2),
                    "ratio": round(median(own / plain for plain, own in pairs), 2),
                }
            )
    return rows


def seconds(loss: Callable[[Tensor, Tensor], Tensor], student: Tensor, teacher: Tensor) -> float:
    """Return the time of a loss and its gradient, in seconds."""
    student = student.clone().requires_grad_()
    began = time.perf_counter()
    loss(student, teacher).backward()
    return time.perf_counter() - began


def by_products(student: Tensor, teacher: Tensor) -> Tensor:
    """Return the relaxed contrastive loss with float32 products: fast, but inaccurate for near pairs."""
    similarity = torch.exp(-_squared(normalize(teacher)))
    distances = (_squared(student) + 1e-12).sqrt()
    distances = distances / distances.mean(dim=1, keepdim=True)
    pull = similarity * distances.square()
    push = (1 - similarity) * (1 - distances).clamp(min=0).square()
    others = 1 - torch.eye(len(student))
    return ((pull + push) * others).sum() / len(student)


def _squared(vectors: Tensor) -> Tensor:
    squares = vectors.square().sum(dim=1)
    return (squares[:, None] + squares - 2 * vectors @ vectors.T).clamp(min=0)
