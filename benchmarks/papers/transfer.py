"""Embedding transfer (CVPR 2021): relaxed contrastive loss beside its rivals, and the student on labels alone.

    python -m benchmarks.papers.transfer compression --data folder:PATH --tune
    python -m benchmarks.papers.transfer compression --data folder:PATH --seeds 0 1 2
    python -m benchmarks.papers.transfer grocery --data grocery:PATH --tune

The settings are ``configs/transfer/SETTING.yaml``; ``grocery`` is compression on photographs, of some of the methods.
With ``--tune`` every method gets the same number of runs, ``GRID``, with the seed 0, in the compression setting or in
grocery, and is judged on the validation classes, which are training classes held out; without it every method runs with
what was best there, and is measured on the test classes. A finished run is a line in the results and is not run again
while its settings stay; an interrupted one goes on when the command is repeated.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import yaml

from benchmarks.labels_only import as_labels_only
from benchmarks.results import (
    Results,
    best_options,
    digest_of,
    gain,
    made_with,
    markdown_table,
    percent,
    spread,
    try_options,
)
from compressor import distill
from compressor.cli import quieten
from zoo import load_data, load_model, measure, train
from zoo.embedding import embed
from zoo.models import facts_of
from zoo.versions import machine, versions

HERE = Path(__file__).resolve().parent
CONFIGS = HERE.parents[1] / "configs" / "transfer"
TUNING = Results(HERE / "results" / "transfer-tuning.jsonl")
RESULTS = Results(HERE / "results" / "transfer.jsonl")
TABLE = HERE / "results" / "transfer.md"

LABELS_ONLY = "labels only"
TUNED_IN = dict.fromkeys(("self", "dimension", "compression"), "compression") | {"grocery": "grocery"}
TEACHER_OF = {"self": "self", "dimension": "self", "compression": "compression", "grocery": "grocery"}
TITLES = {
    "self": "Self-transfer, Omniglot",
    "dimension": "Dimension reduction, Omniglot",
    "compression": "Compression, Omniglot",
    "grocery": "Compression, Grocery Store",
}

# Four runs for each: two rates and two values of what matters most in the method, or four rates where it has nothing.
RATES = (1e-3, 3e-3)
GRID: dict[str, list[dict[str, Any]]] = {
    "relaxed_contrastive": [{"lr": lr, "loss_options": {"sigma": s}} for lr in RATES for s in (1.0, 0.5)],
    "relaxed_multi_similarity": [{"lr": lr, "loss_options": {"beta": b}} for lr in RATES for b in (2.0, 4.0)],
    "rkd": [{"lr": lr, "loss_options": {"angle_weight": w}} for lr in RATES for w in (2.0, 0.5)],
    "pkt": [{"lr": lr, "loss_options": {"weight": w}} for lr in RATES for w in (1.0, 1e4)],
    "darkrank": [{"lr": lr, "loss_options": {"triplet_weight": w}} for lr in RATES for w in (1.0, 0.1)],
    "fitnet": [{"lr": lr, "loss_options": {"weight": w}} for lr in RATES for w in (1.0, 10.0)],
    "attention": [{"lr": lr, "loss_options": {"weight": w}} for lr in RATES for w in (1000.0, 1.0)],
    "crd": [{"lr": lr, "loss_options": {"weight": w}} for lr in RATES for w in (0.8, 0.1)],
    LABELS_ONLY: [{"lr": lr} for lr in (3e-4, 1e-3, 3e-3, 1e-2)],
}
ON_GROCERY = ["relaxed_contrastive", "rkd", "pkt", LABELS_ONLY]


def main() -> None:
    """Run what is not in the results yet, then write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("setting", choices=TITLES)
    parser.add_argument(
        "--data", required=True, help="folder:PATH of Omniglot's two small background sets, or grocery:"
    )
    parser.add_argument("--tune", action="store_true", help="choose each method's options on the validation classes")
    parser.add_argument("--methods", nargs="+", choices=GRID, help="all, or on grocery four, where none is named")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--work", type=Path, default=Path("runs/papers"), help="folder for the runs")
    options = parser.parse_args()
    quieten()
    methods = options.methods or (ON_GROCERY if options.setting == "grocery" else list(GRID))
    if options.tune:
        tune(TUNED_IN[options.setting], options.data, methods, options.work)
    else:
        for seed in options.seeds:
            compare(options.setting, options.data, seed, methods, options.work)
    TABLE.write_text(table(RESULTS.lines(), TUNING.lines()), encoding="utf-8")
    print(TABLE.read_text(encoding="utf-8"))


def tune(setting: str, data: str, methods: list[str], work: Path) -> None:
    """Try the grid of each method and note Recall@1 on the validation classes."""
    settings = read_settings(setting, data=data, seed=0)
    teacher = train_teacher(setting, settings, work)
    for method in methods:

        def judged(number: int, tried: dict[str, Any], method: str = method) -> dict[str, Any]:
            student = make_student(method, teacher, settings, tried, tuned_folder(setting, method, number, work))
            return {"validation": facts_of(load_model(student)).measured["validation"]}

        try_options(TUNING, GRID[method], judged, method=method, setting=setting, settings=digest_of(settings))


