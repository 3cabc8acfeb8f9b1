"""Normalised softmax: Zhai and Wu, "Classification is a Strong Baseline for Deep Metric Learning", BMVC 2019.

arXiv:1811.12649.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from zoo.arguments import require_above
from zoo.losses.directions import unit


class NormalizedSoftmaxLoss(nn.Module):
    """Classifies embeddings by their cosine similarity to each class's proxy.

    With s(x, p) the cosine similarity, y the class of x and T the temperature:

        L = mean_x -log(exp(s(x, p_y) / T) / sum_p exp(s(x, p) / T))

    The paper's layer normalisation before the embedding belongs to the network and is not part of the loss. Memory is
    O(N C).

    Args:
        num_classes: number of classes C; one learnable proxy each, Kaiming normal (fan-out) like Proxy-Anchor's.
        dim: dimensions of the embeddings.
        temperature: the paper's T, above 0.
    """

    def __init__(self, num_classes: int, dim: int, temperature: float = 0.05) -> None:
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
            return functional.cross_entropy(similarity / self.temperature, labels)
