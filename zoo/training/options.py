"""Options of the verbs that train, grouped by subject: type, default and help of each, written once.

``train``, ``distill`` and the int8 finish take flat options. They gather them into subjects once and pass those on:
``Training.of(options).batches.augment``. The verbs also take null for a default that depends on the weights
(``zoo.training.defaults``); subjects hold values only, and their own defaults suit random weights.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, TypeVar

from zoo.arguments import ArchLike

F = TypeVar("F", bound=Callable[..., Any])
S = TypeVar("S")


@dataclass(frozen=True)
class DataOptions:
    """The images, and how they are split.

    Attributes:
        split: rule that divides the classes: auto, given, first-half, even-odd, all-train, all-test or list:FILE; see
            docs/data.md.
        validation: fraction of the training classes held out to choose the best epoch; of the training images if there
            are continuous labels and no classes. 0 trains on everything and keeps the last epoch.
        continuous_labels: a .csv, .npz or .npy file with a continuous label for each image; see
            docs/how-to/continuous-labels.md.
        label_metric: how label vectors are compared: euclidean or cosine.
        columns: names of a table's columns, such as {path: file, label: sku}; see docs/data.md.
        max_unreadable: unreadable images that are reported and left out; one more stops the run.
        rotate_classes: also train on images rotated by 90, 180 and 270 degrees, as separate classes; for characters and
            symbols.
        use_labels: balance batches over classes, and pass the classes to losses that use them; false ignores labels.
    """

    split: str = "auto"
    validation: float = 0.2
    continuous_labels: str | Path | None = None
    label_metric: str = "euclidean"
    columns: dict[str, str] | None = None
    max_unreadable: int = 10
    rotate_classes: bool = False
    use_labels: bool = True

    @property
    def division(self) -> dict[str, Any]:
        """The arguments of ``load_data`` besides the data."""
        names = ("split", "validation", "continuous_labels", "label_metric", "columns")
        return {name: getattr(self, name) for name in names}


@dataclass(frozen=True)
class NetworkOptions:
    """The network and its initial weights.

    Attributes:
        arch: any timm architecture; or a model folder to continue from: timm's, or one that train or distill saved; in
            Python also a torch module that returns (N, dim).
        arch_options: more arguments of timm.create_model, such as {pad_type: same, drop_path_rate: 0.1}.
        dim: dimensions of the embedding.
        pretrained: true for timm's published weights, or the path of a .safetensors file with the backbone's weights;
            false for random weights.
        pool: pooling: avg, max, avgmax (as in the papers), or null for the architecture's own; auto means avgmax for
            random weights and the architecture's own for pretrained ones.
        image_size: side of the network's input, in pixels; null for the architecture's own.
        crop_pct: fraction of the resized image that the centre crop keeps at test time; null for the architecture's
            own.
    """

    arch: ArchLike = "resnet18"
    arch_options: dict[str, Any] | None = None
    dim: int = 512
    pretrained: bool | str | Path = False
    pool: str | None = "avgmax"
    image_size: int | None = None
    crop_pct: float | None = None


@dataclass(frozen=True)
class LossOptions:
    """The loss.

    Attributes:
        loss: name of the loss, or module:Class for your own; see docs/losses.md.
        loss_options: options of the loss, by name.
    """

    loss: str = "proxy_anchor"
    loss_options: dict[str, Any] | None = None


@dataclass(frozen=True)
class BatchOptions:
    """The contents of a batch, and the views of its images.

    Attributes:
        batch_size: images in a batch, over all devices.
        images_per_class: images of each class in a batch; 0 for random batches.
        neighbours: for losses on continuous labels: images in a batch whose labels are nearest to the anchor's.
        views: random views of each image in a batch.
        augment: random views: photo, photo-strong, photo-mixed (distill only), mild (hardly moved), drawing or none.
        min_crop: smallest fraction of an image's area that a view may show; null for 0.4 with pretrained weights, else
            0.2.
    """

    batch_size: int = 120
    images_per_class: int = 4
    neighbours: int = 5
    views: int = 1
    augment: str = "photo"
    min_crop: float = 0.2


@dataclass(frozen=True)
class OptimisationOptions:
    """How the weights are trained, and which are kept.

    Attributes:
        epochs: passes over the training images.
        lr: learning rate of the network; null for 1e-4 with pretrained weights, else 3e-3.
        proxy_lr_factor: learning rate of the loss's proxies, as a multiple of lr; null for 100 with pretrained weights,
            else 30.
        weight_decay: weight decay of AdamW.
        schedule: cosine (warms up over the first twentieth of the steps, then falls to 0) or step.
        step_epochs: for schedule step: epochs between two steps.
        step_factor: for schedule step: factor by which each step multiplies the rate.
        warmup_epochs: first epochs, in which only the head and the proxies are trained.
        freeze: backbone to train only the head and the proxies, or none. train then computes the features of each image
            once, without random views, which takes minutes on a CPU.
        freeze_batchnorm: keep the BatchNorm statistics fixed; null for true with pretrained weights, else false.
        layer_decay: factor between the learning rates of neighbouring stages, from the head backwards; null for 1, the
            same rate everywhere.
        towards_start: strength with which the backbone's weights are pulled back to their pretrained values, like
            decoupled weight decay: each by its own learning rate; 0 for none.
        fit_head: measure the pretrained network on the validation classes first, and start with a head fitted to the
            training images; false for a random head, as in the papers; null for true with pretrained weights.
        average_start: average the best weights with the pretrained ones, in the proportion that retrieves best on the
            validation classes; null for true with pretrained weights.
        gradient_clip: largest norm of the gradient; null for no limit.
        validate_every: epochs between two measurements on the validation classes; the last epoch is always measured.
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


@dataclass(frozen=True)
class MachineOptions:
    """The machine, the precision and the seed.

    Attributes:
        precision: Lightning's precision: 32-true, bf16-mixed, 16-mixed, or auto (bf16-mixed if the hardware supports
            it, else 32-true).
        compile: run the network, and a torch teacher, through torch.compile: a minute's wait, then faster steps. Needs
            a C++ compiler on CPUs; not for losses on feature maps.
        devices: number of devices, or auto for all.
        num_nodes: number of machines.
        workers: processes that decode and augment images; null to choose by the machine.
        seed: seed for weights, batches and augmentation.
    """

    precision: str = "32-true"
    compile: bool = False
    devices: str | int = "auto"
    num_nodes: int = 1
    workers: int | None = None
    seed: int = 0


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
    """All options of a training run."""

    data: DataOptions
    network: NetworkOptions
    loss: LossOptions
    batches: BatchOptions
    optimisation: OptimisationOptions
    machine: MachineOptions

    @classmethod
    def of(cls, options: Mapping[str, Any]) -> Training:
        """Gather a verb's options, by name, into subjects; other names are ignored."""
        return cls(**{name: gathered(subject, options) for name, subject in SUBJECTS.items()})


def gathered(subject: type[S], options: Mapping[str, Any]) -> S:
    """Make a subject from the options that belong to it; missing ones take their defaults."""
    names = {each.name for each in fields(subject)}  # type: ignore[arg-type]
    return subject(**{name: value for name, value in options.items() if name in names})


def documented(verb: F) -> F:
    """Add the help of the subjects' options to a verb's docstring, unless it describes them itself.

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
    """Return the entries of a docstring's last section by name, with their line breaks."""
    section = re.split(r"\n(?:Args|Attributes):\n", inspect.cleandoc(docstring))[-1]
    found = re.findall(r"^    (\w+): (.*(?:\n     .*)*)", section, flags=re.MULTILINE)
    return dict(found)
