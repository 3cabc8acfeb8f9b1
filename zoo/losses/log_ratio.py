"""Log-ratio loss: Kim et al., "Deep Metric Learning Beyond Binary Supervision", CVPR 2019, arXiv:1904.09626."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from zoo.arguments import require_above, require_at_least


class LogRatioLoss(nn.Module):
    """Makes ratios of distances between embeddings equal to ratios of distances between continuous labels.

    With D(a, i) the distance of embeddings, not normalised, and D_y(a, i) the distance of labels, for an anchor a:

        L = mean_{i < j} (log(D(a, i) / D(a, j)) - log(D_y(a, i) / D_y(a, j)))^2

    Equal labels have distance 0, whose logarithm would dominate the loss. A fraction of the batch's mean label distance
    is therefore added to each; so the weight of ties does not depend on the unit of the labels.

    Squared distances are the default because they did better than plain ones on a small task with a known answer, with
    and without ties (benchmarks/papers/results/log-ratio.md).

    Memory is O(M D) for M neighbours.

    Args:
        squared: True if D is the squared Euclidean distance, as in the paper; False for the Euclidean distance, as in
            the authors' code.
        eps: added to every distance before its logarithm, above 0.
        label_eps: fraction of the mean label distance that is added to each label distance, 0 or more.

    Raises:
        OptionError: eps is not above 0, or label_eps is below 0.
    """

    labels = "continuous"
    metric = "euclidean"

    def __init__(self, squared: bool = True, eps: float = 1e-6, label_eps: float = 0.05) -> None:
        super().__init__()
        require_above(0, eps=eps)
        require_at_least(0, label_eps=label_eps)
        self.squared = squared
        self.eps = eps
        self.label_eps = label_eps

    def forward(self, anchor: Tensor, neighbours: Tensor, label_distances: Tensor) -> Tensor:
        """Return the loss.

        Args:
            anchor: ``(D,)``.
            neighbours: ``(M, D)``.
            label_distances: ``(M,)``, distance between the labels of the anchor and each neighbour, 0 or more.

        Returns:
            float scalar; 0 with fewer than two neighbours.
        """
        with torch.autocast(anchor.device.type, enabled=False):
            dtype = torch.float64 if anchor.dtype == torch.float64 else torch.float32
            difference = neighbours.to(dtype) - anchor.to(dtype)
            distances = difference.square().sum(dim=1) if self.squared else torch.linalg.vector_norm(difference, dim=1)
            given = label_distances.to(dtype)
            log_ratios = (distances + self.eps).log() - (given + self.label_eps * given.mean() + self.eps).log()
            # The mean squared difference over all pairs is twice the unbiased variance.
            return 2 * (log_ratios - log_ratios.mean()).square().sum() / max(len(log_ratios) - 1, 1)
