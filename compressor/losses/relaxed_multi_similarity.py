"""Relaxed multi-similarity loss.

Kim et al., "Embedding Transfer with Label Relaxation for Improved Metric Learning", CVPR 2021, arXiv:2103.14908.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from compressor.losses.distances import full_precision, relative_distances, squared_distances
from zoo.arguments import require_above
from zoo.losses.directions import unit


class RelaxedMultiSimilarityLoss(nn.Module):
    """Pulls and pushes pairs like the relaxed contrastive loss, the hardest pairs of each anchor most.

    With w_ij and d_ij of the relaxed contrastive loss, and w_ij = 1 for two views of one image:

        L = 1/n sum_i 1/alpha log(1 + sum_{j != i} w_ij exp(alpha d_ij))
                    + 1/beta  log(1 + sum_{j != i} (1 - w_ij) exp(beta (delta - d_ij)))

    Memory is O(N^2).

    Args:
        sigma: width of the kernel of the teacher's similarity, above 0.
        delta: margin, relative to the mean distance.
        alpha: sharpness of the pull, above 0.
        beta: sharpness of the push, above 0.

    Raises:
        OptionError: sigma, alpha or beta is not above 0.
    """

    metric = "euclidean"

    def __init__(self, sigma: float = 1.0, delta: float = 1.0, alpha: float = 1.0, beta: float = 2.0) -> None:
        super().__init__()
        require_above(0, sigma=sigma, alpha=alpha, beta=beta)
        self.sigma = sigma
        self.delta = delta
        self.alpha = alpha
        self.beta = beta

    def forward(self, student: Tensor, teacher: Tensor, image_ids: Tensor | None = None) -> Tensor:
        """Return the loss.

        Args:
            student: ``(N, D)``.
            teacher: ``(N, D')``.
            image_ids: int64 ``(N,)``, equal for two views of one image; or None if all images differ.

        Returns:
            float scalar.
        """
        with torch.autocast(student.device.type, enabled=False):
            student, teacher = full_precision(student, teacher)
            log_similarity = -squared_distances(unit(teacher)) / self.sigma
            if image_ids is not None:
                log_similarity = log_similarity.masked_fill(image_ids[:, None] == image_ids[None, :], 0.0)
            log_dissimilarity = torch.log(-torch.expm1(log_similarity))  # log(1 - w); -inf where w = 1
            distances = relative_distances(student)
            pull = _log_one_plus_sum_exp(log_similarity + self.alpha * distances)
            push = _log_one_plus_sum_exp(log_dissimilarity + self.beta * (self.delta - distances))
            return (pull / self.alpha + push / self.beta).mean()


def _log_one_plus_sum_exp(values: Tensor) -> Tensor:
    """Return log(1 + sum over j != i of exp(values)) for ``(N, N)``, as ``(N,)``."""
    # exp(0) on the diagonal is the 1 in the formula.
    diagonal = torch.eye(len(values), dtype=torch.bool, device=values.device)
    return torch.logsumexp(values.masked_fill(diagonal, 0.0), dim=1)
