"""Proxy-Anchor's claims (CVPR 2020): Recall@1 over epochs compared with other losses, and with corrupted labels.

    python -m benchmarks.papers.proxy_anchor --data folder:PATH --tune
    python -m benchmarks.papers.proxy_anchor --data folder:PATH --noise 0 0.2 0.4 --seeds 0 1 2

The other losses are pytorch-metric-learning's. With ``--tune`` every loss gets six runs, see ``grid``, with clean
labels and seed 0, judged on the validation classes, which are training classes held out and whose labels are never
corrupted. Without it every loss runs with its best options and is measured on the test classes. The curves over epochs
are of the validation classes. A finished run is a line in the results and is not run again while its settings stay the
same.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.papers.comparison import Comparison
from benchmarks.papers.protocol import SPLIT, arguments, measured
from benchmarks.results import (
    Options,
    Settings,
    digest_of,
    gain_over,
    made_with,
    markdown_table,
    percent,
    recall_at_1,
    spread,
)
from compressor.cli.manners import Manners, heard
from zoo import DataSplits, ImageSet, load_data, train
from zoo.files import replacing

OPTIONS: dict[str, Any] = {
    "arch": "test_resnet",
    "dim": 512,
    "image_size": 32,
    "crop_pct": 1.0,
    "epochs": 20,
    "batch_size": 64,
    "images_per_class": 4,
    "augment": "drawing",
    "min_crop": 0.6,
    "precision": "auto",
}
RATES = (3e-3, 1e-2)
LOSSES = {
    "Proxy-Anchor": "proxy_anchor",
    "Proxy-NCA": "benchmarks.papers.rivals:ProxyNCA",
    "normalised softmax": "benchmarks.papers.rivals:NormalizedSoftmax",
    "multi-similarity": "benchmarks.papers.rivals:MultiSimilarity",
    "triplet": "benchmarks.papers.rivals:Triplet",
    "contrastive": "benchmarks.papers.rivals:Contrastive",
}
# Proxy losses need no second image of a class in a batch, and their authors draw images at random.
_ONE_OF_A_CLASS = {"images_per_class": 1}
_WITH_PROXIES: dict[str, list[Options]] = {
    name: [{"proxy_lr_factor": 10.0}, {"proxy_lr_factor": 30.0}, {"proxy_lr_factor": 10.0} | _ONE_OF_A_CLASS]
    for name in ("Proxy-Anchor", "normalised softmax")
} | {
    "Proxy-NCA": [  # 32 is the scale that Proxy-Anchor's authors compare with
        {"proxy_lr_factor": 30.0, "loss_options": {"softmax_scale": 9.0}},
        {"proxy_lr_factor": 30.0, "loss_options": {"softmax_scale": 32.0}},
        {"proxy_lr_factor": 30.0, "loss_options": {"softmax_scale": 32.0}} | _ONE_OF_A_CLASS,
    ]
}
_OF_PAIRS: dict[str, list[Options]] = {
    "multi-similarity": [{"beta": 50.0}, {"beta": 20.0}],
    "triplet": [{"margin": 0.1}, {"margin": 0.3}],
    "contrastive": [{"margin": 0.5}, {"margin": 1.0}],
}


def grid(name: str) -> list[Options]:
    """Return six sets of options: rates with values of the loss's most important options."""
    if name in _WITH_PROXIES:
        return [{"lr": lr} | options for lr in RATES for options in _WITH_PROXIES[name]]
    return [{"lr": lr, "loss_options": options} for lr in (1e-3, *RATES) for options in _OF_PAIRS[name]]


@heard(Manners())
def main() -> None:
    """Make the runs that are not in the results yet, then write table and plot."""
    parser = arguments(__doc__)
    parser.add_argument("--losses", nargs="+", choices=LOSSES, default=list(LOSSES))
    parser.add_argument("--noise", type=float, nargs="+", default=[0.0, 0.2, 0.4])
    options = parser.parse_args()
    data = load_data(options.data, SPLIT)
    if options.tune:
        tune(data, options.losses, options.work / "proxy-anchor")
    else:
        for seed in options.seeds:
            for noise in options.noise:
                compare(data, options.losses, noise, seed, options.work / "proxy-anchor")
    lines = COMPARISON.lines(KEYS)
    COMPARISON.write(table(lines, COMPARISON.tuning_lines(KEYS)))
    if lines:
        draw(lines, COMPARISON.plot)


def tune(data: DataSplits, names: list[str], work: Path) -> None:
    """Try the grid of each loss, and record Recall@1 on the validation classes."""

    def judged(settings: Settings) -> dict[str, Any]:
        return {"curve": curve(make(settings, data, 0.0, 0, work))}

    for name in names:
        COMPARISON.tune({"loss": name}, judged)


def compare(data: DataSplits, names: list[str], noise: float, seed: int, work: Path) -> None:
    """Train with each loss on labels of which a fraction is wrong, and measure on the test classes."""

    def judged(settings: Settings) -> dict[str, Any]:
        folder = make(settings, data, noise, seed, work)
        return {"curve": curve(folder)} | measured(folder, data.test)

    for name in names:
        COMPARISON.compare({"loss": name}, judged, noise=noise, seed=seed)


