"""Relaxed contrastive loss.

Kim et al., "Embedding Transfer with Label Relaxation for Improved Metric Learning", CVPR 2021, arXiv:2103.14908.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from compressor.losses.distances import full_precision, pairwise_distances, relative_distances
from zoo.arguments import require_above
from zoo.losses.directions import unit


class RelaxedContrastiveLoss(nn.Module):
    """Pulls pairs together and pushes them apart as far as the teacher holds them similar.

    With s the L2-normalised embeddings of the teacher, t those of the student, not normalised:

        w_ij = exp(-||s_i - s_j||^2 / sigma)
        d_ij = ||t_i - t_j|| / mu_i,  mu_i = 1/n sum_k ||t_i - t_k||
        L = 1/n sum_{i != j} w_ij d_ij^2 + (1 - w_ij) max(0, delta - d_ij)^2

    Memory is O(N^2).

    Args:
        sigma: width of the kernel of the teacher's similarity, above 0.
        delta: margin, relative to the mean distance.

    Raises:
        OptionError: sigma is not above 0.
    """

    metric = "euclidean"

    def __init__(self, sigma: float = 1.0, delta: float = 1.0) -> None:
        super().__init__()
        require_above(0, sigma=sigma)
        self.sigma = sigma
        self.delta = delta

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
            similarity = torch.exp(-pairwise_distances(unit(teacher)).square() / self.sigma)
            distances = relative_distances(student)
            pull = similarity * distances.square()
            push = (1 - similarity) * (self.delta - distances).clamp(min=0).square()
            # The diagonal adds nothing: its similarity is 1 and its distance 0.
            return (pull + push).sum() / len(student)
