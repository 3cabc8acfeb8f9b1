"""Embedding transfer (CVPR 2021): relaxed contrastive loss compared with other losses, and with labels alone.

    python -m benchmarks.papers.transfer compression --data folder:PATH --tune
    python -m benchmarks.papers.transfer compression --data folder:PATH --seeds 0 1 2
    python -m benchmarks.papers.transfer grocery --data grocery:PATH --tune

The settings are ``configs/transfer/SETTING.yaml``; ``grocery`` is compression on photographs, with some of the methods.
With ``--tune`` every method gets the six runs of ``GRID`` with seed 0, in the compression or grocery setting with 15
epochs, judged by MAP@R on the validation classes, which are training classes held out. Without it every method runs
with its best options and is measured on the test classes. All methods see the same number of views: a batch of
distillation has two of each image, so labels alone get twice the epochs. A finished run is a line in the results and is
not run again while its settings stay the same. To resume an interrupted one, repeat the command.
"""

from __future__ import annotations

from itertools import product
from pathlib import Path
from statistics import fmean
from typing import Any

import yaml

from benchmarks.labels_only import as_labels_only
from benchmarks.papers.comparison import Comparison, Key
from benchmarks.papers.plots import draw_bars
from benchmarks.papers.protocol import arguments, measured, sets_of_options, validated, validated_map_at_r
from benchmarks.results import (
    Options,
    Settings,
    digest_of,
    gain_over,
    grouped,
    made_with,
    markdown_table,
    percent,
    recall_at_1,
    spread,
)
from compressor import distill
from compressor.cli.manners import Manners, heard
from zoo import load_data, train

CONFIGS = Path(__file__).resolve().parents[2] / "configs" / "transfer"

TEACHER, LABELS_ONLY = "teacher", "labels only"
SHORT, SHORT_EPOCHS = ", 15 epochs", 15
TUNED_IN = {
    "self": "compression" + SHORT,
    "dimension": "compression" + SHORT,
    "compression": "compression" + SHORT,
    "grocery": "grocery" + SHORT,
}
TUNING_SETTINGS = sorted(set(TUNED_IN.values()))
TITLES = {
    "self": "Self-transfer, Omniglot",
    "dimension": "Dimension reduction, Omniglot",
    "compression": "Compression, Omniglot",
    "grocery": "Compression, Grocery Store",
}
VIEWS = 2  # views of an image in a batch of distillation

PROXIES = 0.03  # learning rate of proxies, whatever the network's


def _sets(name: str, tried: list[tuple[float, float]], proxies: bool = False) -> list[Options]:
    sets = sets_of_options(name, tried)
    return [options | {"proxy_lr_factor": PROXIES / options["lr"]} for options in sets] if proxies else sets


# Six runs each: two rates with two values of the method's most important option, then two beyond the best of those in
# compression; for labels alone, the last two have batches with one image per class.
GRID: dict[str, list[Options]] = {
    "relaxed_contrastive": _sets(
        "sigma", [(1e-2, 1.0), (1e-2, 0.5), (3e-2, 1.0), (3e-2, 0.5), (3e-2, 0.25), (1e-1, 0.5)]
    ),
    "relaxed_multi_similarity": _sets(
        "beta", [(1e-2, 2.0), (1e-2, 4.0), (3e-2, 2.0), (3e-2, 4.0), (3e-2, 1.0), (1e-1, 2.0)]
    ),
    "rkd": _sets("angle_weight", [(1e-2, 2.0), (1e-2, 0.5), (3e-2, 2.0), (3e-2, 0.5), (3e-2, 0.1), (1e-1, 0.5)]),
    "pkt": _sets("weight", [(1e-2, 1.0), (1e-2, 1e4), (3e-2, 1.0), (3e-2, 1e4), (1e-1, 1.0), (1e-1, 1e4)]),
    "darkrank": _sets(
        "triplet_weight", [(1e-2, 1.0), (1e-2, 0.1), (3e-2, 1.0), (3e-2, 0.1), (1e-2, 10.0), (3e-3, 1.0)]
    ),
    "fitnet": _sets(
        "weight", [(1e-2, 1.0), (1e-2, 10.0), (3e-2, 1.0), (3e-2, 10.0), (3e-2, 100.0), (1e-1, 10.0)], proxies=True
    ),
    "attention": _sets(
        "weight", [(1e-2, 1e3), (1e-2, 1.0), (3e-2, 1e3), (3e-2, 1.0), (1e-2, 0.1), (3e-3, 1.0)], proxies=True
    ),
    "crd": _sets(
        "weight", [(1e-2, 0.8), (1e-2, 0.1), (3e-2, 0.8), (3e-2, 0.1), (1e-2, 0.02), (3e-3, 0.1)], proxies=True
    ),
    LABELS_ONLY: [
        {"lr": lr, "proxy_lr_factor": factor, "images_per_class": images}
        for factor, images in ((10.0, 4), (30.0, 4), (10.0, 1))
        for lr in (3e-3, 1e-2)
    ],
}
LEARNS_FROM = {
    TEACHER: "labels",
    LABELS_ONLY: "labels",
    "darkrank": "embeddings, labels",
    "crd": "embeddings, labels",
    "fitnet": "feature maps, labels",
    "attention": "feature maps, labels",
}
ON_GROCERY = ["relaxed_contrastive", "rkd", "pkt", LABELS_ONLY]


