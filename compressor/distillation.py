"""Distilling a teacher into a smaller student: :func:`distill`."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np

from zoo.arguments import DataLike, TeacherLike, require_valid
from zoo.stage import Stage, locking
from zoo.training.defaults import filled

log = logging.getLogger(__name__)


@locking
def distill(
    teacher: TeacherLike,
    arch: str,
    dim: int,
    data: DataLike,
    out: str | Path,
    *,
    pretrained: bool | str | Path = False,
    pool: str | None = "auto",
    image_size: int | None = None,
    crop_pct: float | None = None,
    split: str = "auto",
    validation: float = 0.2,
    continuous_labels: str | Path | None = None,
    label_metric: str = "euclidean",
    rotate_classes: bool = False,
    max_unreadable: int = 10,
    use_labels: bool = True,
    loss: str = "relaxed_contrastive",
    loss_options: dict[str, Any] | None = None,
    metric: str | None = None,
    views: int = 2,
    epochs: int | None = None,
    batch_size: int = 90,
    images_per_class: int = 2,
    augment: str = "photo",
    min_crop: float | None = None,
    lr: float | None = None,
    proxy_lr_factor: float | None = None,
    weight_decay: float = 1e-4,
    schedule: str = "cosine",
    step_epochs: int = 10,
    step_factor: float = 0.5,
    freeze: str = "none",
    freeze_batchnorm: bool | None = None,
    layer_decay: float | None = None,
    towards_start: float = 0.0,
    fit_head: bool | None = None,
    average_start: bool | None = None,
    gradient_clip: float | None = 10.0,
    validate_every: int = 1,
    precision: str = "32-true",
    teacher_precision: str = "fp32",
    teacher_cache: str | Path | None = None,
    compile: bool = False,
    devices: str | int = "auto",
    num_nodes: int = 1,
    workers: int | None = None,
    seed: int = 0,
) -> Path:
    """Distil a teacher into a student of another architecture and dimension, and save it as a model folder.

    Teacher and student see the same random views; the student learns the teacher's relations between them ("Embedding
    Transfer with Label Relaxation", CVPR 2021). Labels serve to balance batches, to measure, and in losses that add a
    term on them; images without labels work with the others. The teacher is measured first, and refused if it is no
    better than chance. A pretrained student is measured first too, as it comes, with a head that is fitted to the
    training images; if no epoch retrieves better on the validation classes, that is what is saved. A run that was
    interrupted goes on from its last whole epoch when called again with the same options; a finished one is left as it
    is.

    Args:
        teacher: a model folder, an .onnx file, an .npz file of embeddings by image id; in Python also a torch module,
            a mapping from image id to embedding, or a Teacher.
        arch: the student's architecture, any of timm's.
        dim: dimensions of the student's embedding.
        data: what to train on, such as glyphs, folder:PATH or csv:FILE; see docs/data.md.
        out: folder to save the student in.
        pretrained: true for timm's published weights, or the path of a .safetensors file with the backbone's weights.
        pool: avg, max, avgmax (as in the paper), or null for the architecture's own; auto for avgmax with random
            weights and the architecture's own with pretrained ones.
        image_size: side of the student's input in pixels; null for the architecture's own.
        crop_pct: part of the resized image that the centre crop keeps at test time; null for the architecture's own.
        split: how classes are divided: auto, given, first-half, even-odd, all-train, all-test or list:FILE.
        validation: fraction of the training classes held out to choose the best epoch on; 0 to train on all of them
            and keep the last epoch. Of the training images where there are continuous labels and no classes.
        continuous_labels: a .csv, .npz or .npy file with a continuous label for each image, to measure by where there
            are no classes; see docs/data.md.
        label_metric: how vectors in that file are compared: euclidean or cosine.
        rotate_classes: train on images turned by 90, 180 and 270 degrees too; for characters and symbols.
        max_unreadable: how many unreadable images are reported and left out before the run stops.
        use_labels: balance batches over classes, and give the classes to losses that use them; false to do without.
        loss: relaxed_contrastive, relaxed_multi_similarity, fitnet, attention, crd, darkrank, pkt, rkd, or module:Class
            for one of your own. fitnet and attention need labels and the feature maps of a timm teacher.
        loss_options: options of the loss, such as {sigma: 1.0, delta: 1.0}.
        metric: how the student's embeddings are compared: cosine or euclidean; null for cosine with pretrained weights,
            whose features have no length of their own, else what suits the loss.
        views: random views of each image in a batch.
        epochs: passes over the training images; null for 15 with pretrained weights, else 90.
        batch_size: images in a batch, over all devices; each counts views times.
        images_per_class: images of each class in a batch; 0 for random batches.
        augment: random views: photo, photo-strong, drawing or none.
        min_crop: smallest part of an image's area that a view may show; null for 0.4 with pretrained weights, else 0.2.
        lr: learning rate; null for 1e-4 with pretrained weights, else 3e-3.
        proxy_lr_factor: how many times that rate the proxies learn with, in losses that have them; null for 100 with
            pretrained weights, else 30.
        weight_decay: of AdamW.
        schedule: cosine, which rises over the first twentieth of the steps and falls to 0, or step.
        step_epochs: with schedule step, epochs between two steps.
        step_factor: with schedule step, what the rate is multiplied by.
        freeze: backbone to train the head alone, or none.
        freeze_batchnorm: keep the statistics of BatchNorm layers; null for true with pretrained weights, else false.
        layer_decay: how many times the rate of the stage after it each stage of the network learns with, from the head
            backwards; null for 1, one rate for all.
        towards_start: how strongly the backbone's weights are drawn back to the pretrained ones, as decoupled weight
            decay is to zero; 0 for not at all.
        fit_head: measure a pretrained network as it comes, on the validation classes, and begin with a head fitted to
            the training images; false for a random head, as in the papers. null for true with pretrained weights.
        average_start: average the best weights with the pretrained ones, by the share that retrieves best on the
            validation classes; null for true with pretrained weights.
        gradient_clip: largest norm of the gradient; null for no limit.
        validate_every: epochs between two measurements on the validation classes.
        precision: Lightning's, of the student: 32-true, bf16-mixed or 16-mixed; or auto: bf16-mixed where the device
            has it in hardware, else 32-true.
        teacher_precision: of the teacher's forward pass: fp32, bf16, fp16 or auto.
        teacher_cache: folder to keep the teacher's embeddings of the views in, from which another student of the same
            teacher, data, augmentation and seed learns without running the teacher; null to keep none. It takes 4
            bytes for each dimension, view, image and epoch.
        compile: run the student, and a teacher of torch, through torch.compile: a wait of a minute or so, then faster
            steps; needs a C++ compiler on CPUs. Not with losses of feature maps.
        devices: how many devices, or auto.
        num_nodes: how many machines.
        workers: processes that decode and augment; null to choose by the machine.
        seed: of weights, batches and augmentation.

    Returns:
        The student's folder.

    Raises:
        UserError: teacher, data, model or options that cannot work.
    """
    options = filled("distill", locals())
    require_valid(options)

    from zoo.data import load_data

    splits = load_data(data, split, validation, continuous_labels, label_metric)

    from zoo.teachers.opening import open_teacher

    source = open_teacher(teacher, teacher_precision, teacher_cache)
    digests = {"data_digest": splits.digest, "teacher_digest": source.digest}
    stage = Stage.open(out, distill, options | {"teacher": source.name}, **digests)
    if stage.finished:
        return stage.folder

    import lightning

    from compressor.losses import LOSSES
    from compressor.transfer import require_transferable, transfer
    from zoo.losses import find_loss
    from zoo.models.facts import EUCLIDEAN, ModelFacts, set_facts
    from zoo.models.int8_speed import advice
    from zoo.models.making import create_model
    from zoo.training.fitting import finish
    from zoo.versions import versions

    require_transferable(source, splits, options)
    # Not the seed that train would take: a student of its teacher's network would begin with its teacher's weights.
    lightning.seed_everything(int(np.random.SeedSequence([seed, 1]).generate_state(1)[0]), verbose=False)
    metric = options["metric"] or getattr(find_loss(loss, LOSSES), "metric", EUCLIDEAN)
    model = create_model(arch, dim, pretrained, options["pool"], image_size, crop_pct, metric)
    if (warning := advice(arch)) is not None:
        log.warning(warning)
    learner, measured = transfer(model, source, splits, stage.folder, options, pretrained=pretrained)
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
