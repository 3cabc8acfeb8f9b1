"""Features of a frozen backbone, computed once instead of in every step."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from zoo.data.image_set import ImageSet
from zoo.models.embedding import embed_pooled
from zoo.models.network import head_of
from zoo.training.batches.sampling import Draw


class Features(Dataset[tuple[Tensor, int]]):
    """Pooled features of the images' test views, in place of views: item ``(index, draw)`` is ``((1, F), index)``.

    Args:
        model: a timm model with a frozen backbone and a linear head.
        images: the images.
    """

    def __init__(self, model: nn.Module, images: ImageSet) -> None:
        self.features = torch.from_numpy(embed_pooled(model, images))

    def __len__(self) -> int:
        return len(self.features)

    def __getitem__(self, draw: Draw) -> tuple[Tensor, int]:
        index, _ = draw
        return self.features[index : index + 1], index


def embed_features(model: nn.Module, features: Tensor) -> Tensor:
    """Apply a model's linear head to pooled features: float ``(N, F)`` to ``(N, D)``."""
    head = head_of(model)
    if isinstance(head, nn.Conv2d):  # a 1x1 convolution of pooled maps
        features = features[:, :, None, None]
    embeddings: Tensor = head(features)
    return embeddings.flatten(1)
