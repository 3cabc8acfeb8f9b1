"""Dense triplet loss, a baseline in Kim et al., "Deep Metric Learning Beyond Binary Supervision", arXiv:1904.09626."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from zoo.losses.directions import unit


class DenseTripletLoss(nn.Module):
    """Ranks the neighbours of an anchor in the order of their label distances.

    With D(a, i) the squared Euclidean distance of L2-normalised embeddings and D_y(a, i) the distance of continuous
    labels, for an anchor a, over all pairs of neighbours in which i has the nearer label:

        L = mean_{D_y(a, i) < D_y(a, j)} [D(a, i) - D(a, j) + margin]_+

    Memory is O(M^2) for M neighbours.

    Args:
        margin: how much farther j should be than i, in squared distance; D lies in [0, 4].
    """

    labels = "continuous"
    metric = "cosine"

    def __init__(self, margin: float = 0.03) -> None:
        super().__init__()
        self.margin = margin

    def forward(self, anchor: Tensor, neighbours: Tensor, label_distances: Tensor) -> Tensor:
        """Return the loss.

        Args:
            anchor: ``(D,)``, need not be normalised.
            neighbours: ``(M, D)``.
            label_distances: ``(M,)``, distance between the labels of the anchor and each neighbour, 0 or more.

        Returns:
            float scalar; 0 if no two neighbours differ in label distance.
        """
        with torch.autocast(anchor.device.type, enabled=False):
            distances = squared_distances_on_sphere(anchor, neighbours)
            nearer = label_distances[:, None] < label_distances[None, :]
            hinges = functional.relu(distances[:, None] - distances[None, :] + self.margin)
            return torch.where(nearer, hinges, 0).sum() / nearer.sum().clamp(min=1)


def squared_distances_on_sphere(anchor: Tensor, neighbours: Tensor) -> Tensor:
    """Return squared distances of L2-normalised embeddings, ``(M,)`` in [0, 4]: float64 for float64, else float32."""
    dtype = torch.float64 if anchor.dtype == torch.float64 else torch.float32
    return (unit(neighbours.to(dtype)) - unit(anchor.to(dtype))).square().sum(dim=1)
