"""Relaxed contrastive loss as an auxiliary loss for a classifier (CVPR 2021, section on image classification).

    python -m benchmarks.papers.classifier --data folder:PATH --seeds 0 1 2

Here the classes are the same in training and test: three quarters of the drawings of each training character train,
the others judge. The output of a network is the logits of the classes, and what is transferred are the features before
them. A finished run is a line in the results and is not run again.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.papers.omniglot import SPLIT, every_fourth
from benchmarks.results import Results, made_with, markdown_table, spread
from compressor import distill
from compressor.cli import quieten
from compressor.losses.relaxed_contrastive import RelaxedContrastiveLoss
from zoo import DataSplits, load_data, load_model, train
from zoo.embedding import embed
from zoo.versions import machine, versions

HERE = Path(__file__).resolve().parent
RESULTS = Results(HERE / "results" / "classifier.jsonl")
TABLE = HERE / "results" / "classifier.md"
MODULE = "benchmarks.papers.classifier"

COMMON: dict[str, Any] = {
    "image_size": 48,
    "crop_pct": 1.0,
    "augment": "drawing",
    "min_crop": 0.6,
    "epochs": 40,
    "batch_size": 64,
    "validation": 0.0,
}
TEACHER = COMMON | {"arch": "resnet10t", "lr": 1e-3, "precision": "auto"}
STUDENT = COMMON | {"arch": "test_resnet", "lr": 3e-3, "teacher_precision": "auto"}
# Weights of the terms beside the cross-entropy: of the relaxed contrastive loss, and of knowledge distillation.
METHODS = {
    "cross-entropy": {"relaxed": 0.0, "logits": 0.0},
    "+ relaxed contrastive": {"relaxed": 1.0, "logits": 0.0},
    "+ knowledge distillation": {"relaxed": 0.0, "logits": 1.0},
    "+ both": {"relaxed": 1.0, "logits": 1.0},
}


class CrossEntropy(nn.Module):
    """Trains a teacher's logits on the labels."""

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
        temperature: that softens the logits.
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
        """Return the loss of logits ``(N, C)`` and of the last maps ``(N, D, H, W)``."""
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


def main() -> None:
    """Run what is not in the results yet, then write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="folder:PATH of Omniglot's two small background sets")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--work", type=Path, default=Path("runs/papers"), help="folder for the runs")
    options = parser.parse_args()
    quieten()
    data = within_classes(load_data(options.data, SPLIT, validation=0.0))
    for seed in options.seeds:
        run_seed(data, seed, options.work / "classifier" / str(seed))
        TABLE.write_text(table(RESULTS.lines()), encoding="utf-8")
    print(TABLE.read_text(encoding="utf-8"))


def within_classes(data: DataSplits) -> DataSplits:
    """Return the training classes with three quarters of each one's images to train on and the others to judge by."""
    assert data.train.labels is not None
    classes, labels = np.unique(data.train.labels, return_inverse=True)
    images = replace(data.train, labels=labels, class_names=[data.train.class_names[label] for label in classes])
    held_out = every_fourth(labels)
    parts = (images.subset(np.flatnonzero(mask)) for mask in (~held_out, held_out))
    return replace(data, **dict(zip(("train", "test"), parts, strict=True)))


def run_seed(data: DataSplits, seed: int, work: Path) -> None:
    """Train teacher and students of a seed and judge them."""
    count = len(data.train.class_names)
    for method in ("teacher", *METHODS):
        if RESULTS.lines(method=method, seed=seed):
            continue
        teacher = train(data, work / "teacher", dim=count, seed=seed, loss=f"{MODULE}:CrossEntropy", **TEACHER)
        folder = teacher
        if method != "teacher":
            options = STUDENT | {"loss": f"{MODULE}:AssistedCrossEntropy", "loss_options": METHODS[method]}
            folder = distill(teacher, dim=count, data=data, out=work / method, seed=seed, **options)
        logits = embed(load_model(folder), data.test)
        accuracy = float((logits.argmax(axis=1) == data.test.labels).mean())
        RESULTS.add(
            {"method": method, "seed": seed, "accuracy": accuracy, "machine": machine(), "versions": versions()}
        )


def table(lines: list[dict[str, Any]]) -> str:
    """Return the results as Markdown: one row a method."""
    alone = {line["seed"]: line["accuracy"] for line in lines if line["method"] == "cross-entropy"}
    rows = []
    for method in ("teacher", *METHODS):
        found = [line for line in lines if line["method"] == method]
        if found:
            seeds = ", ".join(str(line["seed"]) for line in found)
            gains = [100 * (line["accuracy"] - alone[line["seed"]]) for line in found if line["seed"] in alone]
            rows.append([method, seeds, spread([100 * line["accuracy"] for line in found]), spread(gains or [0.0])])
    text = ["# Relaxed contrastive loss beside a classifier's cross-entropy, on Omniglot", ""]
    text += ["Accuracy in percent on other drawings of the same characters, mean over seeds ± standard deviation.", ""]
    text += [*markdown_table(["training", "seeds", "accuracy", "gain on cross-entropy"], rows), ""]
    return "\n".join([*text, made_with(lines[-1])]) + "\n"


if __name__ == "__main__":
    main()
