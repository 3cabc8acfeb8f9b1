"""Transfer of a self-supervised teacher (CVPR 2021, section on self-supervised representations).

    python -m benchmarks.papers.self_supervised --data folder:PATH --seeds 0 1 2

No label is seen in training: the teacher learns by SimCLR's loss that views of an image belong together, the students
learn from the teacher on the same unlabelled drawings, with the options that the compression setting of
``benchmarks.papers.transfer``, of the same two networks, chose on its validation classes. All are judged frozen on the
characters of the test split, by a linear probe and by 5 nearest neighbours, both fitted on three quarters of each
character's drawings and judged on the others. A finished run is a line in the results and is not run again while its
settings stay.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.papers.omniglot import SPLIT, every_fourth
from benchmarks.papers.probes import knn_accuracy, linear_probe
from benchmarks.papers.transfer import chosen
from benchmarks.results import Results, digest_of, made_with, markdown_table, spread
from compressor import distill
from compressor.cli import quieten
from zoo import DataSplits, ImageSet, load_data, load_model, train
from zoo.embedding import embed
from zoo.models import facts_of
from zoo.versions import machine, versions

HERE = Path(__file__).resolve().parent
RESULTS = Results(HERE / "results" / "self-supervised.jsonl")
TABLE = HERE / "results" / "self-supervised.md"

COMMON: dict[str, Any] = {
    "image_size": 32,
    "crop_pct": 1.0,
    "augment": "drawing",
    "min_crop": 0.5,
    "validation": 0.0,
}
TEACHER = COMMON | {
    "arch": "resnet10t",
    "dim": 512,
    "epochs": 60,
    "batch_size": 256,
    "images_per_class": 2,
    "lr": 1e-3,
    "loss": "benchmarks.papers.rivals:NTXent",
    "precision": "auto",
}
STUDENT: dict[str, Any] = COMMON | {"arch": "test_resnet", "dim": 64, "epochs": 40, "lr": 3e-3}
TRANSFER = {"batch_size": 128, "use_labels": False, "teacher_precision": "auto"}
METHODS = ("relaxed_contrastive", "rkd", "pkt", "crd")
ALONE = "the student alone, self-supervised"


def main() -> None:
    """Run what is not in the results yet, then write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="folder:PATH of Omniglot's two small background sets")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--work", type=Path, default=Path("runs/papers"), help="folder for the runs")
    options = parser.parse_args()
    quieten()
    data = load_data(options.data, SPLIT, validation=0.0)
    for seed in options.seeds:
        run_seed(data, seed, options.work / "self-supervised" / str(seed))
        TABLE.write_text(table(RESULTS.lines()), encoding="utf-8")
    print(TABLE.read_text(encoding="utf-8"))


def run_seed(data: DataSplits, seed: int, work: Path) -> None:
    """Train teacher and students of a seed without labels and judge them."""
    unlabelled = replace(data, train=data.train.without_labels())
    alone = STUDENT | {name: TEACHER[name] for name in ("loss", "batch_size", "images_per_class")}
    # Its batch holds two views of half as many images: twice the epochs make as many steps, of as many views.
    alone["epochs"] *= TEACHER["batch_size"] // TRANSFER["batch_size"]
    for method in ("teacher", *METHODS, ALONE):
        tried = chosen(method, "compression") if method in METHODS else {}
        options = {"teacher": TEACHER, ALONE: alone}.get(method, STUDENT | TRANSFER | {"loss": method} | tried)
        known = {"method": method, "seed": seed, "settings": digest_of({"teacher": TEACHER, "run": options})}
        if RESULTS.lines(**known):
            continue
        teacher = train(each_its_own_class(data), work / "teacher", seed=seed, **TEACHER)
        if method == "teacher":
            folder = teacher
        elif method == ALONE:
            folder = train(each_its_own_class(data), work / "alone", seed=seed, **options)
        else:
            folder = distill(teacher, data=unlabelled, out=work / method, seed=seed, **options)
        line = {**known, **judge(folder, data.test), "options": tried}
        RESULTS.add(line | {"machine": machine(), "versions": versions()})


def each_its_own_class(data: DataSplits) -> DataSplits:
    """Return the data with every training image a class of its own, as instance discrimination has it."""
    count = len(data.train)
    return replace(
        data, train=replace(data.train, labels=np.arange(count, dtype=np.int64), class_names=list(data.train.ids))
    )


def judge(folder: Path, images: ImageSet) -> dict[str, float]:
    """Return the accuracy of the probes on a quarter of each class's images, fitted on the others."""
    model = load_model(folder)
    embeddings = embed(model, images)
    assert images.labels is not None
    _, labels = np.unique(images.labels, return_inverse=True)
    held_out = every_fourth(labels)
    parts = (embeddings[~held_out], labels[~held_out], embeddings[held_out], labels[held_out])
    return {"linear_probe": linear_probe(*parts), "knn": knn_accuracy(*parts, metric=facts_of(model).metric)}


def table(lines: list[dict[str, Any]]) -> str:
    """Return the results as Markdown: one row a method."""
    rows = []
    for method in ("teacher", *METHODS, ALONE):
        found = [line for line in lines if line["method"] == method]
        if found:
            seeds = ", ".join(str(line["seed"]) for line in found)
            accuracies = [spread([100 * line[name] for line in found]) for name in ("linear_probe", "knn")]
            rows.append([method, seeds, *accuracies])
    text = ["# Transfer of a self-supervised teacher on Omniglot", ""]
    text += ["Accuracy in percent on test characters, mean over seeds ± standard deviation.", ""]
    text += [*markdown_table(["method", "seeds", "linear probe", "5 nearest neighbours"], rows), ""]
    return "\n".join([*text, made_with(lines[-1])]) + "\n"


if __name__ == "__main__":
    main()
