"""Relaxed contrastive loss as an auxiliary loss for a classifier (CVPR 2021, section on image classification).

    python -m benchmarks.papers.classifier --data folder:PATH --tune
    python -m benchmarks.papers.classifier --data folder:PATH --seeds 0 1 2

Here the classes are the same in training and test: of the 20 drawings of each training character, 12 are for training,
3 for validation and 5 for the test. A network's output is the logits of the classes, and the features before them are
transferred. With ``--tune`` every method gets the four runs of ``GRID`` with seed 0, judged on the validation drawings.
Without it every method runs with its best options and is measured on the test drawings. A finished run is a line in the
results and is not run again while its settings stay the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.papers.comparison import Comparison
from benchmarks.papers.plots import draw_bars
from benchmarks.papers.protocol import SPLIT, arguments, every_fourth
from benchmarks.results import (
    Options,
    Settings,
    digest_of,
    gain_over,
    grouped,
    made_with,
    markdown_table,
    percent,
    spread,
)
from compressor import distill
from compressor.cli.manners import Manners, heard
from compressor.losses.relaxed_contrastive import RelaxedContrastiveLoss
from zoo import DataSplits, ImageSet, load_data, load_model, train
from zoo.models.embedding import embed

MODULE = "benchmarks.papers.classifier"

COMMON: dict[str, Any] = {
    "image_size": 32,
    "crop_pct": 1.0,
    "augment": "drawing",
    "min_crop": 0.6,
    "batch_size": 64,
    "validation": 0.0,
}
TEACHER_OPTIONS = COMMON | {"arch": "resnet10t", "epochs": 40, "lr": 3e-3, "precision": "auto"}
STUDENT_OPTIONS = COMMON | {"arch": "test_efficientnet", "epochs": 40, "teacher_precision": "auto"}
TEACHER, ALONE = "teacher", "cross-entropy"


def _weighted(relaxed: float, logits: float, lr: float) -> Options:
    return {"lr": lr, "loss_options": {"relaxed": relaxed, "logits": logits}}


# Four runs each: four rates for cross-entropy alone, else two rates with two weights of the added losses.
RATES = (1e-2, 3e-2)
GRID: dict[str, list[Options]] = {
    ALONE: [_weighted(0.0, 0.0, lr) for lr in (1e-3, 3e-3, 1e-2, 3e-2)],
    "+ relaxed contrastive": [_weighted(weight, 0.0, lr) for lr in RATES for weight in (0.3, 1.0)],
    "+ knowledge distillation": [_weighted(0.0, weight, lr) for lr in RATES for weight in (0.3, 1.0)],
    "+ both": [_weighted(*weights, lr) for lr in RATES for weights in ((0.3, 1.0), (1.0, 1.0))],
}


class CrossEntropy(nn.Module):
    """Cross-entropy of a teacher's logits."""

    def __init__(self, num_classes: int, dim: int) -> None:
        super().__init__()

    def forward(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        """Return the cross-entropy of logits ``(N, C)`` and labels ``(N,)``."""
        return functional.cross_entropy(embeddings.float(), labels)


class AssistedCrossEntropy(nn.Module):
    """Cross-entropy, with relaxed contrastive loss on the pooled features and Hinton's distillation of the logits.

    Args:
        relaxed: weight of the relaxed contrastive loss.
        logits: weight of the divergence from the teacher's softened logits (arXiv:1503.02531).
        temperature: temperature of the softened logits.
    """

    def __init__(self, relaxed: float, logits: float, temperature: float = 4.0) -> None:
        super().__init__()
        self.relaxed = relaxed
        self.logits = logits
        self.temperature = temperature
        self.relaxed_contrastive = RelaxedContrastiveLoss()

    def forward(
        self,
        student: Tensor,
        teacher: Tensor,
        image_ids: Tensor,
        labels: Tensor,
        student_maps: Sequence[Tensor],
        teacher_maps: Sequence[Tensor],
    ) -> Tensor:
        """Return the loss of logits ``(N, C)`` and last feature maps ``(N, D, H, W)``."""
        loss = functional.cross_entropy(student, labels)
        if self.relaxed:
            features = (maps[-1].float().mean(dim=(2, 3)) for maps in (student_maps, teacher_maps))
            loss = loss + self.relaxed * self.relaxed_contrastive(*features)
        if self.logits:
            soft = functional.log_softmax(teacher / self.temperature, dim=1)
            own = functional.log_softmax(student / self.temperature, dim=1)
            divergence = functional.kl_div(own, soft, reduction="batchmean", log_target=True)
            loss = loss + self.logits * self.temperature**2 * divergence
        return loss


@heard(Manners())
def main() -> None:
    """Make the runs that are not in the results yet, then write the table and the plot."""
    options = arguments(__doc__).parse_args()
    data = within_classes(load_data(options.data, SPLIT, validation=0.0))
    work = options.work / "classifier"
    if options.tune:
        tune(data, work)
    else:
        for seed in options.seeds:
            compare(data, seed, work)
    lines = COMPARISON.lines(KEYS)
    COMPARISON.write(table(lines, COMPARISON.tuning_lines(KEYS)))
    if lines:
        panels = {"Classification, Omniglot": grouped(lines, "method", _validated)}
        draw_bars(panels, "accuracy, %", COMPARISON.plot)


def within_classes(data: DataSplits) -> DataSplits:
    """Return the training classes, a quarter of each class's images as test and a quarter of the rest as validation."""
    assert data.train.labels is not None
    classes, labels = np.unique(data.train.labels, return_inverse=True)
    images = replace(data.train, labels=labels, class_names=[data.train.class_names[label] for label in classes])
    test = every_fourth(labels)
    rest, rest_labels = np.flatnonzero(~test), labels[~test]
    validation = every_fourth(rest_labels)
    return replace(
        data,
        train=images.subset(rest[~validation]),
        validation=images.subset(rest[validation]),
        test=images.subset(np.flatnonzero(test)),
    )


def tune(data: DataSplits, work: Path) -> None:
    """Try the grid of each method, and record the accuracy on the validation drawings."""

    def judged(settings: Settings) -> dict[str, Any]:
        return {"accuracy": accuracy(make(settings, data, 0, work), data.validation)}

    for method in GRID:
        COMPARISON.tune({"method": method}, judged)


def compare(data: DataSplits, seed: int, work: Path) -> None:
    """Train teacher and students of a seed, and measure them on the test drawings."""

    def judged(settings: Settings) -> dict[str, Any]:
        return {"accuracy": accuracy(make(settings, data, seed, work), data.test)}

    for method in (TEACHER, *GRID):
        COMPARISON.compare({"method": method}, judged, seed=seed)


def settings_of(method: str, tried: Options) -> Settings:
    """Return all settings of a method's run with these options, except data and seed."""
    settings: Settings = {"teacher": TEACHER_OPTIONS | {"loss": f"{MODULE}:CrossEntropy"}}
    if method == TEACHER:
        return settings
    return settings | {"student": STUDENT_OPTIONS | {"loss": f"{MODULE}:AssistedCrossEntropy"} | tried}


def make(settings: Settings, data: DataSplits, seed: int, work: Path) -> Path:
    """Train the teacher, or a student with it, unless it is trained already.

    The last epoch counts: a choice on validation images would go by how well logits retrieve.
    """
    data = replace(data, validation=data.validation.subset([]))
    shared: dict[str, Any] = {"dim": len(data.train.class_names), "data": data, "seed": seed}
    teacher = train(out=work / f"teacher-{digest_of(settings['teacher'])}-{seed}", **shared, **settings["teacher"])
    if "student" not in settings:
        return teacher
    return distill(teacher, out=work / f"{digest_of(settings)}-{seed}", **shared, **settings["student"])


def accuracy(folder: Path, images: ImageSet) -> float:
    """Return the fraction of images whose largest logit is that of their class."""
    return float((embed(load_model(folder), images).argmax(axis=1) == images.labels).mean())


def _validated(line: dict[str, Any]) -> float:
    judged: float = line["accuracy"]
    return judged


COMPARISON = Comparison(
    "classifier",
    grid=lambda key: GRID.get(key["method"], []),
    settings=lambda key, tried: settings_of(key["method"], tried),
    score=_validated,
)
KEYS = [{"method": method} for method in (TEACHER, *GRID)]


def table(lines: list[dict[str, Any]], tuning: list[dict[str, Any]]) -> str:
    """Return the results as Markdown: one row per method, then the results of tuning."""
    alone = [line for line in lines if line["method"] == ALONE]
    text = ["# Relaxed contrastive loss beside a classifier's cross-entropy, on Omniglot", ""]
    rows = []
    for method in (TEACHER, *GRID):
        found = [line for line in lines if line["method"] == method]
        if found:
            seeds = ", ".join(str(line["seed"]) for line in found)
            gained = gain_over(alone, found, _validated)
            rows.append([method, seeds, spread([100 * line["accuracy"] for line in found]), gained])
    if rows:
        text += ["Accuracy in percent on other drawings of the same characters, mean over seeds ± standard deviation;"]
        text += ["of the gain, mean difference of the same seeds ± its standard error.", ""]
        text += [*markdown_table(["training", "seeds", "accuracy", "gain on cross-entropy"], rows), ""]
    if tuning:
        text += ["## What tuning found", "", "Accuracy in percent on validation drawings, seed 0.", ""]
        tried = [[line["method"], str(line["options"]), percent(line, _validated)] for line in tuning]
        text += [*markdown_table(["training", "options", "accuracy"], tried), ""]
    if lines:
        text += ["![Accuracy of the methods](classifier.png)", ""]
    text += [made_with([*lines, *tuning])]
    return "\n".join(text) + "\n"


if __name__ == "__main__":
    main()
