"""Learners of teachers: a loss on classes, with proxies or pairs, or one on continuous labels, with an anchor."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from zoo.data.continuous import ContinuousLabels
from zoo.training.learner import Learner


class ClassLearner(Learner):
    """Embeds one view of each image and applies the loss with the classes.

    Args:
        classes: int64 ``(N,)`` in 0..C-1, of the training images.
    """

    def __init__(self, *args: Any, classes: Tensor, **options: Any) -> None:
        super().__init__(*args, **options)
        self.classes = classes

    def training_step(self, batch: tuple[Tensor, Tensor]) -> Tensor:
        views, indices = batch
        embeddings = self.of_all_ranks(self.embed_views(views.flatten(0, 1)).float())
        labels = self.of_all_ranks(self.classes.to(indices.device)[indices])
        value: Tensor = self.loss(embeddings, labels)
        self.log("train/loss", value, prog_bar=True)
        return value


class AnchorLearner(Learner):
    """Embeds one view of each image and applies the loss with the label distances from the batch's first image.

    Args:
        continuous: labels of the training images.
    """

    def __init__(self, *args: Any, continuous: ContinuousLabels, **options: Any) -> None:
        super().__init__(*args, **options)
        self.continuous = continuous

    def training_step(self, batch: tuple[Tensor, Tensor]) -> Tensor:
        views, indices = batch
        embeddings = self.of_all_ranks(self.embed_views(views.flatten(0, 1)).float())
        rows = self.of_all_ranks(indices).cpu().numpy()
        distances = torch.from_numpy(self.continuous.distances(rows[:1], rows[1:])[0]).float()
        value: Tensor = self.loss(embeddings[0], embeddings[1:], distances.to(embeddings.device))
        self.log("train/loss", value, prog_bar=True)
        return value