@heard(Manners())
def main() -> None:
    """Make the runs that are not in the results yet, then write the table and the plot."""
    parser = arguments(__doc__, "folder:PATH of Omniglot's two small background sets, or grocery:PATH")
    parser.add_argument("setting", choices=TITLES)
    parser.add_argument("--methods", nargs="+", choices=GRID, help="all, or on grocery four, where none is named")
    options = parser.parse_args()
    methods = options.methods or (ON_GROCERY if options.setting == "grocery" else list(GRID))
    if options.tune:
        tune(TUNED_IN[options.setting], options.data, methods, options.work / "transfer")
    else:
        for seed in options.seeds:
            compare(options.setting, options.data, seed, methods, options.work / "transfer")
    lines = COMPARISON.lines(KEYS)
    COMPARISON.write(table(lines, COMPARISON.tuning_lines(TUNED_KEYS)))
    if lines:
        draw_bars(_panels(lines), "Recall@1, %", COMPARISON.plot)


def tune(setting: str, data: str, methods: list[str], work: Path) -> None:
    """Try the grid of each method, and record MAP@R on the validation classes."""

    def judged(settings: Settings) -> dict[str, Any]:
        return {"validation": validated(make(settings, data, 0, work))}

    for method in methods:
        COMPARISON.tune({"setting": setting, "method": method}, judged)


def compare(setting: str, data: str, seed: int, methods: list[str], work: Path) -> None:
    """Measure the teacher of a seed and its students on the test classes."""

    def judged(settings: Settings) -> dict[str, Any]:
        folder = make(settings, data, seed, work)
        images = load_data(data, settings["split"], settings["validation"]).test
        return {"validation": validated(folder)} | measured(folder, images)

    for method in [TEACHER, *methods]:
        COMPARISON.compare({"setting": setting, "method": method}, judged, seed=seed)


def settings_of(setting: str, method: str, tried: Options) -> Settings:
    """Return all settings of a run except data and seed: the division, the teacher, and the student if there is one.

    Args:
        setting: a configuration, or its short form.
        method: a loss of distill, the teacher, or labels alone, which trains with the teacher's loss.
        tried: options that override the configuration's.
    """
    file = CONFIGS / f"{setting.removesuffix(SHORT)}.yaml"
    configured = yaml.safe_load(file.read_text(encoding="utf-8"))
    if setting.endswith(SHORT):
        configured["student"]["epochs"] = SHORT_EPOCHS
    settings: Settings = {name: configured[name] for name in ("split", "validation", "teacher")}
    if method == LABELS_ONLY:
        alone = as_labels_only(configured["student"], configured["teacher"])
        settings["labels_only"] = alone | {"epochs": VIEWS * alone["epochs"]} | tried
    elif method != TEACHER:
        settings["student"] = configured["student"] | {"loss": method} | tried
    return settings


