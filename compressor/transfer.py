"""Train a student with teacher and transfer loss; each loss receives what it names, see ``compressor.losses``."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from compressor.feature_maps import pair_stages
from compressor.learner import MAPS, TransferLearner
from compressor.losses import LOSSES
from compressor.numbered_views import NumberedViews
from zoo.data.image_set import DataSplits, ImageSet
from zoo.data.rotations import with_rotations
from zoo.errors import OptionError
from zoo.losses import create_loss, find_loss
from zoo.models.embedding import fastest_device
from zoo.models.network import embed_with_maps, preprocessing_of
from zoo.retrieval.protocol import measurable, require_training_images
from zoo.teachers.base import Teacher
from zoo.teachers.proof import enough_to_prove, judged_by_labels, prove_teacher
from zoo.teachers.ready import ArrayTeacher
from zoo.training.batches.augmentation import MIXED, Views
from zoo.training.fitting import fit, training_loader
from zoo.training.options import Training
from zoo.training.start import Start

log = logging.getLogger(__name__)

_SAMPLED = 2000  # training images in a teacher sample
_LABELS = frozenset({"num_classes", "labels"})


def require_transferable(teacher: Teacher, splits: DataSplits, asked: Training) -> None:
    """Refuse what :func:`transfer` cannot handle, before a network is made.

    Raises:
        OptionError: images are to be rotated or mixed, but the teacher has only stored embeddings; or they are to be
            mixed, but the loss needs each view to show one image.
        DataError: there are fewer than two training images, or nothing can be measured on the validation images.
    """
    if asked.data.rotate_classes and isinstance(teacher, ArrayTeacher):
        raise OptionError(
            "rotate_classes needs a teacher that embeds images; stored embeddings have none for rotated ones."
        )
    if asked.batches.augment == MIXED:
        _require_mixable(teacher, asked.loss.loss, asked.data.use_labels)
    require_training_images(splits, asked.data.split)


def _require_mixable(teacher: Teacher, loss: str, use_labels: bool) -> None:
    """Refuse views of two images if the teacher or the loss needs each view to show one image."""
    if isinstance(teacher, ArrayTeacher):
        raise OptionError(
            f"augment {MIXED} needs a teacher that embeds images; stored embeddings have none of two images in one "
            "view. Use photo."
        )
    named = inspect.signature(find_loss(loss, LOSSES).forward).parameters
    by_image = "image_ids" in named and named["image_ids"].default is inspect.Parameter.empty
    if by_image or (use_labels and not _LABELS.isdisjoint(named)):
        raise OptionError(
            f"augment {MIXED} shows two images in one view, and loss {loss} takes each view to be of one image or "
            "class. Use photo, or a loss of embeddings alone, such as similarity."
        )


def transfer(
    model: nn.Module,
    teacher: Teacher,
    splits: DataSplits,
    folder: Path,
    asked: Training,
    make_learner: Callable[..., TransferLearner] = TransferLearner,
    numbered: NumberedViews | None = None,
) -> tuple[TransferLearner, dict[str, Any]]:
    """Measure the teacher, train the student from it, and leave the best weights in the student.

    Args:
        model: the student.
        teacher: the teacher.
        splits: training images, and validation images to choose the best epoch on.
        folder: folder for logs, and for checkpoints to resume from.
        asked: the options. A student with pretrained weights is also measured before training.
        make_learner: takes the arguments of TransferLearner.
        numbered: fixed views that the teacher embeds once; None for new ones in every epoch.

    Returns:
        The learner, and the measures of teacher and student, each named by the images it was taken on.

    Raises:
        UserError: the teacher, the data or an option is unusable.
    """
    upright = splits.train.checked(asked.data.max_unreadable)
    images = with_rotations(upright) if asked.data.rotate_classes else upright
    use_labels = asked.data.use_labels
    labels = class_indices(images) if use_labels else None
    loss = create_transfer_loss(asked.loss.loss, asked.loss.loss_options or {}, model, teacher, images, labels)
    held_out = splits.validation.checked(asked.data.max_unreadable) if len(splits.validation) else None
    measured: dict[str, Any] = {}
    if upright.labels is None and upright.continuous is None:
        log.warning("the images have no labels, so teacher %s is not measured", teacher.name)
    elif not use_labels and held_out is None and not measurable(upright):
        log.warning("the labels cannot measure retrieval, so teacher %s is not measured", teacher.name)
    else:
        judged = {} if held_out is None else {"teacher on validation": held_out}
        if held_out is None or not enough_to_prove(teacher, held_out):
            judged["teacher on train"] = upright
        for where, shown_images in judged.items():
            found = prove_teacher(teacher, shown_images)
            measured[where] = {name: round(value, 6) for name, value in found.items()}
    if asked.machine.compile:
        teacher.compile()
    by_labels = held_out is not None and judged_by_labels(teacher, held_out)
    learner = make_learner(model, loss, held_out, teacher, images, labels, asked, by_labels)
    learner.teacher_measured = measured.get("teacher on validation", {})
    # Views are made at the larger of the two input sizes; each network scales them down to its own.
    preprocessing = preprocessing_of(model)
    sizes = [preprocessing.input_size, teacher.input_size or preprocessing.input_size]
    size = (max(height for height, _ in sizes), max(width for _, width in sizes))
    batches, seed = asked.batches, asked.machine.seed
    count = None if numbered is None else numbered.count
    preprocessing = replace(preprocessing, input_size=size)
    shown = Views(images, preprocessing, batches.augment, batches.min_crop, batches.views, count, seed)
    if numbered is not None and not isinstance(teacher, ArrayTeacher):
        learner.stored = numbered.stored(teacher, images, shown, splits.digest, learner.with_maps)
    start = Start.of(asked, upright, use_labels, _targets_of(loss, teacher))
    best = fit(learner, training_loader(images, shown, asked), folder, asked, start)
    return learner, measured | {"validation": best}


def _targets_of(loss: nn.Module, teacher: Teacher) -> Callable[[ImageSet], np.ndarray] | None:
    """Return a function from images to the vectors that the loss draws their embeddings to, or None if it has none."""
    onto: Any = getattr(loss, "onto", None) or loss
    if not hasattr(onto, "targets"):
        return None

    def targets(images: ImageSet) -> np.ndarray:
        return np.asarray(onto.targets(torch.from_numpy(teacher.embed_images(images))))

    return targets


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
        name: one of ``LOSSES``, or ``module:Class`` for the user's own loss.
        options: options of the loss; they override facts of the same name.
        student: an embedding model.
        teacher: the teacher.
        images: the training images.
        labels: int64 ``(len(images),)`` in 0..C-1, or None.

    Raises:
        OptionError: the loss or an option is unknown, or the labels or feature maps that it needs are not available.
    """
    loss_class = find_loss(name, LOSSES)
    made_with = inspect.signature(loss_class).parameters
    named = {**made_with, **inspect.signature(loss_class.forward).parameters}
    facts: dict[str, Any] = {"num_images": len(images), "student_dim": student.num_classes}
    if labels is not None:
        facts["num_classes"] = int(labels.max()) + 1
    elif any(named[key].default is inspect.Parameter.empty for key in _LABELS & named.keys()):
        raise OptionError(
            f"Loss {name!r} needs labels, and the images have none or use_labels is false. Choose a loss that "
            "works without labels, such as relaxed_contrastive, or put each class's images in a folder."
        )
    if not MAPS.isdisjoint(named):
        facts |= _shapes_of_maps(student, teacher, images)
    if "teacher_sample" in made_with:
        facts["teacher_sample"] = cache(partial(_sample_of, teacher, images))  # a loss may ask more than once
    if "teacher_dim" in made_with and "teacher_dim" not in facts:
        facts["teacher_dim"] = teacher.embed_views(*_blank_view(student, teacher), images).shape[1]
    return create_loss(name, LOSSES, **{key: facts[key] for key in facts.keys() & made_with.keys()} | dict(options))


