"""Losses of pytorch-metric-learning with the interface of ours, so that ``train`` takes them as ``module:Class``.

Like the losses they are compared with, they compute in float32, outside autocast, and initialise proxies in the same
way.
"""

from __future__ import annotations

import torch
from pytorch_metric_learning import losses, miners
from torch import Tensor, nn
from torch.nn import init


class _Rival(nn.Module):
    """A loss on the pairs or triplets that its miner finds in the batch, or on all.

    Args:
        loss: a loss of pytorch-metric-learning.
        miner: its miner.
        proxies: the loss's class vectors. Under this name they learn at the proxies' rate.
        mode: mode of their Kaiming initialisation. These losses depend only on directions, and at a given rate long
            vectors turn slowly, so the initial length is Proxy-Anchor's, like the rates.
    """

    def __init__(
        self,
        loss: nn.Module,
        miner: nn.Module | None = None,
        proxies: nn.Parameter | None = None,
        mode: str = "fan_out",
    ) -> None:
        super().__init__()
        if proxies is not None:
            self.proxies = proxies  # before the loss, because a parameter gets the first name it is found under
            init.kaiming_normal_(self.proxies, mode=mode)
        self.loss = loss
        self.miner = miner

    def forward(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        with torch.autocast(embeddings.device.type, enabled=False):
            vectors = embeddings.float()
            found = {} if self.miner is None else {"indices_tuple": self.miner(vectors, labels)}
            value: Tensor = self.loss(vectors, labels, **found)
        return value


class Contrastive(_Rival):
    """Contrastive loss on Euclidean distances of normalised embeddings."""

    def __init__(self, num_classes: int, dim: int, margin: float = 1.0) -> None:
        super().__init__(losses.ContrastiveLoss(pos_margin=0.0, neg_margin=margin))


class Triplet(_Rival):
    """Triplet loss with semi-hard mining."""

    def __init__(self, num_classes: int, dim: int, margin: float = 0.2) -> None:
        super().__init__(
            losses.TripletMarginLoss(margin), miners.TripletMarginMiner(margin, type_of_triplets="semihard")
        )


class MultiSimilarity(_Rival):
    """Multi-similarity loss with its miner."""

    def __init__(self, num_classes: int, dim: int, alpha: float = 2.0, beta: float = 50.0) -> None:
        super().__init__(losses.MultiSimilarityLoss(alpha, beta, base=0.5), miners.MultiSimilarityMiner(epsilon=0.1))


class ProxyNCA(_Rival):
    """Proxy-NCA.

    The scale applies to squared distances: 9 is that of Proxy-NCA++ (arXiv:2004.01113), which multiplies vectors by 3.
    """

    def __init__(self, num_classes: int, dim: int, softmax_scale: float = 9.0) -> None:
        loss = losses.ProxyNCALoss(num_classes, dim, softmax_scale=softmax_scale)
        super().__init__(loss, proxies=loss.proxies)


class NormalizedSoftmax(_Rival):
    """Normalised softmax; its proxies are columns."""

    def __init__(self, num_classes: int, dim: int, temperature: float = 0.05) -> None:
        loss = losses.NormalizedSoftmaxLoss(num_classes, dim, temperature=temperature)
        super().__init__(loss, proxies=loss.W, mode="fan_in")


class NTXent(_Rival):
    """SimCLR's loss; if every image is its own class, its views in the batch are the positives."""

    def __init__(self, num_classes: int, dim: int, temperature: float = 0.1) -> None:
        super().__init__(losses.NTXentLoss(temperature))
