"""Training a teacher: :func:`train`."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zoo.arguments import ArchLike, DataLike, require_valid
from zoo.errors import DataError, OptionError
from zoo.stage import Stage, locking
from zoo.training.defaults import filled
from zoo.training.options import (
    BatchOptions,
    DataOptions,
    LossOptions,
    MachineOptions,
    NetworkOptions,
    OptimisationOptions,
    Training,
    documented,
)

if TYPE_CHECKING:
    from zoo.data import DataSplits

log = logging.getLogger(__name__)


@locking
@documented
def train(
    data: DataLike,
    out: str | Path,
    *,
    arch: ArchLike = NetworkOptions.arch,
    arch_options: dict[str, Any] | None = NetworkOptions.arch_options,
    dim: int = NetworkOptions.dim,
    pretrained: bool | str | Path = NetworkOptions.pretrained,
    pool: str | None = "auto",
    image_size: int | None = NetworkOptions.image_size,
    crop_pct: float | None = NetworkOptions.crop_pct,
    split: str = DataOptions.split,
    validation: float = DataOptions.validation,
    continuous_labels: str | Path | None = DataOptions.continuous_labels,
    label_metric: str = DataOptions.label_metric,
    columns: dict[str, str] | None = DataOptions.columns,
    rotate_classes: bool = DataOptions.rotate_classes,
    max_unreadable: int = DataOptions.max_unreadable,
    loss: str = LossOptions.loss,
    loss_options: dict[str, Any] | None = LossOptions.loss_options,
    epochs: int | None = None,
    batch_size: int = BatchOptions.batch_size,
    images_per_class: int | None = None,
    neighbours: int = BatchOptions.neighbours,
    augment: str | None = None,
    min_crop: float | None = None,
    lr: float | None = None,
    proxy_lr_factor: float | None = None,
    weight_decay: float = OptimisationOptions.weight_decay,
    schedule: str = OptimisationOptions.schedule,
    step_epochs: int = OptimisationOptions.step_epochs,
    step_factor: float = OptimisationOptions.step_factor,
    warmup_epochs: int = OptimisationOptions.warmup_epochs,
    freeze: str = OptimisationOptions.freeze,
    freeze_batchnorm: bool | None = None,
    layer_decay: float | None = None,
    towards_start: float = OptimisationOptions.towards_start,
    fit_head: bool | None = None,
    average_start: bool | None = None,
    gradient_clip: float | None = OptimisationOptions.gradient_clip,
    validate_every: int = OptimisationOptions.validate_every,
    precision: str = MachineOptions.precision,
    compile: bool = MachineOptions.compile,
    devices: str | int = MachineOptions.devices,
    num_nodes: int = MachineOptions.num_nodes,
    workers: int | None = MachineOptions.workers,
    seed: int = MachineOptions.seed,
) -> Path:
    """Train a teacher with a metric-learning loss, on classes or on continuous labels, and save it as a model folder.

    Pretrained weights are measured first on the validation classes, with a head fitted to the training images. If no
    epoch retrieves better, that network is saved.

    When called again with the same options, an interrupted run resumes from its last complete epoch, and a finished
    one is reused.

    Args:
        data: training data, such as glyphs, folder:PATH or csv:FILE; see docs/data.md.
        out: folder for the model.
        loss_options: options of the loss, such as {margin: 0.1, alpha: 32}.
        epochs: passes over the training images; null for 10 with pretrained weights, else 40.
        images_per_class: images of each class in a batch; 0 for random batches, null for what suits the loss: 1 for
            proxy_anchor, else 4.
        augment: random views: photo, photo-strong, mild (no flips, hardly moved), drawing or none; null for mild with a
            loss for continuous labels, which a flip may change, else photo.

    Returns:
        The model folder.

    Raises:
        UserError: data, model or options cannot work.
    """
    options = filled("train", locals())
    require_valid(options)
    asked = Training.of(options)

    from zoo.data import load_data
    from zoo.retrieval.protocol import require_training_images

    splits = load_data(data, **asked.data.division)
    stage = Stage.open(out, train, options | {"data": splits.name}, data_digest=splits.digest)
    if stage.finished:
        return stage.folder
    require_training_images(splits, split)

    from zoo.losses import CONTINUOUS, create_loss, find_loss, labels_of
    from zoo.training.batches.augmentation import FLIPPING, MIXED, Views

    if asked.batches.augment == MIXED:
        raise OptionError(f"augment {MIXED} shows two images in one view, which then has no label. Use it in distill.")
    loss_class = find_loss(loss)
    continuous = labels_of(loss_class) == CONTINUOUS
    _require_labels(splits, asked, continuous)
    if continuous and asked.batches.augment in FLIPPING:
        log.warning(
            "augment %s mirrors images and cuts much of them off, while %s learns from continuous labels. If these "
            "are poses or places, leave augment out; the default is then mild.",
            asked.batches.augment,
            loss,
        )
    if images_per_class is None:
        of_each = getattr(loss_class, "images_per_class", BatchOptions.images_per_class)
        asked = replace(asked, batches=replace(asked.batches, images_per_class=of_each))

    import lightning
    import numpy as np
    import torch

    from zoo.data.rotations import with_rotations
    from zoo.models.embedding import embed, fastest_device
    from zoo.models.facts import COSINE, ModelFacts, set_facts
    from zoo.models.making import create_model
    from zoo.models.network import preprocessing_of
    from zoo.training.batches.features import Features
    from zoo.training.fitting import finish, fit, training_loader
    from zoo.training.label_learners import AnchorLearner, ClassLearner
    from zoo.training.learner import Learner
    from zoo.training.start import Start
    from zoo.versions import versions

    lightning.seed_everything(seed, verbose=False)
    metric = getattr(loss_class, "metric", COSINE)
    model = create_model(**vars(asked.network), metric=metric)  # before reading the images, so that errors come early
    images = splits.train.checked(max_unreadable)
    if rotate_classes:
        images = with_rotations(images)
    held_out = splits.validation.checked(max_unreadable) if len(splits.validation) else None
    learner: Learner
    if continuous:
        assert images.continuous is not None
        objective = create_loss(loss, **loss_options or {})
        learner = AnchorLearner(model, objective, held_out, asked, continuous=images.continuous)
    else:
        assert images.labels is not None
        classes, dense = np.unique(images.labels, return_inverse=True)
        objective = create_loss(loss, **(loss_options or {}) | {"num_classes": len(classes), "dim": dim})
        learner = ClassLearner(model, objective, held_out, asked, classes=torch.from_numpy(dense.astype(np.int64)))
    views: Views | Features
    features: np.ndarray | None = None
    if learner.on_features:
        views = Features(model.to(fastest_device()), images)
        features = views.features.numpy()
    else:
        views = Views(images, preprocessing_of(model), asked.batches.augment, asked.batches.min_crop)
    loader = training_loader(images, views, asked, anchored=continuous)
    start = Start.of(asked, images, use_labels=not continuous, features=features)
    best = fit(learner, loader, stage.folder, asked, start)
    diagnose = None if continuous else getattr(objective, "diagnose", None)
    if diagnose is not None and learner.trainer.is_global_zero:
        diagnose(embed(model.to(fastest_device()), images), dense, stage.folder)
    set_facts(
        model,
        ModelFacts(
            metric=metric,
            loss=loss,
            options=stage.options,
            data={"name": splits.name, **splits.protocol},
            measured={"validation": best},
            versions=versions(),
        ),
    )
    finish(learner, stage.folder)
    return stage.folder


def _require_labels(splits: DataSplits, asked: Training, continuous: bool) -> None:
    """Refuse a loss that needs labels which the training images do not have."""
    loss = asked.loss.loss
    if continuous and splits.train.continuous is None:
        raise DataError(f"{splits.name} has no continuous labels, and {loss} needs them. Give continuous_labels.")
    if not continuous and splits.train.labels is None:
        other = splits.train.continuous is not None
        remedy = "Train with log_ratio on its continuous ones." if other else "Put each class's images in a folder."
        raise DataError(f"{splits.name} has no labels, and {loss} needs them. {remedy}")
    if splits.train.labels is not None and not continuous and len(set(splits.train.labels.tolist())) < 2:
        raise DataError(
            f"{splits.name} has one training class after split {asked.data.split!r}, but {loss} needs at least two. "
            "Give data of more classes, or another split."
        )
    if continuous and asked.data.rotate_classes:
        raise OptionError(f"rotate_classes rotates images, and {loss} has no labels for rotated ones. Leave it out.")
