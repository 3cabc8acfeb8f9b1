"""Learners for teachers: losses on classes, by proxies or pairs, and losses on continuous labels, by an anchor."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

import torch
from torch import Tensor

from zoo.data.continuous import ContinuousLabels
from zoo.training.learner import Learner


class LabelLearner(Learner):
    """Embeds one view of each image; subclasses apply the loss with the labels."""

    def training_step(self, batch: tuple[Tensor, Tensor]) -> Tensor:
        views, indices = batch
        embeddings = self.of_all_ranks(self.embed_views(views.flatten(0, 1)).float())
        value = self.loss_of(embeddings, self.of_all_ranks(indices))
        self.log("train/loss", value, prog_bar=True)
        return value

    @abstractmethod
    def loss_of(self, embeddings: Tensor, indices: Tensor) -> Tensor:
        """Return the loss of embeddings ``(B, D)`` of the images with indices ``(B,)``, from all processes."""


class ClassLearner(LabelLearner):
    """Applies the loss with the classes.

    Args:
        classes: classes of the training images, int64 ``(N,)`` in 0..C-1.
    """

    def __init__(self, *args: Any, classes: Tensor, **options: Any) -> None:
        super().__init__(*args, **options)
        self.classes = classes

    def loss_of(self, embeddings: Tensor, indices: Tensor) -> Tensor:
        value: Tensor = self.loss(embeddings, self.classes.to(indices.device)[indices])
        return value


class AnchorLearner(LabelLearner):
    """Applies the loss with the label distances from the batch's first image.

    Args:
        continuous: labels of the training images.
    """

    def __init__(self, *args: Any, continuous: ContinuousLabels, **options: Any) -> None:
        super().__init__(*args, **options)
        self.continuous = continuous

    def loss_of(self, embeddings: Tensor, indices: Tensor) -> Tensor:
        rows = indices.cpu().numpy()
        distances = torch.from_numpy(self.continuous.distances(rows[:1], rows[1:])[0]).float()
        value: Tensor = self.loss(embeddings[0], embeddings[1:], distances.to(embeddings.device))
        return value