def make(settings: Settings, data: str, seed: int, work: Path) -> Path:
    """Train a teacher, a student with its teacher, or a student on labels alone, unless it is trained already.

    Folders are named by settings and seed, so that methods share teachers, and tuning shares those of seed 0. All
    students of a teacher see the same views, so it embeds them once, except for losses on feature maps.
    """
    shared = {"split": settings["split"], "validation": settings["validation"], "seed": seed}
    if "labels_only" in settings:
        options = settings["labels_only"]
        return train(data, work / f"labels-only-{digest_of(shared | options)}-{seed}", **shared, **options)
    teacher = work / f"teacher-{digest_of(shared | settings['teacher'])}-{seed}"
    teacher = train(data, teacher, **shared, **settings["teacher"])
    if "student" not in settings:
        return teacher
    options = settings["student"]
    out = work / f"{options['loss']}-{digest_of(settings)}-{seed}"
    return distill(teacher, data=data, out=out, **shared, **options, teacher_cache=work / "views")


def _tuned_as(key: Key) -> Key:
    return key | {"setting": TUNED_IN.get(key["setting"], key["setting"])}


COMPARISON = Comparison(
    "transfer",
    grid=lambda key: GRID.get(key["method"], []),
    settings=lambda key, tried: settings_of(key["setting"], key["method"], tried),
    score=validated_map_at_r,
    tuned_as=_tuned_as,
)
KEYS = [{"setting": setting, "method": method} for setting, method in product(TITLES, (TEACHER, *GRID))]
TUNED_KEYS = [{"setting": setting, "method": method} for setting, method in product(TUNING_SETTINGS, GRID)]


def table(lines: list[dict[str, Any]], tuning: list[dict[str, Any]]) -> str:
    """Return the results as Markdown: a table for each setting, best method first, then the results of tuning."""
    text = ["# Embedding transfer", ""]
    text += [
        "Recall and MAP in percent on the test classes, mean over seeds ± standard deviation; of the last columns,"
    ]
    text += ["mean difference of Recall@1 of the same seeds ± its standard error. All methods see as many views.", ""]
    text += ["At 32 pixels the last of the four stages is one position: attention transfer compares three.", ""]
    for setting, title in TITLES.items():
        of_setting = [line for line in lines if line["setting"] == setting]
        if of_setting:
            text += [f"## {title}", "", *_setting_table(of_setting), ""]
    if lines:
        text += ["![Recall@1 of the methods](transfer.png)", ""]
    if tuning:
        text += ["## What tuning found", "", "MAP@R in percent on the validation classes, seed 0.", ""]
        rows = [
            [line["setting"], line["method"], str(line["options"]), percent(line, validated_map_at_r)]
            for line in tuning
        ]
        text += [*markdown_table(["setting", "method", "options", "MAP@R"], rows), ""]
    return "\n".join([*text, made_with([*lines, *tuning])]) + "\n"


def _setting_table(lines: list[dict[str, Any]]) -> list[str]:
    recalls = _recalls(lines)
    relaxed, teachers = (
        [line for line in lines if line["method"] == method] for method in ("relaxed_contrastive", TEACHER)
    )
    rows = []
    for method in recalls:
        found = [line for line in lines if line["method"] == method]
        rows.append(
            [
                method,
                LEARNS_FROM.get(method, "embeddings"),
                ", ".join(str(line["seed"]) for line in found),
                *(spread([100 * line["recall"][k] for line in found]) for k in ("1", "2", "4", "8")),
                spread([100 * line["map_at_r"] for line in found]),
                gain_over(found, relaxed, recall_at_1),
                gain_over(teachers, found, recall_at_1),
            ]
        )
    header = ["method", "learns from", "seeds", "Recall@1", "@2", "@4", "@8", "MAP@R"]
    return markdown_table([*header, "relaxed contrastive is ahead by", "ahead of the teacher by"], rows)


def _recalls(lines: list[dict[str, Any]]) -> dict[str, list[float]]:
    """Return Recall@1 in percent of each method and seed, the best method first."""
    by_method = grouped(lines, "method", recall_at_1)
    return dict(sorted(by_method.items(), key=lambda item: -fmean(item[1])))


def _panels(lines: list[dict[str, Any]]) -> dict[str, dict[str, list[float]]]:
    panels = {title: _recalls([line for line in lines if line["setting"] == name]) for name, title in TITLES.items()}
    return {title: methods for title, methods in panels.items() if methods}


if __name__ == "__main__":
    main()
