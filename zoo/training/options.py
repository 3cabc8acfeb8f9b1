"""What the verbs that train are asked for, by subject: each option's type, default and help, once.

``train``, ``distill`` and the int8 finish take options flat, by name. They gather them into subjects once, and pass
those on: ``Training.of(options).batches.augment``. A subject holds values, where the verbs also take null for what
suits the weights (``zoo.training.defaults``); its own defaults are those for random weights.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, TypeVar

F = TypeVar("F", bound=Callable[..., Any])
S = TypeVar("S")


@dataclass(frozen=True)
class DataOptions:
    """Which images, and how they are divided.

    Attributes:
        split: how classes are divided: auto, given, first-half, even-odd, all-train, all-test or list:FILE.
        validation: fraction of the training classes held out to choose on; of the training images where there are
            continuous labels and no classes. 0 to train on all of them and keep the last epoch.
        continuous_labels: a .csv, .npz or .npy file with a continuous label for each image; see docs/data.md.
        label_metric: how vectors in that file are compared: euclidean or cosine.
        max_unreadable: how many unreadable images are reported and left out before the run stops.
        rotate_classes: train on images turned by 90, 180 and 270 degrees too, as classes of their own; for characters
            and symbols.
    """

    split: str = "auto"
    validation: float = 0.2
    continuous_labels: str | Path | None = None
    label_metric: str = "euclidean"
    max_unreadable: int = 10
    rotate_classes: bool = False

    @property
    def division(self) -> dict[str, Any]:
        """The arguments of ``load_data`` besides the data."""
        return {name: getattr(self, name) for name in ("split", "validation", "continuous_labels", "label_metric")}


@dataclass(frozen=True)
class NetworkOptions:
    """The network, and what it begins with.

    Attributes:
        arch: any timm architecture.
        dim: dimensions of the embedding.
        pretrained: true for timm's published weights, or the path of a .safetensors file with the backbone's weights.
        pool: avg, max, avgmax (as in the papers), or null for the architecture's own; auto for avgmax with random
            weights and the architecture's own with pretrained ones.
        image_size: side of the network's input in pixels; null for the architecture's own.
        crop_pct: part of the resized image that the centre crop keeps at test time; null for the architecture's own.
    """

    arch: str = "resnet18"
    dim: int = 512
    pretrained: bool | str | Path = False
    pool: str | None = "avgmax"
    image_size: int | None = None
    crop_pct: float | None = None


@dataclass(frozen=True)
class LossOptions:
    """The loss.

    Attributes:
        loss: name of the loss, or module:Class for one of your own.
        loss_options: options of the loss by name.
        use_labels: balance batches over classes, and give the classes to losses that use them; false to do without.
    """

    loss: str = "proxy_anchor"
    loss_options: dict[str, Any] | None = None
    use_labels: bool = True


@dataclass(frozen=True)
class BatchOptions:
    """What a batch holds, and which views of its images.

    Attributes:
        batch_size: images in a batch, over all devices.
        images_per_class: images of each class in a batch; 0 for random batches.
        neighbours: with a loss for continuous labels: images of a batch that have the labels nearest to its anchor's.
        views: random views of each image in a batch.
        augment: random views: photo, photo-strong, mild (no flips, hardly moved), drawing or none.
        min_crop: smallest part of an image's area that a view may show; null for 0.4 with pretrained weights, else 0.2.
    """

    batch_size: int = 120
    images_per_class: int = 4
    neighbours: int = 5
    views: int = 1
    augment: str = "photo"
    min_crop: float = 0.2


@dataclass(frozen=True)
class OptimisationOptions:
    """How weights are trained, and which are kept.

    Attributes:
        epochs: passes over the training images.
        lr: learning rate of the network; null for 1e-4 with pretrained weights, else 3e-3.
        proxy_lr_factor: how many times that rate the proxies learn with, in losses that have them; null for 100 with
            pretrained weights, else 30.
        weight_decay: of AdamW.
        schedule: cosine, which rises over the first twentieth of the steps and falls to 0, or step.
        step_epochs: with schedule step, epochs between two steps.
        step_factor: with schedule step, what the rate is multiplied by.
        warmup_epochs: epochs at the start that train only head and proxies.
        freeze: backbone to train the head and the proxies alone, or none. train then computes the features of each
            image once, as it is tested, without random views: minutes on a CPU.
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
        validate_every: epochs between two measurements on the validation classes; the last is always measured.
        seed: of weights, batches and augmentation.
    """

    epochs: int = 40
    lr: float = 3e-3
    proxy_lr_factor: float = 30.0
    weight_decay: float = 1e-4
    schedule: str = "cosine"
    step_epochs: int = 10
    step_factor: float = 0.5
    warmup_epochs: int = 0
    freeze: str = "none"
    freeze_batchnorm: bool = False
    layer_decay: float = 1.0
    towards_start: float = 0.0
    fit_head: bool = False
    average_start: bool = False
    gradient_clip: float | None = 10.0
    validate_every: int = 1
    seed: int = 0


@dataclass(frozen=True)
class MachineOptions:
    """What it runs on, and how.

    Attributes:
        precision: Lightning's: 32-true, bf16-mixed or 16-mixed; or auto: bf16-mixed where the device has it in
            hardware, else 32-true.
        compile: run the network, and a teacher of torch, through torch.compile: a wait of a minute or so, then faster
            steps; needs a C++ compiler on CPUs. Not with losses of feature maps.
        devices: how many devices, or auto.
        num_nodes: how many machines.
        workers: processes that decode and augment; null to choose by the machine.
    """

    precision: str = "32-true"
    compile: bool = False
    devices: str | int = "auto"
    num_nodes: int = 1
    workers: int | None = None


SUBJECTS: dict[str, type] = {
    "data": DataOptions,
    "network": NetworkOptions,
    "loss": LossOptions,
    "batches": BatchOptions,
    "optimisation": OptimisationOptions,
    "machine": MachineOptions,
}


@dataclass(frozen=True)
class Training:
    """All that a training is asked for."""

    data: DataOptions
    network: NetworkOptions
    loss: LossOptions
    batches: BatchOptions
    optimisation: OptimisationOptions
    machine: MachineOptions

    @classmethod
    def of(cls, options: Mapping[str, Any]) -> Training:
        """Gather a verb's options, by name, into subjects; names that belong to none are passed over."""
        return cls(**{name: gathered(subject, options) for name, subject in SUBJECTS.items()})


