"""Triplet loss on binarised continuous labels, a baseline in Kim et al., CVPR 2019, arXiv:1904.09626."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from zoo.arguments import require_at_least
from zoo.losses.dense_triplet import squared_distances_on_sphere


class BinaryTripletLoss(nn.Module):
    """Ranks the images whose labels are nearest to an anchor's before all others, in any order among themselves.

    With D(a, i) the squared Euclidean distance of L2-normalised embeddings, P the ``neighbours`` images of the batch
    whose labels are nearest to the label of the anchor a (with all ties of the last), and N the others:

        L = mean_{p in P, n in N} [D(a, p) - D(a, n) + margin]_+

    Memory is O(M^2) for M images in the batch.

    Args:
        margin: how much farther negatives should be than positives, in squared distance; D lies in [0, 4].
        neighbours: how many images are positive.
    """

    labels = "continuous"
    metric = "cosine"

    def __init__(self, margin: float = 0.2, neighbours: int = 5) -> None:
        super().__init__()
        require_at_least(1, neighbours=neighbours)
        self.margin = margin
        self.neighbours = neighbours

    def forward(self, anchor: Tensor, neighbours: Tensor, label_distances: Tensor) -> Tensor:
        """Return the loss.

        Args:
            anchor: ``(D,)``, need not be normalised.
            neighbours: ``(M, D)``.
            label_distances: ``(M,)``, distance between the labels of the anchor and each neighbour, 0 or more.

        Returns:
            float scalar; 0 if there is no negative.
        """
        with torch.autocast(anchor.device.type, enabled=False):
            distances = squared_distances_on_sphere(anchor, neighbours)
            # All ties of the last are positive, so the order of the batch, and of processes, does not matter.
            last = label_distances.sort().values[: self.neighbours][-1:]
            positive = label_distances <= last
            pairs = positive[:, None] & ~positive[None, :]
            hinges = functional.relu(distances[:, None] - distances[None, :] + self.margin)
            return torch.where(pairs, hinges, 0).sum() / pairs.sum().clamp(min=1)
