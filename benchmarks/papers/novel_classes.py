"""Generated novel classes (BMVC 2021): losses with proxies, with and without the generator.

A control has the proxies of the novel classes and uses no generated embeddings.

    python -m benchmarks.papers.novel_classes --data folder:PATH --tune
    python -m benchmarks.papers.novel_classes --data folder:PATH --seeds 0 1 2 3 4

With ``--tune`` each loss gets the eight runs of ``grid`` in each variant, with the seed 0, and is judged on the
validation classes, which are training classes held out; without it they run with what was best there, and are measured
on the test classes. A finished run is a line in the results and is not run again.
"""

from __future__ import annotations

import argparse
from itertools import product
from pathlib import Path
from typing import Any

from benchmarks.papers.omniglot import SPLIT
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
from compressor.cli import quieten
from zoo import DataSplits, load_data, load_model, measure, train
from zoo.embedding import embed
from zoo.models import facts_of
from zoo.versions import machine, versions

HERE = Path(__file__).resolve().parent
TUNING = Results(HERE / "results" / "novel-classes-tuning.jsonl")
RESULTS = Results(HERE / "results" / "novel-classes.jsonl")
TABLE = HERE / "results" / "novel-classes.md"

BASES = ("proxy_anchor", "proxy_nca")
WITHOUT, CONTROL, GENERATOR = VARIANTS = ("without", "novel proxies alone", "with generator")
OPTIONS: dict[str, Any] = {
    "arch": "test_resnet",
    "dim": 512,
    "image_size": 32,
    "crop_pct": 1.0,
    "epochs": 30,
    "batch_size": 64,
    "images_per_class": 4,
    "augment": "drawing",
    "min_crop": 0.6,
    "precision": "auto",
    "validate_every": 5,
}


def grid(base: str, variant: str) -> list[dict[str, Any]]:
    """Return eight sets of options: rates of network and proxies, or rates and what matters most in the variant."""
    if variant == WITHOUT:
        return [
            {"loss": base, "lr": lr, "proxy_lr_factor": factor}
            for lr, factor in product((3e-4, 1e-3, 2e-3, 4e-3), (10.0, 30.0))
        ]
    sets = []
    if variant == CONTROL:
        for lr, count in product((3e-4, 1e-3, 2e-3, 4e-3), (32, 128)):
            sets.append({"lr": lr, "loss_options": {"synthetic_weight": 0.0, "novel_classes": count}})
    else:
        for lr, weight, count in product((1e-3, 2e-3), (0.3, 1.0), (32, 128)):
            # The generator wants a rate of its own, whatever the network's is.
            options = {"synthetic_weight": weight, "novel_classes": count, "generator_lr_factor": 3e-3 / lr}
            sets.append({"lr": lr, "loss_options": options})
    for options in sets:
        options |= {"loss": "novel_classes", "proxy_lr_factor": 30.0}
        options["loss_options"]["base"] = base
    return sets


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
    for variant in VARIANTS:

        def judged(number: int, tried: dict[str, Any], variant: str = variant) -> dict[str, Any]:
            folder = train(data, work / f"{base}-{variant}-{number}", **OPTIONS, **tried)
            return {"validation": facts_of(load_model(folder)).measured["validation"]}

        try_options(TUNING, grid(base, variant), judged, base=base, variant=variant, settings=digest_of(OPTIONS))


def compare(data: DataSplits, base: str, seed: int, work: Path) -> None:
    """Train each variant, and measure on the test classes."""
    for variant in VARIANTS:
        known = {"base": base, "variant": variant, "seed": seed, "settings": digest_of(OPTIONS)}
        if RESULTS.lines(**known):
            continue
        tried = chosen(base, variant)
        folder = train(data, work / f"{base}-{variant}-{seed}", seed=seed, **OPTIONS, **tried)
        model = load_model(folder)
        result = measure(embed(model, data.test), data.test, facts_of(model).metric)
        line = {**known, **result.summary(), "options": tried}
        RESULTS.add(line | {"machine": machine(), "versions": versions()})


def chosen(base: str, variant: str) -> dict[str, Any]:
    """Return the options that were best on the validation classes."""
    digest = digest_of(OPTIONS)
    return best_options(TUNING, grid(base, variant), _validated, base=base, variant=variant, settings=digest)


def _validated(line: dict[str, Any]) -> float:
    recall: float = line["validation"]["recall_at_1"]
    return recall


def table(lines: list[dict[str, Any]], tuning: list[dict[str, Any]]) -> str:
    """Return the results as Markdown: for each base, without and with the generator, and the difference."""
    text = ["# Generated novel classes on Omniglot", ""]
    rows = []
    for base in dict.fromkeys(line["base"] for line in lines):
        found = {(line["seed"], line["variant"]): line for line in lines if line["base"] == base}
        seeds = sorted({seed for seed, _ in found if all((seed, variant) in found for variant in VARIANTS)})
        for measured, get in (("Recall@1", lambda x: x["recall"]["1"]), ("MAP@R", lambda x: x["map_at_r"])):
            without, control, generator = ([100 * get(found[seed, variant]) for seed in seeds] for variant in VARIANTS)
            if seeds:
                gains = [
                    gain([after - one for one, after in zip(before, generator, strict=True)])
                    for before in (without, control)
                ]
                spreads = [spread(values) for values in (without, control, generator)]
                rows.append([base, measured, ", ".join(map(str, seeds)), *spreads, *gains])
    if rows:
        text += ["In percent on the test classes, mean over seeds ± standard deviation; of the gains, mean difference"]
        text += ["of the same seeds ± its standard error.", ""]
        header = ["loss", "measure", "seeds", *VARIANTS, "gain on without", "gain on novel proxies alone"]
        text += [*markdown_table(header, rows), ""]
    if tuning:
        text += ["## What tuning found", "", "Recall@1 on the validation classes, seed 0.", ""]
        tried = [[str(line["options"]), percent(line, _validated)] for line in tuning]
        text += [*markdown_table(["options", "Recall@1"], tried), ""]
    if lines:
        text += [made_with(lines[-1])]
    return "\n".join(text) + "\n"


if __name__ == "__main__":
    main()
