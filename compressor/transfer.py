"""Brings teacher, student and transfer loss together, and gives each loss what it names; see ``compressor.losses``."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from compressor.feature_maps import pair_stages
from compressor.losses import LOSSES
from zoo.data.image_set import ImageSet
from zoo.embedding import fastest_device
from zoo.errors import OptionError
from zoo.learner import Learner
from zoo.losses import create_loss, find_loss
from zoo.models import embed_with_maps, preprocessing_of
from zoo.teachers import Teacher, resize_views

_LABELS = frozenset({"num_classes", "labels"})
_MAPS = frozenset({"student_channels", "teacher_channels", "student_maps", "teacher_maps"})


class TransferLearner(Learner):
    """Embeds every view with teacher and student, and gives the two to the loss.

    Args:
        model: the student.
        loss: a transfer loss.
        validation: see Learner.
        teacher: what the student learns from.
        images: the training images.
        labels: int64 ``(len(images),)`` in 0..C-1, or None.
        options: Learner's others.
    """

    def __init__(
        self,
        model: nn.Module,
        loss: nn.Module,
        validation: ImageSet | None,
        teacher: Teacher,
        images: ImageSet,
        labels: Tensor | None,
        **options: Any,
    ) -> None:
        super().__init__(model, loss, validation, **options)
        self.teacher, self.images = teacher, images
        self.labels = labels
        self.named = frozenset(inspect.signature(loss.forward).parameters)
        self.with_maps = not _MAPS.isdisjoint(self.named)

    def on_fit_start(self) -> None:
        self.teacher.to(self.device)

    def training_step(self, batch: tuple[Tensor, Tensor]) -> Tensor:
        shown, indices = batch
        indices = indices.repeat(shown.shape[1])
        views = shown.transpose(0, 1).flatten(0, 1)
        resized = resize_views(views, preprocessing_of(self.model).input_size)
        given: dict[str, Tensor | list[Tensor]] = {}
        if self.with_maps:
            targets, teacher_maps = self.teacher.embed_views_with_maps(views, indices, self.images)
            embeddings, student_maps = self.embed_views_with_maps(resized)
            given["student_maps"], given["teacher_maps"] = pair_stages(student_maps, teacher_maps)
        else:
            targets = self.teacher.embed_views(views, indices, self.images)
            embeddings = self.embed_views(resized)
        if self.labels is not None:
            given["labels"] = self.labels.to(indices.device)[indices]
        value: Tensor = self.loss(
            self.of_all_ranks(embeddings.float()),
            self.of_all_ranks(targets),
            self.of_all_ranks(indices),
            **{name: self._gathered(value) for name, value in given.items() if name in self.named},
        )
        self.log("train/loss", value, prog_bar=True)
        return value

    def _gathered(self, value: Tensor | list[Tensor]) -> Tensor | list[Tensor]:
        return [self.of_all_ranks(map_) for map_ in value] if isinstance(value, list) else self.of_all_ranks(value)


def create_transfer_loss(
    name: str,
    options: Mapping[str, Any],
    student: nn.Module,
    teacher: Teacher,
    images: ImageSet,
    labels: Tensor | None,
) -> nn.Module:
    """Make a transfer loss by name, with its options and the facts that it names.

    Args:
        name: one of ``LOSSES``, or ``module:Class`` for a loss of one's own.
        options: of the loss; they go over facts of the same name.
        student: an embedding model.
        teacher: what the student learns from.
        images: the training images.
        labels: int64 ``(len(images),)`` in 0..C-1, or None.

    Raises:
        OptionError: no such loss, an option it does not take, or labels or feature maps it needs and cannot have.
    """
    loss_class = find_loss(name, LOSSES)
    made_with = inspect.signature(loss_class).parameters
    named = {**made_with, **inspect.signature(loss_class.forward).parameters}
    facts: dict[str, Any] = {"num_images": len(images), "student_dim": student.num_classes}
    if labels is not None:
        facts["num_classes"] = int(labels.max()) + 1
    elif any(named[key].default is inspect.Parameter.empty for key in _LABELS & named.keys()):
        raise OptionError(
            f"Loss {name!r} needs labels, and the images have none or use_labels is false. Choose a loss that does "
            "without, such as relaxed_contrastive, or put each class's images in a folder."
        )
    if not _MAPS.isdisjoint(named):
        facts |= _shapes_of_maps(student, teacher, images)
    elif "teacher_dim" in made_with:
        facts["teacher_dim"] = teacher.embed_views(*_blank_view(student, teacher), images).shape[1]
    return create_loss(name, LOSSES, **{key: facts[key] for key in facts.keys() & made_with.keys()} | dict(options))


def class_indices(images: ImageSet) -> Tensor | None:
    """Return the class of each image as int64 ``(N,)`` in 0..C-1, C the classes that these images are of; or None."""
    if images.labels is None:
        return None
    return torch.from_numpy(np.unique(images.labels, return_inverse=True)[1].astype(np.int64))


def _shapes_of_maps(student: nn.Module, teacher: Teacher, images: ImageSet) -> dict[str, Any]:
    """Return the facts about the feature maps and the teacher's embedding, by showing a blank view to both."""
    embedding, teacher_maps = teacher.embed_views_with_maps(*_blank_view(student, teacher), images)
    was_training = student.training
    with torch.no_grad():
        _, student_maps = embed_with_maps(student.eval(), torch.zeros(1, 3, *preprocessing_of(student).input_size))
    student.train(was_training)
    channels = [tuple(map_.shape[1] for map_ in maps) for maps in pair_stages(student_maps, teacher_maps)]
    return {"teacher_dim": embedding.shape[1], "student_channels": channels[0], "teacher_channels": channels[1]}


def _blank_view(student: nn.Module, teacher: Teacher) -> tuple[Tensor, Tensor]:
    """Return a view of image 0 and its index, where the teacher will run."""
    device = fastest_device()
    teacher.to(device)
    size = teacher.input_size or preprocessing_of(student).input_size
    view = torch.zeros(1, 3, *size, dtype=torch.uint8, device=device)
    return view, torch.zeros(1, dtype=torch.int64, device=device)
