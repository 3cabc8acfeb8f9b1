"""Proxy-NCA++: Teh, DeVries and Taylor, "ProxyNCA++", ECCV 2020, arXiv:2004.01113."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from zoo.arguments import require_above
from zoo.losses.directions import unit


class ProxyNCALoss(nn.Module):
    """Classifies embeddings by their squared distance to each class's proxy.

    With d(x, p) the Euclidean distance between the L2-normalised embedding and proxy, y the class of x and T the
    temperature:

        L = mean_x -log(exp(-d(x, p_y)^2 / T) / sum_p exp(-d(x, p)^2 / T))

    The sum is over all proxies, including y's (the paper's proxy assignment probability). Memory is O(N C).

    Args:
        num_classes: number of classes C; one learnable proxy each, Kaiming normal (fan-out) like Proxy-Anchor's.
        dim: dimensions of the embeddings.
        temperature: the paper's T, above 0.
    """

    def __init__(self, num_classes: int, dim: int, temperature: float = 1 / 9) -> None:
        super().__init__()
        require_above(0, temperature=temperature)
        self.temperature = temperature
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
        with torch.autocast(embeddings.device.type, enabled=False):
            embeddings = embeddings.to(self.proxies.dtype)
            similarity = unit(embeddings) @ unit(self.proxies).T
            squared_distances = 2 - 2 * similarity
            return functional.cross_entropy(-squared_distances / self.temperature, labels)
