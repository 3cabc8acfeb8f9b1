"""Losses of pytorch-metric-learning, made as ours are, so that ``train`` takes them by ``module:Class``."""

from __future__ import annotations

from pytorch_metric_learning import losses, miners
from torch import Tensor, nn


class _WithMiner(nn.Module):
    """A pairwise loss on what its miner finds in the batch."""

    def __init__(self, loss: nn.Module, miner: nn.Module | None = None) -> None:
        super().__init__()
        self.loss = loss
        self.miner = miner

    def forward(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        value: Tensor = self.loss(embeddings, labels, self.miner(embeddings, labels) if self.miner else None)
        return value


class Contrastive(_WithMiner):
    """Contrastive loss on Euclidean distances of normalised embeddings."""

    def __init__(self, num_classes: int, dim: int, margin: float = 1.0) -> None:
        super().__init__(losses.ContrastiveLoss(pos_margin=0.0, neg_margin=margin))


class Triplet(_WithMiner):
    """Triplet loss with semi-hard mining."""

    def __init__(self, num_classes: int, dim: int, margin: float = 0.2) -> None:
        super().__init__(
            losses.TripletMarginLoss(margin), miners.TripletMarginMiner(margin, type_of_triplets="semihard")
        )


class MultiSimilarity(_WithMiner):
    """Multi-similarity loss with its miner."""

    def __init__(self, num_classes: int, dim: int, alpha: float = 2.0, beta: float = 50.0) -> None:
        super().__init__(losses.MultiSimilarityLoss(alpha, beta, base=0.5), miners.MultiSimilarityMiner(epsilon=0.1))


class ProxyNCA(losses.ProxyNCALoss):
    """Proxy-NCA; its ``proxies`` learn at the proxies' rate.

    The scale is of squared distances: 9 is that of Proxy-NCA++ (arXiv:2004.01113), which multiplies vectors by 3.
    """

    def __init__(self, num_classes: int, dim: int, softmax_scale: float = 9.0) -> None:
        super().__init__(num_classes, dim, softmax_scale=softmax_scale)


class NormalizedSoftmax(nn.Module):
    """Normalised softmax; its class weights learn at the proxies' rate, which goes by the name ``proxies``."""

    def __init__(self, num_classes: int, dim: int, temperature: float = 0.05) -> None:
        super().__init__()
        loss = losses.NormalizedSoftmaxLoss(num_classes, dim, temperature=temperature)
        self.proxies = loss.W  # before the loss: a parameter has the name it is met by first
        self.loss = loss

    def forward(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        value: Tensor = self.loss(embeddings, labels)
        return value


class NTXent(_WithMiner):
    """SimCLR's loss; with every image a class of its own, its views in the batch are the positives."""

    def __init__(self, num_classes: int, dim: int, temperature: float = 0.1) -> None:
        super().__init__(losses.NTXentLoss(temperature))
