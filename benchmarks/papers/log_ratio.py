"""Log-ratio loss with squared distances, as in the paper, and with plain ones, as in the authors' code.

    python -m benchmarks.papers.log_ratio --seeds 0 1 2

A small task with a known answer: a wedge on a noisy background, whose label is its pose (position and direction). The
task "ties" has only 60 poses, so that many label distances are 0. Both kinds of distance are tried with 1e-6 added to
label distances (``label_eps`` 0) and with a fraction of their mean added; the one with the smaller label distances
became the default. A finished run is a line in the results; all runs take some minutes on one core.
"""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np

from benchmarks.papers.comparison import HERE
from benchmarks.papers.protocol import arguments
from benchmarks.results import Results, current, digest_of, made_with, markdown_table, spread
from compressor.cli.manners import Manners, heard
from zoo import DataSplits, ImageSet, load_model, train
from zoo.data.continuous import VectorLabels
from zoo.files import write_text
from zoo.models.embedding import embed
from zoo.models.facts import facts_of
from zoo.retrieval.label_measures import measure_by_labels

TASKS = ("no ties", "ties")
TRIED = [{"squared": squared, "label_eps": label_eps} for squared, label_eps in product((True, False), (0.0, 0.05))]
COMMON: dict[str, Any] = {"arch": "test_resnet", "dim": 32, "image_size": 32, "crop_pct": 1.0, "loss": "log_ratio"}
COMMON |= {"epochs": 10, "batch_size": 30, "neighbours": 5, "lr": 3e-3, "workers": 0}
TRAINED, TESTED, POSES, SIDE = 900, 600, 60, 32


@heard(Manners())
def main() -> None:
    """Make the runs that are not in the results yet, then write the table."""
    options = arguments(__doc__, data=None, tuned=False).parse_args()
    results = Results(HERE / "results" / "log-ratio.jsonl")
    for seed, task, tried in product(options.seeds, TASKS, TRIED):
        settings = COMMON | {"loss_options": tried}
        known = {"task": task, "seed": seed, "settings": digest_of(settings)}
        if results.lines(**known):
            continue
        data = poses(task == "ties", seed)
        folder = options.work / "log-ratio" / f"{task}-{known['settings']}-{seed}".replace(" ", "-")
        model = load_model(train(data, folder, seed=seed, **settings))
        found = measure_by_labels(embed(model, data.test), data.test, facts_of(model).metric)
        results.add(known | {"run": settings} | found.summary())
    lines = current(results.lines(), [COMMON | {"loss_options": tried} for tried in TRIED])
    write_text(HERE / "results" / "log-ratio.md", table(lines))


def poses(ties: bool, seed: int) -> DataSplits:
    """Return images of wedges with their poses as labels, different ones for training and test.

    Args:
        ties: whether many images of a part share a pose.
        seed: seed of all random choices.
    """
    random = np.random.default_rng([seed, ties])

    def part(count: int) -> ImageSet:
        every = random.uniform(0, 1, (POSES if ties else count, 3))
        of_each = every[random.integers(len(every), size=count)] if ties else every
        turns = 2 * np.pi * of_each[:, 2]
        places = 0.3 + 0.4 * of_each[:, :2]
        labels = np.column_stack([4 * places, np.cos(turns), np.sin(turns)])
        images = [_wedge(place, turn, random) for place, turn in zip(places, turns, strict=True)]
        return ImageSet([str(index) for index in range(count)], images, continuous=VectorLabels(labels))

    train_images, test_images = part(TRAINED), part(TESTED)
    return DataSplits(f"wedges-{ties}", train_images, test_images.subset([]), test_images, {"split": "given"})


def _wedge(place: np.ndarray, turn: float, random: np.random.Generator) -> np.ndarray:
    """Draw a wedge of random colour with its tip at a place, pointing in a direction; uint8 ``(32, 32, 3)``."""
    rows, columns = (np.mgrid[:SIDE, :SIDE] + 0.5) / SIDE
    x, y = columns - place[0], rows - place[1]
    along, across = x * np.cos(turn) + y * np.sin(turn), -x * np.sin(turn) + y * np.cos(turn)
    inside = (along < 0) & (along > -0.35) & (np.abs(across) < -0.45 * along)
    ground, colour = random.uniform(30, 90, 3), random.uniform(160, 240, 3)
    pixels = np.where(inside[:, :, None], colour, ground) + random.normal(0, 8, (SIDE, SIDE, 3))
    return np.asarray(pixels.clip(0, 255), dtype=np.uint8)


def table(lines: list[dict[str, Any]]) -> str:
    """Return the results as Markdown: for each task one row per set of options."""
    text = ["# Log-ratio loss: squared and plain distances", ""]
    text += ["Mean over seeds ± standard deviation on the test images; the label distance is to be small.", ""]
    header = ["task", "distances", "label_eps", "seeds", "mean label distance @10", "nDCG@10, percent"]
    rows = []
    for task, tried in product(TASKS, TRIED):
        found = [line for line in lines if line["task"] == task and line["run"]["loss_options"] == tried]
        if found:
            distances = [line["mean_label_distance"]["10"] for line in found]
            ndcg = [100 * line["ndcg"]["10"] for line in found]
            named = "squared" if tried["squared"] else "plain"
            seeds = ", ".join(str(line["seed"]) for line in found)
            rows.append([task, named, f"{tried['label_eps']:g}", seeds, spread(distances, 4), spread(ndcg)])
    return "\n".join([*text, *markdown_table(header, rows), "", made_with(lines), ""])


if __name__ == "__main__":
    main()
