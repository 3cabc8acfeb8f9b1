"""A conditional generator: makes a random embedding of a class from noise."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from zoo.losses.directions import unit


class EmbeddingGenerator(nn.Module):
    """Makes embeddings of classes: g(c, z) = c + MLP([c, z]), L2-normalised, with c the class's condition.

    A condition is a learnable vector in the embedding space. Since it is added to the output, it learns where its class
    lies, and the network, which all classes share, learns how classes spread around their conditions.

    Args:
        num_classes: number of classes; one condition each, with random direction and a length of about 1.
        dim: dimensions of the embeddings and conditions.
        noise_dim: dimensions of the noise.
        hidden_dim: width of the network's two hidden layers.
    """

    def __init__(self, num_classes: int, dim: int, noise_dim: int, hidden_dim: int) -> None:
        super().__init__()
        self.noise_dim = noise_dim
        self.conditions = nn.Parameter(torch.randn(num_classes, dim) / dim**0.5)
        self.network = nn.Sequential(
            nn.Linear(dim + noise_dim, hidden_dim),
            nn.ReLU(),
            nn.Linear(hidden_dim, hidden_dim),
            nn.ReLU(),
            nn.Linear(hidden_dim, dim),
        )

    def forward(self, labels: Tensor, noise: Tensor) -> Tensor:
        """Return embeddings.

        Args:
            labels: int64 ``(N,)``.
            noise: ``(N, noise_dim)``, standard normal.

        Returns:
            ``(N, dim)``, L2-normalised.
        """
        conditions = self.conditions[labels]
        return unit(conditions + self.network(torch.cat([conditions, noise], dim=1)))
