"""DarkRank, the hard version: Chen et al., AAAI 2018, arXiv:1707.01220."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from compressor.losses.distances import full_precision, pairwise_distances, unit


class DarkRankLoss(nn.Module):
    """Makes the teacher's order of each image's nearest neighbours the likeliest order for the student.

    With the scores S_ij = -alpha ||t_i - t_j||^beta of the L2-normalised student and pi the L images that are nearest
    to i in the L2-normalised space of the teacher, nearest first:

        L = -1/n sum_i log P_i,  P_i = product_{a = 1..L} exp(S_i,pi(a)) / sum_{b = a..L} exp(S_i,pi(b))

    The paper adds a triplet loss on the labels, which is not part of this one.

    Args:
        alpha: scale of the scores.
        beta: contrast of the scores, at least 1.
        permute_length: L, neighbours in the list; all others where a batch has fewer.
    """

    metric = "cosine"

    def __init__(self, alpha: float = 3.0, beta: float = 3.0, permute_length: int = 4) -> None:
        super().__init__()
        self.alpha = alpha
        self.beta = beta
        self.permute_length = permute_length

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
            length = min(self.permute_length, len(student) - 1)
            nearest = pairwise_distances(unit(teacher)).fill_diagonal_(torch.inf).topk(length, largest=False).indices
            scores = -self.alpha * pairwise_distances(unit(student)).pow(self.beta)
            listed = scores.gather(1, nearest)
            # sum over b = a..L: a cumulative sum from the end of the list.
            log_sums = listed.flip(1).logcumsumexp(dim=1).flip(1)
            return (log_sums - listed).sum(dim=1).mean()
