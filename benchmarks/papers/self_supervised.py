"""Transfer of a self-supervised teacher (CVPR 2021, section on self-supervised representations).

    python -m benchmarks.papers.self_supervised --data folder:PATH --tune
    python -m benchmarks.papers.self_supervised --data folder:PATH --seeds 0 1 2

Training sees no labels: the teacher learns with SimCLR's loss that views of an image belong together, and the students
learn from the teacher on the same unlabelled drawings. All are judged frozen, by a linear probe and by 5 nearest
neighbours, both fitted on three quarters of each character's drawings and measured on the others. With ``--tune`` every
method gets the six runs of ``GRID`` with seed 0, judged on the validation characters, which are training characters
held out. Without it every method runs with its best options and is judged on the test characters. A finished run is a
line in the results and is not run again while its settings stay the same.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.papers.comparison import Comparison
from benchmarks.papers.plots import draw_bars
from benchmarks.papers.probes import knn_accuracy, linear_probe
from benchmarks.papers.protocol import SPLIT, arguments, every_fourth, sets_of_options
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
from zoo import DataSplits, ImageSet, load_data, load_model, train
from zoo.models.embedding import embed
from zoo.models.facts import facts_of

VALIDATION = 0.2
COMMON: dict[str, Any] = {
    "image_size": 32,
    "crop_pct": 1.0,
    "augment": "drawing",
    "min_crop": 0.5,
    "validation": 0.0,
}
SELF_SUPERVISED = COMMON | {
    "batch_size": 128,
    "images_per_class": 2,
    "loss": "benchmarks.papers.rivals:NTXent",
    "precision": "auto",
}
TEACHER_OPTIONS = SELF_SUPERVISED | {"arch": "resnet10t", "dim": 512, "epochs": 40, "lr": 3e-3}
STUDENT: dict[str, Any] = {"arch": "test_efficientnet", "dim": 64, "epochs": 20}
TRANSFER = COMMON | STUDENT | {"batch_size": 64, "use_labels": False, "teacher_precision": "auto"}
# Its batch of 128 has two views of 64 images each: with twice the epochs it makes as many steps, with as many views.
ALONE_OPTIONS = SELF_SUPERVISED | STUDENT | {"epochs": 40}
TEACHER, ALONE = "teacher", "the student alone, self-supervised"

# Six runs each: two rates with two values of the method's most important option, then two beyond the best of those.
GRID: dict[str, list[Options]] = {
    "relaxed_contrastive": sets_of_options(
        "sigma", [(1e-2, 1.0), (1e-2, 0.5), (3e-2, 1.0), (3e-2, 0.5), (1e-2, 2.0), (3e-3, 1.0)]
    ),
    "rkd": sets_of_options(
        "angle_weight", [(1e-2, 2.0), (1e-2, 0.5), (3e-2, 2.0), (3e-2, 0.5), (3e-2, 8.0), (1e-1, 2.0)]
    ),
    ALONE: sets_of_options(
        "temperature", [(1e-2, 0.1), (1e-2, 0.3), (3e-2, 0.1), (3e-2, 0.3), (1e-2, 0.05), (3e-3, 0.1)]
    ),
}


@heard(Manners())
def main() -> None:
    """Make the runs that are not in the results yet, then write the table and the plot."""
    parser = arguments(__doc__)
    parser.add_argument("--methods", nargs="+", choices=GRID, default=list(GRID))
    options = parser.parse_args()
    data = load_data(options.data, SPLIT, VALIDATION)
    work = options.work / "self-supervised"
    if options.tune:
        tune(data, options.methods, work)
    else:
        for seed in options.seeds:
            compare(data, seed, options.methods, work)
    lines = COMPARISON.lines(KEYS)
    COMPARISON.write(table(lines, COMPARISON.tuning_lines(KEYS)))
    if lines:
        panels = {"Self-supervised transfer, Omniglot": grouped(lines, "method", _validated)}
        draw_bars(panels, "accuracy of a linear probe, %", COMPARISON.plot)


def tune(data: DataSplits, methods: list[str], work: Path) -> None:
    """Try the grid of each method, and record the accuracy of the probes on the validation characters."""

    def judged(settings: Settings) -> dict[str, Any]:
        return judge(make(settings, data, 0, work), data.validation)

    for method in methods:
        COMPARISON.tune({"method": method}, judged)


def compare(data: DataSplits, seed: int, methods: list[str], work: Path) -> None:
    """Train teacher and students of a seed without labels, and judge them."""

    def judged(settings: Settings) -> dict[str, Any]:
        return judge(make(settings, data, seed, work), data.test)

    for method in [TEACHER, *methods]:
        COMPARISON.compare({"method": method}, judged, seed=seed)


def settings_of(method: str, tried: Options) -> Settings:
    """Return all settings of a run except data and seed."""
    if method == ALONE:
        return {"alone": ALONE_OPTIONS | tried}
    teacher = {"teacher": TEACHER_OPTIONS}
    return teacher if method == TEACHER else teacher | {"student": TRANSFER | {"loss": method} | tried}


def make(settings: Settings, data: DataSplits, seed: int, work: Path) -> Path:
    """Train a teacher, a student with its teacher, or a student alone, unless it is trained already.

    The last epoch counts, because choosing one on validation classes would need labels.
    """
    data = replace(data, validation=data.validation.subset([]))
    if "alone" in settings:
        options = settings["alone"]
        return train(each_its_own_class(data), work / f"alone-{digest_of(options)}-{seed}", seed=seed, **options)
    options = settings["teacher"]
    teacher = train(each_its_own_class(data), work / f"teacher-{digest_of(options)}-{seed}", seed=seed, **options)
    if "student" not in settings:
        return teacher
    unlabelled = replace(data, train=data.train.without_labels())
    out = work / f"{settings['student']['loss']}-{digest_of(settings)}-{seed}"
    return distill(teacher, data=unlabelled, out=out, seed=seed, **settings["student"], teacher_cache=work / "views")


def _validated(line: dict[str, Any]) -> float:
    judged: float = line["linear_probe"]
    return judged


COMPARISON = Comparison(
    "self-supervised",
    grid=lambda key: GRID.get(key["method"], []),
    settings=lambda key, tried: settings_of(key["method"], tried),
    score=_validated,
)
KEYS = [{"method": method} for method in (TEACHER, *GRID)]


def each_its_own_class(data: DataSplits) -> DataSplits:
    """Return the data with every training image as its own class, for instance discrimination."""
    count = len(data.train)
    return replace(
        data, train=replace(data.train, labels=np.arange(count, dtype=np.int64), class_names=list(data.train.ids))
    )


def judge(folder: Path, images: ImageSet) -> dict[str, float]:
    """Return the accuracy of both probes on a quarter of each class's images, fitted on the others."""
    model = load_model(folder)
    embeddings = embed(model, images)
    assert images.labels is not None
    _, labels = np.unique(images.labels, return_inverse=True)
    held_out = every_fourth(labels)
    parts = (embeddings[~held_out], labels[~held_out], embeddings[held_out], labels[held_out])
    return {"linear_probe": linear_probe(*parts), "knn": knn_accuracy(*parts, metric=facts_of(model).metric)}


