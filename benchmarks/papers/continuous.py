"""Continuous labels (CVPR 2019): log-ratio loss with dense triplet mining compared with dense and binary triplet loss.

    python -m benchmarks.papers.continuous omniglot-strokes --folder FOLDER --tune
    python -m benchmarks.papers.continuous omniglot-strokes --folder FOLDER --seeds 0 1 2

FOLDER is what ``label_distances`` takes; the label file is made first if it does not exist. With ``--tune`` every loss
gets the four runs of ``GRID`` with seed 0, judged by nDCG@10 on the validation classes, which are training classes held
out. Without it every loss runs with its best options and is measured on the test classes. All losses see the same
batches: an anchor, its 5 nearest images by label distance, and others at random. An epoch shows as many images as there
are, so only some of them are anchors. A finished run is a line in the results and is not run again while its settings
stay the same.
"""

from __future__ import annotations

from itertools import product
from pathlib import Path
from typing import Any

from benchmarks.papers.comparison import Comparison
from benchmarks.papers.label_distances import write_stroke_distances, write_text_vectors
from benchmarks.papers.protocol import SPLIT, arguments, validated
from benchmarks.results import (
    Options,
    Settings,
    digest_of,
    gain,
    made_with,
    markdown_table,
    percent,
    spread,
)
from compressor.cli.manners import Manners, heard
from zoo import DataSplits, load_data, load_model, train
from zoo.files import replacing
from zoo.models.embedding import embed
from zoo.models.facts import facts_of
from zoo.retrieval.label_measures import LABEL_KS, measure_by_labels, random_and_best

COMMON: dict[str, Any] = {"arch": "test_resnet", "dim": 128, "batch_size": 150, "neighbours": 5, "validate_every": 10}
TASKS: dict[str, dict[str, Any]] = {
    "omniglot-strokes": COMMON
    | {"image_size": 32, "crop_pct": 1.0, "augment": "drawing", "min_crop": 0.8, "epochs": 40}
    | {"precision": "auto"},
    "grocery-text": COMMON
    | {"image_size": 32, "crop_pct": 0.875, "augment": "photo", "min_crop": 0.2, "epochs": 40}
    | {"precision": "auto"},
}
# Four runs each: two rates with two values of the loss's most important option. Photographs of one product have label
# distance 0, and eps keeps these from dominating log-ratio loss; label_eps, added later, does so in any unit.
RATES = (3e-3, 1e-2)
GRID: dict[str, list[Options]] = {
    "log_ratio": [{"lr": lr, "loss_options": {"eps": eps, "label_eps": 0.0}} for lr in RATES for eps in (1e-6, 0.05)],
    "dense_triplet": [{"lr": lr, "loss_options": {"margin": margin}} for lr in RATES for margin in (0.03, 0.1)],
    "binary_triplet": [{"lr": lr, "loss_options": {"margin": margin}} for lr in RATES for margin in (0.2, 0.5)],
}


@heard(Manners())
def main() -> None:
    """Make the runs that are not in the results yet, then write table and plot."""
    parser = arguments(__doc__, data=None)
    parser.add_argument("task", choices=TASKS)
    parser.add_argument("--folder", type=Path, required=True, help="where the data is")
    parser.add_argument("--losses", nargs="+", choices=GRID, default=list(GRID))
    options = parser.parse_args()
    data = read_task(options.task, options.folder, options.work)
    if options.tune:
        tune(options.task, data, options.losses, options.work / "continuous")
    else:
        for seed in options.seeds:
            compare(options.task, data, options.losses, seed, options.work / "continuous")
    lines = COMPARISON.lines(KEYS)
    COMPARISON.write(table(lines, COMPARISON.tuning_lines(KEYS)))
    if lines:
        draw(lines, COMPARISON.plot)


def read_task(task: str, folder: Path, work: Path) -> DataSplits:
    """Return the images of a task with their continuous labels, computed if they do not exist yet."""
    labels = work / f"{task}.npz"
    work.mkdir(parents=True, exist_ok=True)
    if task == "omniglot-strokes":
        if not labels.is_file():
            write_stroke_distances(folder, labels)
        return load_data(f"folder:{folder}", SPLIT, continuous_labels=labels)
    if not labels.is_file():
        write_text_vectors(folder, labels)
    return load_data(f"grocery:{folder}", "even-odd", continuous_labels=labels, label_metric="cosine")


def tune(task: str, data: DataSplits, losses: list[str], work: Path) -> None:
    """Try the grid of each loss, and record nDCG@10 on the validation classes."""

    def judged(settings: Settings) -> dict[str, Any]:
        return {"validation": validated(make(task, settings, data, 0, work))}

    for loss in losses:
        COMPARISON.tune({"task": task, "loss": loss}, judged)


def compare(task: str, data: DataSplits, losses: list[str], seed: int, work: Path) -> None:
    """Train with each loss, and measure on the test classes."""

    def judged(settings: Settings) -> dict[str, Any]:
        folder = make(task, settings, data, seed, work)
        model = load_model(folder)
        result = measure_by_labels(embed(model, data.test), data.test, facts_of(model).metric)
        return {"validation": validated(folder)} | result.summary() | random_and_best(result, data.test)

    for loss in losses:
        COMPARISON.compare({"task": task, "loss": loss}, judged, seed=seed)