def _sample_of(teacher: Teacher, images: ImageSet) -> Tensor:
    """Return the teacher's embeddings of evenly spaced images, float32 ``(N, D')`` on the CPU."""
    rows = np.linspace(0, len(images) - 1, min(_SAMPLED, len(images))).astype(int)
    return torch.from_numpy(np.asarray(teacher.to(fastest_device()).embed_images(images.subset(rows)), np.float32))


def class_indices(images: ImageSet) -> Tensor | None:
    """Return the class of each image as int64 ``(N,)`` in 0..C-1, with C the classes among these images; or None."""
    if images.labels is None:
        return None
    return torch.from_numpy(np.unique(images.labels, return_inverse=True)[1].astype(np.int64))


def _shapes_of_maps(student: nn.Module, teacher: Teacher, images: ImageSet) -> dict[str, Any]:
    """Return the facts about feature maps and the teacher's embedding, from a blank view through both networks."""
    embedding, teacher_maps = teacher.embed_views_with_maps(*_blank_view(student, teacher), images)
    was_training = student.training
    with torch.no_grad():
        _, student_maps = embed_with_maps(student.eval(), torch.zeros(1, 3, *preprocessing_of(student).input_size))
    student.train(was_training)
    channels = [tuple(map_.shape[1] for map_ in maps) for maps in pair_stages(student_maps, teacher_maps)]
    return {"teacher_dim": embedding.shape[1], "student_channels": channels[0], "teacher_channels": channels[1]}


def _blank_view(student: nn.Module, teacher: Teacher) -> tuple[Tensor, Tensor]:
    """Return a blank view for image 0 and its index, on the teacher's device."""
    device = fastest_device()
    teacher.to(device)
    size = teacher.input_size or preprocessing_of(student).input_size
    view = torch.zeros(1, 3, *size, dtype=torch.uint8, device=device)
    return view, torch.zeros(1, dtype=torch.int64, device=device)