def table(lines: list[dict[str, Any]], tuning: list[dict[str, Any]]) -> str:
    """Return the results as Markdown: one row per method, then the results of tuning."""
    alone = [line for line in lines if line["method"] == ALONE]
    text = ["# Transfer of a self-supervised teacher on Omniglot", ""]
    rows = []
    for method in (TEACHER, *GRID):
        found = [line for line in lines if line["method"] == method]
        if found:
            seeds = ", ".join(str(line["seed"]) for line in found)
            accuracies = [spread([100 * line[name] for line in found]) for name in ("linear_probe", "knn")]
            rows.append([method, seeds, *accuracies, gain_over(alone, found, _validated)])
    if rows:
        text += ["Accuracy in percent on test characters, mean over seeds ± standard deviation; of the gain, mean"]
        text += ["difference of the same seeds ± its standard error.", ""]
        header = ["method", "seeds", "linear probe", "5 nearest neighbours", "gain of the probe on the student alone"]
        text += [*markdown_table(header, rows), ""]
        text += ["![Accuracy of a linear probe](self-supervised.png)", ""]
    if tuning:
        text += ["## What tuning found", "", "Linear probe's accuracy in percent on validation characters, seed 0.", ""]
        tried = [[line["method"], str(line["options"]), percent(line, _validated)] for line in tuning]
        text += [*markdown_table(["method", "options", "accuracy"], tried), ""]
    return "\n".join([*text, made_with([*lines, *tuning])]) + "\n"


if __name__ == "__main__":
    main()
