"""A training step of distillation: teacher and student embed the same views, and the loss compares the two."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional

from compressor.feature_maps import pair_stages
from zoo.data.image_set import ImageSet
from zoo.errors import ModelError
from zoo.models.facts import COSINE, EUCLIDEAN, facts_of
from zoo.models.network import preprocessing_of
from zoo.teachers.base import Teacher, resize_views
from zoo.teachers.stored_views import StoredViews
from zoo.training.learner import Learner
from zoo.training.options import Training

log = logging.getLogger(__name__)

MAPS = frozenset({"student_channels", "teacher_channels", "student_maps", "teacher_maps"})
"""Names in a loss's signature that stand for feature maps."""
_BETTER_TEACHER = "Train a teacher on your classes with compressor train, and distil from that."


class TransferLearner(Learner):
    """Embeds every view with teacher and student, and passes both embeddings to the loss.

    Args:
        model: the student.
        loss: a transfer loss.
        validation: see Learner.
        teacher: the teacher.
        images: the training images.
        labels: int64 ``(len(images),)`` in 0..C-1, or None.
        asked: see Learner.
        by_labels: see Learner.
    """

    def __init__(
        self,
        model: nn.Module,
        loss: nn.Module,
        validation: ImageSet | None,
        teacher: Teacher,
        images: ImageSet,
        labels: Tensor | None,
        asked: Training,
        by_labels: bool | None = None,
    ) -> None:
        super().__init__(model, loss, validation, asked, by_labels)
        self.teacher, self.images = teacher, images
        self.labels = labels
        self.teacher_measured: Mapping[str, float] = {}  # on the validation images, where it was measured there
        self.stored: StoredViews | None = None
        # Lengths must not influence a Euclidean loss if the student is compared by cosine, which ignores them.
        by_length = getattr(type(loss), "metric", EUCLIDEAN) == EUCLIDEAN
        self.on_sphere = by_length and facts_of(model).metric == COSINE
        self.named = frozenset(inspect.signature(loss.forward).parameters)
        self.with_maps = not MAPS.isdisjoint(self.named)
        self._teacher_is_finite: Tensor | bool = True

    def on_fit_start(self) -> None:
        self.teacher.to(self.device)

    def on_train_start(self) -> None:
        if self.best["epoch"] == 0 and self.teacher_is_behind():
            log.warning(
                "Before training, the student retrieves better on the validation images (%s) than its teacher (%s), "
                "which therefore has little to teach it. %s",
                self.in_words(self.best),
                self.in_words(self.teacher_measured),
                _BETTER_TEACHER,
            )

    def teacher_is_behind(self) -> bool:
        """Return whether the best student so far retrieves better on the validation images than its teacher."""
        if self.best["epoch"] is None or self.chosen_by not in self.teacher_measured:
            return False
        return bool(self.best[self.chosen_by] > self.teacher_measured[self.chosen_by])

    def advice(self) -> str:
        return _BETTER_TEACHER if self.teacher_is_behind() else super().advice()

    def training_step(self, batch: tuple[Tensor, ...]) -> Tensor:
        shown, indices, *numbers = batch
        indices = indices.repeat(shown.shape[1])
        views = shown.transpose(0, 1).flatten(0, 1)
        resized = resize_views(views, preprocessing_of(self.model).input_size)
        given: dict[str, Tensor | list[Tensor]] = {}
        if self.with_maps:
            targets, teacher_maps = self.teacher.embed_views_with_maps(views, indices, self.images)
            embeddings, student_maps = self.embed_views_with_maps(resized)
            given["student_maps"], given["teacher_maps"] = pair_stages(student_maps, teacher_maps)
        else:
            if self.stored is None:
                targets = self.teacher.embed_views(views, indices, self.images)
            else:
                targets = self.stored.embed(views, indices, numbers[0].T.flatten())
            embeddings = self.embed_views(resized)
        # Read at the end of an epoch, since reading it waits for the device.
        self._teacher_is_finite = torch.isfinite(targets).all() & self._teacher_is_finite
        embeddings = embeddings.float()
        if self.on_sphere:
            embeddings = functional.normalize(embeddings, dim=1)
        if self.labels is not None:
            given["labels"] = self.labels.to(indices.device)[indices]
        value: Tensor = self.loss(
            self.of_all_ranks(embeddings),
            self.of_all_ranks(targets),
            self.of_all_ranks(indices),
            **{name: self._gathered(value) for name, value in given.items() if name in self.named},
        )
        self.log("train/loss", value, prog_bar=True)
        return value

    def require_finite(self) -> None:
        """Raise a ModelError if the teacher gave a vector that is not finite, else as any learner does."""
        if not bool(self._teacher_is_finite):
            raise ModelError(
                f"Teacher {self.teacher.name} gave vectors that are not finite for views of epoch "
                f"{self.current_epoch + 1}. Check its weights, its precision and the images; embed names an image "
                "on which it fails."
            )
        super().require_finite()

    def _gathered(self, value: Tensor | list[Tensor]) -> Tensor | list[Tensor]:
        return [self.of_all_ranks(map_) for map_ in value] if isinstance(value, list) else self.of_all_ranks(value)