def compare(setting: str, data: str, seed: int, methods: list[str], work: Path) -> None:
    """Measure the teacher of a seed and its students on the test classes."""
    settings = read_settings(setting, data=data, seed=seed)
    known = {"setting": setting, "seed": seed, "settings": digest_of(settings)}
    for method in ["teacher", *methods]:
        if RESULTS.lines(method=method, **known):
            continue
        folder = teacher = train_teacher(setting, settings, work)
        tried: dict[str, Any] = {}
        if method != "teacher":
            tried = chosen(method, TUNED_IN[setting])
            out = work / setting / f"{method}-{seed}"
            if setting == TUNED_IN[setting] and seed == 0:  # made in tuning
                out = tuned_folder(setting, method, GRID[method].index(tried), work)
            folder = make_student(method, teacher, settings, tried, out)
        images = load_data(data, settings["split"], settings["validation"]).test
        model = load_model(folder)
        result = measure(embed(model, images), images, facts_of(model).metric)
        line = {"method": method, **known, **result.summary(), "options": tried}
        RESULTS.add(line | {"machine": machine(), "versions": versions()})


def chosen(method: str, setting: str) -> dict[str, Any]:
    """Return the options that were best on the validation classes of a setting."""
    digest = digest_of(read_settings(setting))
    return best_options(TUNING, GRID[method], _validated, method=method, setting=setting, settings=digest)


def _validated(line: dict[str, Any]) -> float:
    recall: float = line["validation"]["recall_at_1"]
    return recall


def tuned_folder(setting: str, method: str, number: int, work: Path) -> Path:
    """Return where tuning leaves the student of a place in the grid."""
    return work / f"{setting}-tuning" / f"{method}-{number}"


def read_settings(setting: str, **values: Any) -> dict[str, Any]:
    """Return a setting's configuration with other values."""
    settings: dict[str, Any] = yaml.safe_load((CONFIGS / f"{setting}.yaml").read_text(encoding="utf-8"))
    return settings | values


def train_teacher(setting: str, settings: dict[str, Any], work: Path) -> Path:
    """Train the teacher of a seed, or find it trained."""
    out = work / f"{TEACHER_OF[setting]}-teachers" / str(settings["seed"])
    return train(settings["data"], out, **_shared(settings), **settings["teacher"])


def make_student(method: str, teacher: Path, settings: dict[str, Any], tried: dict[str, Any], out: Path) -> Path:
    """Train a student by a method: by the method's name as distill's loss, or on labels alone by the teacher's."""
    if method == LABELS_ONLY:
        options = as_labels_only(settings["student"], settings["teacher"]) | tried
        return train(settings["data"], out, **_shared(settings), **options)
    options = settings["student"] | {"loss": method} | tried
    return distill(teacher, data=settings["data"], out=out, **_shared(settings), **options)


def table(lines: list[dict[str, Any]], tuning: list[dict[str, Any]]) -> str:
    """Return the results as Markdown: a table for each setting, best first, then what tuning chose."""
    text = ["# Embedding transfer", ""]
    text += ["Recall and MAP in percent on the test classes, mean over seeds ± standard deviation; of the last column,"]
    text += ["mean difference of the same seeds ± its standard error.", ""]
    for setting, title in TITLES.items():
        of_setting = [line for line in lines if line["setting"] == setting]
        if of_setting:
            text += [f"## {title}", "", *_setting_table(of_setting), ""]
    if tuning:
        text += ["## What tuning found", "", "Recall@1 in percent on the validation classes, seed 0.", ""]
        rows = [[line["setting"], line["method"], str(line["options"]), percent(line, _validated)] for line in tuning]
        text += [*markdown_table(["setting", "method", "options", "Recall@1"], rows), ""]
    if lines:
        text += [made_with(lines[-1])]
    return "\n".join(text) + "\n"


def _setting_table(lines: list[dict[str, Any]]) -> list[str]:
    ours = {line["seed"]: line["recall"]["1"] for line in lines if line["method"] == "relaxed_contrastive"}
    by_method: dict[str, list[dict[str, Any]]] = {}
    for line in lines:
        by_method.setdefault(line["method"], []).append(line)
    rows = []
    for method, found in sorted(by_method.items(), key=lambda item: -_mean([x["recall"]["1"] for x in item[1]])):
        behind = [100 * (ours[line["seed"]] - line["recall"]["1"]) for line in found if line["seed"] in ours]
        rows.append(
            [
                method,
                ", ".join(str(line["seed"]) for line in found),
                *(spread([100 * line["recall"][k] for line in found]) for k in ("1", "2", "4", "8")),
                spread([100 * line["map_at_r"] for line in found]),
                gain(behind),
            ]
        )
    header = ["method", "seeds", "Recall@1", "@2", "@4", "@8", "MAP@R", "relaxed contrastive is ahead by"]
    return markdown_table(header, rows)


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)


def _shared(settings: dict[str, Any]) -> dict[str, Any]:
    return {name: settings[name] for name in ("split", "validation", "seed") if name in settings}


if __name__ == "__main__":
    main()