def make(task: str, settings: Settings, data: DataSplits, seed: int, work: Path) -> Path:
    """Train with these settings, unless the model is trained already."""
    return train(data, work / f"{task}-{settings['loss']}-{digest_of(settings)}-{seed}", seed=seed, **settings)


def _validated(line: dict[str, Any]) -> float:
    ndcg: float = line["validation"]["ndcg_at_10"]
    return ndcg


COMPARISON = Comparison(
    "continuous",
    grid=lambda key: GRID[key["loss"]],
    settings=lambda key, tried: TASKS[key["task"]] | {"loss": key["loss"]} | tried,
    score=_validated,
)
KEYS = [{"task": task, "loss": loss} for task, loss in product(TASKS, GRID)]


def table(lines: list[dict[str, Any]], tuning: list[dict[str, Any]]) -> str:
    """Return the results as Markdown: for each task one row per loss, then those of a random and the best order."""
    text = ["# Continuous labels", ""]
    for task in TASKS:
        of_task = [line for line in lines if line["task"] == task]
        if not of_task:
            continue
        rows = []
        for loss in GRID:
            found = [line for line in of_task if line["loss"] == loss]
            if found:
                seeds = ", ".join(str(line["seed"]) for line in found)
                rows.append([loss, seeds, *_cells(found), *_behind(of_task, loss)])
        bounds = ("random_order", "best_order")
        rows += [[name.replace("_", " "), "", *_cells([of_task[0][name]]), "", ""] for name in bounds]
        header = ["loss", "seeds", "nDCG@1", "nDCG@5", "nDCG@10", "mean label distance @1", "@5", "@10"]
        header += ["log_ratio is ahead in nDCG@10 by", "in label distance @10, in percent of it, by"]
        text += [
            f"## {task}",
            "",
            "nDCG in percent, both on the test classes, mean over seeds ± standard deviation; of the last columns,",
            "mean difference of the same seeds ± its standard error.",
            "",
        ]
        text += [*markdown_table(header, rows), ""]
    if lines:
        text += ["![nDCG@K and mean label distance](continuous.png)", ""]
    if tuning:
        text += ["## What tuning found", "", "nDCG@10 in percent on the validation classes, seed 0.", ""]
        tried = [[line["task"], line["loss"], str(line["options"]), percent(line, _validated)] for line in tuning]
        text += [*markdown_table(["task", "loss", "options", "nDCG@10"], tried), ""]
    text += [made_with([*lines, *tuning])]
    return "\n".join(text) + "\n"


def draw(lines: list[dict[str, Any]], path: Path) -> None:
    """Draw both measures against K, mean over seeds, with one row of plots per task."""
    from matplotlib.figure import Figure

    tasks = [task for task in TASKS if any(line["task"] == task for line in lines)]
    figure = Figure(figsize=(9.0, 3.6 * len(tasks)), layout="constrained")
    axes = figure.subplots(len(tasks), 2, squeeze=False)
    for row, task in zip(axes, tasks, strict=True):
        for ax, measured, label in zip(
            row, ("ndcg", "mean_label_distance"), ("nDCG@K", "mean label distance"), strict=True
        ):
            for loss in GRID:
                found = [line[measured] for line in lines if line["task"] == task and line["loss"] == loss]
                if found:
                    means = [sum(one[str(k)] for one in found) / len(found) for k in LABEL_KS]
                    ax.plot(LABEL_KS, means, marker="o", label=loss)
            ax.set(xlabel="K", ylabel=label, title=task)
            ax.grid(color="#dddddd")
        row[0].legend(frameon=False)
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=150)


def _behind(lines: list[dict[str, Any]], loss: str) -> list[str]:
    """Return how far a loss is behind log-ratio loss in both measures, over the same seeds."""
    by_seed = {(line["loss"], line["seed"]): line for line in lines}
    theirs = {seed: line for (name, seed), line in by_seed.items() if name == loss}
    pairs = [(by_seed["log_ratio", seed], theirs[seed]) for seed in theirs if ("log_ratio", seed) in by_seed]
    if not pairs or loss == "log_ratio":
        return ["", ""]
    ndcg = [100 * (ours["ndcg"]["10"] - other["ndcg"]["10"]) for ours, other in pairs]
    distances = [(ours["mean_label_distance"]["10"], other["mean_label_distance"]["10"]) for ours, other in pairs]
    return [gain(ndcg), gain([100 * (1 - ours / other) for ours, other in distances])]


def _cells(found: list[dict[str, Any]]) -> list[str]:
    ndcg = [spread([100 * line["ndcg"][k] for line in found]) for k in ("1", "5", "10")]
    return ndcg + [spread([line["mean_label_distance"][k] for line in found], 4) for k in ("1", "5", "10")]


if __name__ == "__main__":
    main()
