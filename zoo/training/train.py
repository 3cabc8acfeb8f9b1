"""Training a teacher: :func:`train`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from zoo.arguments import DataLike, require_valid
from zoo.errors import DataError, OptionError
from zoo.stage import Stage, locking
from zoo.training.defaults import filled

_IMAGES_PER_CLASS = 4  # where a loss has no attribute images_per_class; losses of pairs need two at least


@locking
def train(
    data: DataLike,
    out: str | Path,
    arch: str = "resnet18",
    dim: int = 512,
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
    loss: str = "proxy_anchor",
    loss_options: dict[str, Any] | None = None,
    epochs: int | None = None,
    batch_size: int = 120,
    images_per_class: int | None = None,
    neighbours: int = 5,
    augment: str = "photo",
    min_crop: float | None = None,
    lr: float | None = None,
    proxy_lr_factor: float | None = None,
    weight_decay: float = 1e-4,
    schedule: str = "cosine",
    step_epochs: int = 10,
    step_factor: float = 0.5,
    warmup_epochs: int = 0,
    freeze: str = "none",
    freeze_batchnorm: bool | None = None,
    layer_decay: float | None = None,
    towards_start: float = 0.0,
    fit_head: bool | None = None,
    average_start: bool | None = None,
    gradient_clip: float | None = 10.0,
    validate_every: int = 1,
    precision: str = "32-true",
    compile: bool = False,
    devices: str | int = "auto",
    num_nodes: int = 1,
    workers: int | None = None,
    seed: int = 0,
) -> Path:
    """Train a teacher with a metric-learning loss, on classes or on continuous labels, and save it as a model folder.

    Pretrained weights are measured first, on the validation classes, as they come, with a head that is fitted to the
    training images; if no epoch retrieves better, that is what is saved.

    A run that was interrupted goes on from its last whole epoch when called again with the same options; a finished
    one is left as it is.

    Args:
        data: what to train on, such as glyphs, folder:PATH or csv:FILE; see docs/data.md.
        out: folder to save the model in.
        arch: any timm architecture.
        dim: dimensions of the embedding.
        pretrained: true for timm's published weights, or the path of a .safetensors file with the backbone's weights.
        pool: avg, max, avgmax (as in the papers), or null for the architecture's own; auto for avgmax with random
            weights and the architecture's own with pretrained ones.
        image_size: side of the network's input in pixels; null for the architecture's own.
        crop_pct: part of the resized image that the centre crop keeps at test time; null for the architecture's own.
        split: how classes are divided: auto, given, first-half, even-odd, all-train, all-test or list:FILE.
        validation: fraction of the training classes held out to choose the best epoch on; 0 to train on all of them
            and keep the last epoch. Of the training images where there are continuous labels and no classes.
        continuous_labels: a .csv, .npz or .npy file with a continuous label for each image; see docs/data.md.
        label_metric: how vectors in that file are compared: euclidean or cosine.
        rotate_classes: count each training class turned by 90, 180 and 270 degrees as classes of their own; for
            characters and symbols.
        max_unreadable: how many unreadable images are reported and left out before the run stops.
        loss: name of the loss, or module:Class for one of your own.
        loss_options: options of the loss, such as {margin: 0.1, alpha: 32}.
        epochs: passes over the training images; null for 10 with pretrained weights, else 40.
        batch_size: images in a batch, over all devices.
        images_per_class: images of each class in a batch; 0 for random batches, null for what suits the loss: 1 for
            proxy_anchor, else 4.
        neighbours: with a loss for continuous labels: images of a batch that have the labels nearest to its anchor's.
        augment: random views: photo, photo-strong, drawing or none.
        min_crop: smallest part of an image's area that a view may show; null for 0.4 with pretrained weights, else 0.2.
        lr: learning rate of the network; null for 1e-4 with pretrained weights, else 3e-3.
        proxy_lr_factor: how many times that rate the loss's proxies learn with; null for 100 with pretrained weights,
            else 30.
        weight_decay: of AdamW.
        schedule: cosine, which rises over the first twentieth of the steps and falls to 0, or step.
        step_epochs: with schedule step, epochs between two steps.
        step_factor: with schedule step, what the rate is multiplied by.
        warmup_epochs: epochs at the start that train only head and proxies.
        freeze: backbone to train the head and the proxies alone, or none.
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
        precision: Lightning's: 32-true, bf16-mixed or 16-mixed; or auto: bf16-mixed where the device has it in
            hardware, else 32-true.
        compile: run the network through torch.compile: a wait of a minute or so, then faster steps; needs a C++
            compiler on CPUs.
        devices: how many devices, or auto.
        num_nodes: how many machines.
        workers: processes that decode and augment; null to choose by the machine.
        seed: of weights, batches and augmentation.

    Returns:
        The model folder.

    Raises:
        UserError: data, model or options that cannot work.
    """
    options = filled("train", locals())
    require_valid(options)

    from zoo.data import load_data
    from zoo.retrieval.protocol import require_training_images

    splits = load_data(data, split, validation, continuous_labels, label_metric)
    stage = Stage.open(out, train, options, data_digest=splits.digest)
    if stage.finished:
        return stage.folder
    require_training_images(splits, split)

    from zoo.losses import CONTINUOUS, create_loss, find_loss, labels_of

    loss_class = find_loss(loss)
    continuous = labels_of(loss_class) == CONTINUOUS
    if continuous and splits.train.continuous is None:
        raise DataError(f"{splits.name} has no continuous labels, and {loss} needs them. Give continuous_labels.")
    if not continuous and splits.train.labels is None:
        other = splits.train.continuous is not None
        remedy = "Train with log_ratio on its continuous ones." if other else "Put each class's images in a folder."
        raise DataError(f"{splits.name} has no labels, and {loss} needs them. {remedy}")
    if splits.train.labels is not None and not continuous and len(set(splits.train.labels.tolist())) < 2:
        raise DataError(
            f"{splits.name} has one training class after split {split!r}, and {loss} tells classes apart. Give data of "
            "more classes, or another split."
        )
    if continuous and rotate_classes:
        raise OptionError(f"rotate_classes turns images, whose labels {loss} would not know then. Leave it out.")

    import lightning
    import numpy as np
    import torch

    from zoo.data.rotations import with_rotations
    from zoo.models.embedding import embed, fastest_device
    from zoo.models.facts import COSINE, ModelFacts, set_facts
    from zoo.models.making import classifier_of, create_model
    from zoo.models.network import preprocessing_of
    from zoo.training.augmentation import Views
    from zoo.training.fitting import finish, fit, training_loader
    from zoo.training.learner import Learner
    from zoo.training.start import Start
    from zoo.versions import versions

    def chosen(*names: str) -> dict[str, Any]:
        return {name: options[name] for name in names}

    class ProxyLearner(Learner):
        """Embeds one view of each image and applies the loss with the labels."""

        def training_step(self, batch: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
            views, indices = batch
            embeddings = self.of_all_ranks(self.embed_views(views.flatten(0, 1)).float())
            labels = self.of_all_ranks(targets.to(indices.device)[indices])
            value: torch.Tensor = self.loss(embeddings, labels)
            self.log("train/loss", value, prog_bar=True)
            return value

    class AnchorLearner(Learner):
        """Embeds one view of each image and applies the loss with the label distances from the first image."""

        def training_step(self, batch: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
            assert images.continuous is not None
            views, indices = batch
            embeddings = self.of_all_ranks(self.embed_views(views.flatten(0, 1)).float())
            rows = self.of_all_ranks(indices).cpu().numpy()
            distances = torch.from_numpy(images.continuous.distances(rows[:1], rows[1:])[0]).float()
            value: torch.Tensor = self.loss(embeddings[0], embeddings[1:], distances.to(embeddings.device))
            self.log("train/loss", value, prog_bar=True)
            return value

    lightning.seed_everything(seed, verbose=False)
    metric = getattr(loss_class, "metric", COSINE)
    # Before the images: errors come early.
    model = create_model(arch, dim, pretrained, options["pool"], image_size, crop_pct, metric)
    images = splits.train.checked(max_unreadable)
    if rotate_classes:
        images = with_rotations(images)
    loss_arguments = dict(loss_options or {})
    if not continuous:
        assert images.labels is not None
        classes, dense = np.unique(images.labels, return_inverse=True)
        targets = torch.from_numpy(dense.astype(np.int64))
        loss_arguments |= {"num_classes": len(classes), "dim": dim}
    objective = create_loss(loss, **loss_arguments)
    learner = (AnchorLearner if continuous else ProxyLearner)(
        model,
        objective,
        splits.validation.checked(max_unreadable) if len(splits.validation) else None,
        warmup_epochs=warmup_epochs,
        **chosen("lr", "proxy_lr_factor", "weight_decay", "schedule", "step_epochs", "step_factor", "validate_every"),
        **chosen("freeze", "freeze_batchnorm", "layer_decay", "towards_start", "seed", "compile"),
    )
    views = Views(images, preprocessing_of(model), augment, options["min_crop"])
    nearest = neighbours if continuous else None
    if images_per_class is None:
        images_per_class = getattr(loss_class, "images_per_class", _IMAGES_PER_CLASS)
    loader = training_loader(images, views, batch_size, images_per_class, True, workers, seed, nearest)
    start = None
    if options["fit_head"] and pretrained:
        start = Start(images, use_labels=not continuous, seed=seed, classifier=classifier_of(arch, pretrained))
    trained = chosen("epochs", "precision", "gradient_clip", "devices", "num_nodes")
    best = fit(learner, loader, stage.folder, **trained, start=start, average=options["average_start"])
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
