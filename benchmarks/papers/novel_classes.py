"""Generated novel classes (BMVC 2021): losses with proxies, with and without the generator.

    python -m benchmarks.papers.novel_classes --data folder:PATH --tune
    python -m benchmarks.papers.novel_classes --data folder:PATH --seeds 0 1 2 3 4

With ``--tune`` each loss, with and without the generator, gets the eight runs of ``grid`` with the seed 0 and is judged
on the validation classes, which are training classes held out; without it they run with what was best there, and are
measured on the test classes. A finished run is a line in the results and is not run again.
"""

from __future__ import annotations

import argparse
from itertools import product
from pathlib import Path
from typing import Any

from benchmarks.results import Results, made_with, markdown_table, spread, standard_error
from compressor.cli import quieten
from zoo import DataSplits, load_data, load_model, measure, train
from zoo.embedding import embed
from zoo.models import facts_of
from zoo.versions import machine, versions

HERE = Path(__file__).resolve().parent
TUNING = Results(HERE / "results" / "novel-classes-tuning.jsonl")
RESULTS = Results(HERE / "results" / "novel-classes.jsonl")
TABLE = HERE / "results" / "novel-classes.md"
SPLIT = f"list:{HERE.parents[1] / 'configs' / 'splits' / 'omniglot.yaml'}"

BASES = ("proxy_anchor", "proxy_nca")
OPTIONS: dict[str, Any] = {
    "arch": "resnet10t",
    "dim": 512,
    "image_size": 48,
    "crop_pct": 1.0,
    "epochs": 40,
    "batch_size": 64,
    "images_per_class": 4,
    "augment": "drawing",
    "min_crop": 0.6,
    "precision": "bf16-mixed",
    "validate_every": 4,
}


def grid(base: str, generator: bool) -> list[dict[str, Any]]:
    """Return eight sets of options: rates of network and proxies, or rates and what matters most in the generator."""
    if not generator:
        return [
            {"loss": base, "lr": lr, "proxy_lr_factor": factor}
            for lr, factor in product((3e-4, 1e-3, 2e-3, 4e-3), (10.0, 30.0))
        ]
    return [
        {
            "loss": "novel_classes",
            "lr": lr,
            "proxy_lr_factor": 30.0,
            "loss_options": {"base": base, "synthetic_weight": weight, "novel_classes": count},
        }
        for lr, weight, count in product((1e-3, 2e-3), (0.3, 1.0), (32, 128))
    ]


def main() -> None:
    """Run what is not in the results yet, then write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="folder:PATH of Omniglot's two small background sets")
    parser.add_argument("--tune", action="store_true", help="choose the options on the validation classes")
    parser.add_argument("--bases", nargs="+", choices=BASES, default=list(BASES))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--work", type=Path, default=Path("runs/papers"), help="folder for the runs")
    options = parser.parse_args()
    quieten()
    data = load_data(options.data, SPLIT)
    for base in options.bases:
        if options.tune:
            tune(data, base, options.work / "novel-classes-tuning")
        else:
            for seed in options.seeds:
                compare(data, base, seed, options.work / "novel-classes")
    TABLE.write_text(table(RESULTS.lines(), TUNING.lines()), encoding="utf-8")
    print(TABLE.read_text(encoding="utf-8"))


def tune(data: DataSplits, base: str, work: Path) -> None:
    """Try the grids of a base loss and note Recall@1 on the validation classes."""
    for generator in (False, True):
        for number, tried in enumerate(grid(base, generator)):
            if not TUNING.lines(base=base, generator=generator, options=tried):
                folder = train(data, work / f"{base}-{generator}-{number}", **OPTIONS, **tried)
                measured = facts_of(load_model(folder)).measured["validation"]
                TUNING.add({"base": base, "generator": generator, "options": tried, "validation": measured})


def compare(data: DataSplits, base: str, seed: int, work: Path) -> None:
    """Train with and without the generator, and measure on the test classes."""
    for generator in (False, True):
        if RESULTS.lines(base=base, generator=generator, seed=seed):
            continue
        tried = chosen(base, generator)
        folder = train(data, work / f"{base}-{generator}-{seed}", seed=seed, **OPTIONS, **tried)
        model = load_model(folder)
        result = measure(embed(model, data.test), data.test, facts_of(model).metric)
        line = {"base": base, "generator": generator, "seed": seed, **result.summary(), "options": tried}
        RESULTS.add(line | {"machine": machine(), "versions": versions()})


def chosen(base: str, generator: bool) -> dict[str, Any]:
    """Return the options that were best on the validation classes."""
    lines, wanted = TUNING.lines(base=base, generator=generator), len(grid(base, generator))
    if len(lines) < wanted:
        raise SystemExit(f"{base} has {len(lines)} of {wanted} runs in {TUNING.path}; run --tune first.")
    options: dict[str, Any] = max(lines, key=lambda line: line["validation"]["recall_at_1"])["options"]
    return options


def table(lines: list[dict[str, Any]], tuning: list[dict[str, Any]]) -> str:
    """Return the results as Markdown: for each base, without and with the generator, and the difference."""
    text = ["# Generated novel classes on Omniglot", ""]
    rows = []
    for base in dict.fromkeys(line["base"] for line in lines):
        found = {(line["seed"], line["generator"]): line for line in lines if line["base"] == base}
        seeds = sorted(seed for seed, generator in found if generator and (seed, False) in found)
        for measured, get in (("Recall@1", lambda x: x["recall"]["1"]), ("MAP@R", lambda x: x["map_at_r"])):
            without, with_it = ([100 * get(found[seed, generator]) for seed in seeds] for generator in (False, True))
            gains = [after - before for before, after in zip(without, with_it, strict=True)]
            if seeds:
                gain = f"{sum(gains) / len(gains):+.2f} ± {standard_error(gains):.2f}"
                rows.append([base, measured, ", ".join(map(str, seeds)), spread(without), spread(with_it), gain])
    if rows:
        text += ["In percent on the test classes, mean over seeds ± standard deviation; of the gain, mean difference"]
        text += ["of the same seeds ± its standard error.", ""]
        text += [*markdown_table(["loss", "measure", "seeds", "without", "with generator", "gain"], rows), ""]
    if tuning:
        text += ["## What tuning found", "", "Recall@1 on the validation classes, seed 0.", ""]
        tried = [[str(line["options"]), f"{100 * line['validation']['recall_at_1']:.2f}"] for line in tuning]
        text += [*markdown_table(["options", "Recall@1"], tried), ""]
    if lines:
        text += [made_with(lines[-1])]
    return "\n".join(text) + "\n"


if __name__ == "__main__":
    main()
