"""Probabilistic knowledge transfer: Passalis and Tefas, ECCV 2018, arXiv:1803.10837."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from compressor.losses.distances import full_precision
from zoo.arguments import require_above
from zoo.losses.directions import unit

_EPSILON = 1e-7


class PKTLoss(nn.Module):
    """Matches the teacher's probability of each image being a neighbour of each other image.

    With the cosine kernel k(i, j) = (cos(i, j) + 1) / 2 and the conditional probability p(j | i) = k(i, j) /
    sum_j k(i, j), the image itself included, in the space of the teacher (p) and the student (q):

        L = weight * 1/n^2 sum_{i, j} p(j | i) log(p(j | i) / q(j | i))

    Inside the logarithm 1e-7 is added to p and q, which are 0 for opposite embeddings. The weight is ours: with weight
    1, gradients are so small that AdamW's epsilon of 1e-8 is no longer negligible.

    Memory is O(N^2).

    Args:
        weight: weight of the loss, above 0.

    Raises:
        OptionError: the weight is not above 0.
    """

    metric = "cosine"

    def __init__(self, weight: float = 1.0) -> None:
        super().__init__()
        require_above(0, weight=weight)
        self.weight = weight

    def forward(self, student: Tensor, teacher: Tensor, image_ids: Tensor | None = None) -> Tensor:
        """Return the loss.

        Args:
            student: ``(N, D)``.
            teacher: ``(N, D')``.
            image_ids: ignored.

        Returns:
            float scalar.
        """
        with torch.autocast(student.device.type, enabled=False):
            student, teacher = full_precision(student, teacher)
            p, q = _probabilities(teacher), _probabilities(student)
            return self.weight * (p * torch.log((p + _EPSILON) / (q + _EPSILON))).mean()


def _probabilities(embeddings: Tensor) -> Tensor:
    """Return the conditional probabilities p(j | i), ``(N, N)``; rows sum to 1."""
    directions = unit(embeddings)
    kernel = ((directions @ directions.T + 1) / 2).clamp(min=0)
    return kernel / kernel.sum(dim=1, keepdim=True)