def gathered(subject: type[S], options: Mapping[str, Any]) -> S:
    """Make a subject of the options that belong to it; what is not among them is at its default."""
    names = {each.name for each in fields(subject)}  # type: ignore[arg-type]
    return subject(**{name: value for name, value in options.items() if name in names})


def documented(verb: F) -> F:
    """Complete a verb's docstring: the help of the options that it has of the subjects and does not describe itself.

    ``Args`` then lists all parameters in the order of the signature.
    """
    before, _, rest = inspect.cleandoc(verb.__doc__ or "").partition("\nArgs:\n")
    own, _, after = rest.partition("\n\n")
    known = {name: text for subject in SUBJECTS.values() for name, text in _entries(subject.__doc__ or "").items()}
    known |= _entries(f"\nArgs:\n{own}")
    listed = [f"    {name}: {known[name]}" for name in inspect.signature(verb).parameters if name in known]
    verb.__doc__ = "\n".join([before, "Args:", *listed, "", after])
    return verb


def _entries(docstring: str) -> dict[str, str]:
    """Return the entries of a docstring's last section by name, each with its lines as they are."""
    section = re.split(r"\n(?:Args|Attributes):\n", inspect.cleandoc(docstring))[-1]
    found = re.findall(r"^    (\w+): (.*(?:\n     .*)*)", section, flags=re.MULTILINE)
    return dict(found)