def make(settings: Settings, data: DataSplits, noise: float, seed: int, work: Path) -> Path:
    """Train on labels of which a fraction is wrong, unless the model is trained already."""
    corrupted = replace(data, train=corrupt(data.train, noise, seed))
    name = settings["loss"].rpartition(":")[2]
    return train(corrupted, work / f"{name}-{digest_of(settings)}-{noise}-{seed}", seed=seed, **settings)


def corrupt(images: ImageSet, fraction: float, seed: int) -> ImageSet:
    """Return the images with a fraction of the labels replaced by those of other classes, drawn uniformly."""
    generator = np.random.default_rng([seed, round(1000 * fraction)])
    assert images.labels is not None
    labels = images.labels.copy()
    classes = np.unique(labels)
    rows = generator.choice(len(labels), round(fraction * len(labels)), replace=False)
    places = np.searchsorted(classes, labels[rows])
    shifts = generator.integers(1, len(classes), len(rows))
    labels[rows] = classes[(places + shifts) % len(classes)]
    return replace(images, labels=labels)


def curve(folder: Path) -> list[float]:
    """Return Recall@1 on the validation classes after each epoch."""
    measured = json.loads((folder / "validation.json").read_text(encoding="utf-8"))
    return [round(entry["recall_at_1"], 4) for entry in measured]


def _validated(line: dict[str, Any]) -> float:
    return max(line["curve"])


COMPARISON = Comparison(
    "proxy-anchor",
    grid=lambda key: grid(key["loss"]),
    settings=lambda key, tried: OPTIONS | {"loss": LOSSES[key["loss"]]} | tried,
    score=_validated,
)
KEYS = [{"loss": name} for name in LOSSES]


def table(lines: list[dict[str, Any]], tuning: list[dict[str, Any]]) -> str:
    """Return the results as Markdown: one row per loss."""
    text = ["# Proxy-Anchor and other losses on Omniglot", ""]
    if lines:
        noises = sorted({line["noise"] for line in lines})
        header = ["loss", "seeds", *(f"{noise:.0%} wrong labels" for noise in noises)]
        header += [f"lost by {noise:.0%}" for noise in noises if noise] + ["epochs to 90 % of the best"]
        rows = []
        for name in LOSSES:
            cells = []
            for noise in noises:
                found = [line for line in lines if line["loss"] == name and line["noise"] == noise]
                cells.append(spread([100 * line["recall"]["1"] for line in found]) if found else "")
            cells += [_lost(lines, name, noise) for noise in noises if noise]
            clean = [line for line in lines if line["loss"] == name and line["noise"] == 0]
            seeds = ", ".join(str(line["seed"]) for line in clean)
            rows.append([name, seeds, *cells, _epochs_to(clean, 0.9 * _best(lines))])
        text += [
            "Recall@1 in percent on the test classes, mean over seeds ± standard deviation; of what is lost to wrong",
            "labels, mean difference of the same seeds ± its standard error. The last column: epochs with clean labels",
            "until Recall@1 on the validation classes reaches 90 % of the best of any loss, mean over seeds.",
            "",
            *markdown_table(header, rows),
            "",
        ]
        text += ["![Recall@1 against epochs](proxy-anchor.png)", ""]
    if tuning:
        text += ["## What tuning found", "", "Best Recall@1 on the validation classes, seed 0, clean labels.", ""]
        rows = [[line["loss"], str(line["options"]), percent(line, _validated)] for line in tuning]
        text += [*markdown_table(["loss", "options", "Recall@1"], rows), ""]
    text += [made_with([*lines, *tuning])]
    return "\n".join(text) + "\n"


def _lost(lines: list[dict[str, Any]], name: str, noise: float) -> str:
    clean, noisy = ([line for line in lines if line["loss"] == name and line["noise"] == at] for at in (0.0, noise))
    return gain_over(clean, noisy, recall_at_1)


def draw(lines: list[dict[str, Any]], path: Path) -> None:
    """Draw Recall@1 on the validation classes over epochs, with clean labels, mean over seeds."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 4.2), layout="constrained")
    axes = figure.subplots()
    for name in LOSSES:
        curves = [line["curve"] for line in lines if line["loss"] == name and line["noise"] == 0]
        if curves:
            axes.plot(range(1, len(curves[0]) + 1), 100 * np.mean(curves, axis=0), label=name)
    axes.set(xlabel="epochs", ylabel="Recall@1 on validation classes, %")
    axes.locator_params(axis="x", integer=True)
    axes.grid(color="#dddddd")
    axes.legend(frameon=False)
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=150)


def _best(lines: list[dict[str, Any]]) -> float:
    curves: dict[str, list[list[float]]] = {}
    for line in lines:
        if line["noise"] == 0:
            curves.setdefault(line["loss"], []).append(line["curve"])
    return max((float(np.mean(of_loss, axis=0).max()) for of_loss in curves.values()), default=0.0)  # none ran clean


def _epochs_to(lines: list[dict[str, Any]], recall: float) -> str:
    """Return the mean number of epochs until a recall is reached, or a dash if a seed never reaches it."""
    reached = [next((i + 1 for i, value in enumerate(line["curve"]) if value >= recall), None) for line in lines]
    if not reached or None in reached:
        return "–"
    return f"{np.mean(reached):.1f}"  # type: ignore[arg-type]


if __name__ == "__main__":
    main()
