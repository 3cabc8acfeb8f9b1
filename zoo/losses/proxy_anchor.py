"""Proxy-Anchor loss: Kim et al., "Proxy Anchor Loss for Deep Metric Learning", CVPR 2020, arXiv:2003.13911, eq. 4."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from zoo.arguments import require_above
from zoo.losses.directions import unit


class ProxyAnchorLoss(nn.Module):
    """Pulls each class's proxy to the embeddings of the class and pushes it away from all others.

    With s(x, p) the cosine similarity, P all proxies and P+ those with a positive in the batch:

        L = 1/|P+| sum_{p in P+} log(1 + sum_{x of p's class} exp(-alpha (s(x, p) - margin)))
          + 1/|P|  sum_{p in P}  log(1 + sum_{x of others}    exp( alpha (s(x, p) + margin)))

    Computed with log-sum-exp in float32, so half precision does not overflow. Memory is O(N C).

    Args:
        num_classes: number of classes C; one learnable proxy each, Kaiming normal (fan-out).
        dim: dimensions of the embeddings.
        margin: the paper's delta.
        alpha: the paper's scale, above 0.

    Raises:
        OptionError: alpha is not above 0.
    """

    images_per_class = 1
    """Images per class in a batch. A proxy is compared with the whole batch, and many classes tell it more than many
    images of a few; the paper's batches are drawn at random. Measured in benchmarks/papers."""

    def __init__(self, num_classes: int, dim: int, margin: float = 0.1, alpha: float = 32.0) -> None:
        super().__init__()
        require_above(0, alpha=alpha)
        self.margin = margin
        self.alpha = alpha
        self.proxies = nn.Parameter(torch.empty(num_classes, dim))
        nn.init.kaiming_normal_(self.proxies, mode="fan_out")

    def forward(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        """Return the loss.

        Args:
            embeddings: ``(N, D)``, need not be normalised.
            labels: int64 ``(N,)`` in 0..C-1.

        Returns:
            float scalar.
        """
        # Autocast would compute the product in half precision.
        with torch.autocast(embeddings.device.type, enabled=False):
            embeddings = embeddings.to(self.proxies.dtype)
            similarity = unit(embeddings) @ unit(self.proxies).T
            positive = functional.one_hot(labels, len(self.proxies)).bool()
            pull = _log_one_plus_sum_exp(-self.alpha * (similarity - self.margin), positive)
            push = _log_one_plus_sum_exp(self.alpha * (similarity + self.margin), ~positive)
            present = positive.any(dim=0).sum().clamp(min=1)
            return pull.sum() / present + push.mean()


def _log_one_plus_sum_exp(values: Tensor, keep: Tensor) -> Tensor:
    """Return log(1 + sum of exp over the kept rows) of ``(N, C)``, as ``(C,)``; 0 if no row is kept."""
    masked = values.masked_fill(~keep, float("-inf"))
    zero = values.new_zeros(1, values.shape[1])
    return torch.logsumexp(torch.cat([zero, masked]), dim=0)
