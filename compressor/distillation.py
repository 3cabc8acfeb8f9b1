"""Distil a teacher into a smaller student: :func:`distill`."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np

from zoo.arguments import ArchLike, DataLike, TeacherLike, require_valid
from zoo.stage import CHECKPOINTS, Stage, locking
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

log = logging.getLogger(__name__)


@locking
@documented
def distill(
    teacher: TeacherLike,
    data: DataLike,
    out: str | Path,
    *,
    arch: ArchLike = "mobilenetv4_conv_small",
    arch_options: dict[str, Any] | None = NetworkOptions.arch_options,
    dim: int = 64,
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
    use_labels: bool = DataOptions.use_labels,
    loss: str = "relaxed_contrastive",
    loss_options: dict[str, Any] | None = LossOptions.loss_options,
    metric: str | None = None,
    views: int = 2,
    epochs: int | None = None,
    batch_size: int = 90,
    images_per_class: int = 2,
    augment: str = BatchOptions.augment,
    min_crop: float | None = None,
    lr: float | None = None,
    proxy_lr_factor: float | None = None,
    weight_decay: float = OptimisationOptions.weight_decay,
    schedule: str = OptimisationOptions.schedule,
    step_epochs: int = OptimisationOptions.step_epochs,
    step_factor: float = OptimisationOptions.step_factor,
    freeze: str = OptimisationOptions.freeze,
    freeze_batchnorm: bool | None = None,
    layer_decay: float | None = None,
    towards_start: float = OptimisationOptions.towards_start,
    fit_head: bool | None = None,
    average_start: bool | None = None,
    gradient_clip: float | None = OptimisationOptions.gradient_clip,
    validate_every: int = OptimisationOptions.validate_every,
    precision: str = MachineOptions.precision,
    teacher_precision: str = "fp32",
    teacher_views: int | None = None,
    teacher_cache: str | Path | None = None,
    compile: bool = MachineOptions.compile,
    devices: str | int = MachineOptions.devices,
    num_nodes: int = MachineOptions.num_nodes,
    workers: int | None = MachineOptions.workers,
    seed: int = MachineOptions.seed,
) -> Path:
    """Distil a teacher into a student of another architecture and dimension, and save it as a model folder.

    Teacher and student see the same random views, and the student learns how the teacher relates them ("Embedding
    Transfer with Label Relaxation", CVPR 2021). Labels balance batches, choose the best epoch, and serve losses that
    use them; other losses work without labels. The teacher is measured first, and refused if it is no better than
    chance. A pretrained student is measured first too, with a head fitted to the training images; if no epoch retrieves
    better on the validation classes, that is what is saved.

    Called again with the same options, an interrupted run resumes from its last complete epoch, and a finished one is
    reused.

    Args:
        teacher: a model folder, an .onnx file, an .npz file of embeddings, or a name such as hf:facebook/dinov2-small,
            see docs/how-to/own-teacher.md; in Python also a torch module, a mapping from image id to embedding, or a
            Teacher.
        data: training data, such as glyphs, folder:PATH or csv:FILE; see docs/data.md.
        out: folder for the student.
        arch: the student's architecture, any of timm's; or a model folder to continue from (timm's, or one that train
            or distill saved); in Python also a torch module that returns (N, dim).
        dim: dimensions of the student's embedding.
        loss: relaxed_contrastive, relaxed_multi_similarity, similarity, regression, rkd, pkt, darkrank, crd, fitnet,
            attention, or module:Class for your own; see docs/losses.md. fitnet and attention need labels and a timm
            teacher.
        loss_options: options of the loss, such as {sigma: 1.0, delta: 1.0}.
        metric: how the student's embeddings are compared: cosine or euclidean; null for cosine with pretrained weights,
            else what suits the loss.
        epochs: passes over the training images; null for 15 with pretrained weights, else 90.
        batch_size: images in a batch, over all devices; each counts once per view.
        precision: Lightning's precision for the student: 32-true, bf16-mixed, 16-mixed, or auto (bf16-mixed if the
            hardware supports it, else 32-true).
        teacher_precision: precision of the teacher's forward pass on views: fp32, bf16, fp16, or auto (bf16 if the
            hardware supports it, else fp32).
        teacher_views: random views of each image in all, such as 8, each of which the teacher embeds once and the
            student sees again and again; null for new ones in every epoch.
        teacher_cache: folder that stores the teacher's embeddings of the views, so that other students with the same
            teacher, data, augmentation and seed need not run it; null for none, or with teacher_views for a folder in
            out. Takes 4 bytes per dimension, image and view; without teacher_views, of each epoch.

    Returns:
        The student's folder.

    Raises:
        UserError: the teacher, the data, the model or an option is unusable.
    """
    options = filled("distill", locals())
    require_valid(options)
    asked = Training.of(options)

    from zoo.data import load_data

    splits = load_data(data, **asked.data.division)

    from zoo.teachers.opening import open_teacher

    source = open_teacher(teacher, teacher_precision, None if teacher_views else teacher_cache)
    digests = {"data_digest": splits.digest, "teacher_digest": source.digest}
    stage = Stage.open(out, distill, options | {"data": splits.name, "teacher": source.name}, **digests)
    if stage.finished:
        return stage.folder

    import lightning

    from compressor.losses import LOSSES
    from compressor.numbered_views import NumberedViews
    from compressor.transfer import require_transferable, transfer
    from zoo.losses import find_loss
    from zoo.models.embedding import fastest_device
    from zoo.models.facts import EUCLIDEAN, ModelFacts, set_facts
    from zoo.models.int8_speed import advice
    from zoo.models.making import create_model
    from zoo.training.fitting import finish
    from zoo.versions import versions

    require_transferable(source, splits, asked)
    if teacher_precision == "auto" and (chosen := source.precision_on(fastest_device())):
        log.info("teacher %s embeds views in %s (teacher_precision auto)", source.name, chosen)
    # Not the seed of train: a student with its teacher's architecture would start from the teacher's initial weights.
    lightning.seed_everything(int(np.random.SeedSequence([seed, 1]).generate_state(1)[0]), verbose=False)
    metric = options["metric"] or getattr(find_loss(loss, LOSSES), "metric", EUCLIDEAN)
    model = create_model(**vars(asked.network), metric=metric)
    if isinstance(arch, str) and (warning := advice(options["arch"])) is not None:
        log.warning(warning)
    numbered = None
    if teacher_views is not None:
        numbered = NumberedViews(teacher_views, teacher_cache or stage.folder / CHECKPOINTS)
    learner, measured = transfer(model, source, splits, stage.folder, asked, numbered=numbered)
    set_facts(
        model,
        ModelFacts(
            metric=metric,
            loss=loss,
            options=stage.options,
            data={"name": splits.name, **splits.protocol},
            teacher={"name": source.name, "digest": source.digest},
            measured=measured,
            versions=versions(),
        ),
    )
    finish(learner, stage.folder)
    return stage.folder
