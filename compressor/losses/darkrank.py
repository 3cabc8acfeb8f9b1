"""DarkRank, the hard version: Chen et al., AAAI 2018, arXiv:1707.01220."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from compressor.losses.distances import full_precision, pairwise_distances, squared_distances
from zoo.arguments import require_above, require_at_least
from zoo.losses.directions import unit


class DarkRankLoss(nn.Module):
    """Maximises the student's likelihood of the teacher's order of each image's nearest neighbours.

    With the scores S_ij = -alpha ||t_i - t_j||^beta of the L2-normalised student and pi the L nearest images of i in
    the teacher's L2-normalised space, nearest first:

        L = -1/n sum_i log P_i,  P_i = product_{a = 1..L} exp(S_i,pi(a)) / sum_{b = a..L} exp(S_i,pi(b))

    With labels, the paper's triplet loss of the student is added, triplet_weight * mean max(0, ||t_a - t_p|| - ||t_a -
    t_n|| + margin). The choice of triplets is ours: all in the batch whose loss is above 0. Memory is O(N^2).

    Args:
        alpha: scale of the scores, above 0.
        beta: contrast of the scores, at least 1.
        permute_length: L, length of the list, at least 1; in a batch with fewer other images, all of them.
        triplet_weight: weight of the triplet loss, 0 or more.
        margin: margin of the triplet loss.

    Raises:
        OptionError: an option is out of its range.
    """

    metric = "cosine"

    def __init__(
        self,
        alpha: float = 3.0,
        beta: float = 3.0,
        permute_length: int = 4,
        triplet_weight: float = 1.0,
        margin: float = 0.2,
    ) -> None:
        super().__init__()
        require_above(0, alpha=alpha)
        require_at_least(1, beta=beta, permute_length=permute_length)
        require_at_least(0, triplet_weight=triplet_weight)
        self.alpha = alpha
        self.beta = beta
        self.permute_length = permute_length
        self.triplet_weight = triplet_weight
        self.margin = margin

    def forward(
        self, student: Tensor, teacher: Tensor, image_ids: Tensor | None = None, labels: Tensor | None = None
    ) -> Tensor:
        """Return the loss.

        Args:
            student: ``(N, D)``.
            teacher: ``(N, D')``.
            image_ids: ignored.
            labels: int64 ``(N,)``, or None to leave the triplet loss out.

        Returns:
            float scalar.
        """
        with torch.autocast(student.device.type, enabled=False):
            student, teacher = full_precision(student, teacher)
            length = min(self.permute_length, len(student) - 1)
            nearest = squared_distances(unit(teacher)).fill_diagonal_(torch.inf).topk(length, largest=False).indices
            distances = pairwise_distances(unit(student))
            scores = -self.alpha * distances.pow(self.beta)
            listed = scores.gather(1, nearest)
            # sum over b = a..L: a cumulative sum from the end of the list.
            log_sums = listed.flip(1).logcumsumexp(dim=1).flip(1)
            loss = (log_sums - listed).sum(dim=1).mean()
            if labels is not None:
                loss = loss + self.triplet_weight * _triplet_loss(distances, labels, self.margin)
            return loss


def _triplet_loss(distances: Tensor, labels: Tensor, margin: float) -> Tensor:
    """Return the mean of the triplet losses above 0, from distances ``(N, N)`` and labels ``(N,)``; 0 without any.

    With an anchor's negatives sorted, those nearer than a positive's distance + margin come first, so cumulative sums
    of distances suffice, without an N x N x N array.
    """
    same = labels[:, None] == labels
    negatives = distances.masked_fill(same, torch.inf).sort(dim=1).values
    limits = distances + margin
    count = torch.searchsorted(negatives.detach(), limits.detach())
    sums = functional.pad(negatives.cumsum(dim=1), (1, 0)).gather(1, count)
    positive = same & ~torch.eye(len(same), dtype=torch.bool, device=same.device)
    total = (count * limits - sums).masked_fill(~positive, 0).sum()  # boolean indexing would synchronise with a GPU
    return total / count.masked_fill(~positive, 0).sum().clamp(min=1)
