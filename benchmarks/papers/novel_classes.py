"""Generated novel classes (BMVC 2021): losses with proxies, with and without the generator.

    python -m benchmarks.papers.novel_classes --data folder:PATH --tune
    python -m benchmarks.papers.novel_classes --data folder:PATH --seeds 0 1 2 3 4

With ``--tune`` each loss gets the four runs of ``grid`` in each variant, with seed 0, judged on two held-out alphabets
of the training classes. Without it they run on all training classes with their best options and are measured on the
test classes, always after the last epoch. A finished run is a line in the results and is not run again while its
settings stay the same.
"""

from __future__ import annotations

from itertools import product
from pathlib import Path
from typing import Any

from benchmarks.papers.comparison import Comparison
from benchmarks.papers.plots import draw_bars
from benchmarks.papers.protocol import HELD_OUT, SPLIT, SPLITS, arguments, measured, validated, validated_map_at_r
from benchmarks.results import (
    Options,
    Settings,
    digest_of,
    gain,
    grouped,
    made_with,
    markdown_table,
    percent,
    recall_at_1,
    spread,
)
from compressor.cli.manners import Manners, heard
from zoo import DataSplits, load_data, train

BASES = ("proxy_anchor", "proxy_nca")
WITHOUT, _ = VARIANTS = ("without", "with generator")
EPOCHS = 90
OPTIONS: dict[str, Any] = {
    "arch": "test_resnet",
    "dim": 512,
    "image_size": 32,
    "crop_pct": 1.0,
    "epochs": EPOCHS,
    "batch_size": 64,
    "augment": "drawing",
    "min_crop": 0.6,
    "precision": "auto",
    "validate_every": EPOCHS,
}
RATES = (1e-3, 3e-3)
_BATCHES = {"proxy_anchor": {"images_per_class": 1}, "proxy_nca": {"images_per_class": 4}}  # as in Proxy-Anchor's table


def grid(base: str, variant: str) -> list[Options]:
    """Return four sets of options: two rates with two values of the variant's most important option."""
    if variant == WITHOUT:
        return [
            {"loss": base, "lr": lr, "proxy_lr_factor": factor} | _BATCHES[base]
            for lr, factor in product(RATES, (10.0, 30.0))
        ]
    sets: list[Options] = []
    for lr, weight in product(RATES, (0.3, 1.0)):
        options = {"base": base, "synthetic_weight": weight, "novel_classes": 64}
        options["generator_lr_factor"] = 3e-3 / lr  # the generator's rate is 3e-3, whatever the network's
        known = {"loss": "novel_classes", "lr": lr, "proxy_lr_factor": 10.0, "loss_options": options}
        sets.append(known | _BATCHES[base])
    return sets


@heard(Manners())
def main() -> None:
    """Make the runs that are not in the results yet, then write the table and the plot."""
    parser = arguments(__doc__, seeds=(0, 1, 2, 3, 4))
    parser.add_argument("--bases", nargs="+", choices=BASES, default=list(BASES))
    options = parser.parse_args()
    work = options.work / "novel-classes"
    if options.tune:
        data = load_data(options.data, f"list:{SPLITS / HELD_OUT}.yaml")
        for base in options.bases:
            tune(data, base, work)
    else:
        data = load_data(options.data, SPLIT, validation=0)
        for base, seed in product(options.bases, options.seeds):
            compare(data, base, seed, work)
    lines = COMPARISON.lines(KEYS)
    COMPARISON.write(table(lines, COMPARISON.tuning_lines(KEYS)))
    if lines:
        draw_bars(_panels(lines), "Recall@1, %", COMPARISON.plot)


def tune(data: DataSplits, base: str, work: Path) -> None:
    """Try the grids of a base loss, and record MAP@R on the held-out alphabets."""

    def judged(settings: Settings) -> dict[str, Any]:
        return {"validation": validated(make(settings, data, 0, work))}

    for variant in VARIANTS:
        COMPARISON.tune({"base": base, "variant": variant}, judged)


def compare(data: DataSplits, base: str, seed: int, work: Path) -> None:
    """Train each variant, and measure on the test classes."""

    def judged(settings: Settings) -> dict[str, Any]:
        return measured(make(settings, data, seed, work), data.test)

    for variant in VARIANTS:
        COMPARISON.compare({"base": base, "variant": variant}, judged, seed=seed)


def make(settings: Settings, data: DataSplits, seed: int, work: Path) -> Path:
    """Train with these settings, unless the model is trained already."""
    return train(data, work / f"{data.digest}-{digest_of(settings)}-{seed}", seed=seed, **settings)


COMPARISON = Comparison(
    "novel-classes",
    grid=lambda key: grid(key["base"], key["variant"]),
    settings=lambda key, tried: OPTIONS | tried,
    score=validated_map_at_r,
)
KEYS = [{"base": base, "variant": variant} for base, variant in product(BASES, VARIANTS)]


def table(lines: list[dict[str, Any]], tuning: list[dict[str, Any]]) -> str:
    """Return the results as Markdown: for each base loss, without and with the generator, and the difference."""
    text = ["# Generated novel classes on Omniglot", ""]
    rows = []
    for base in dict.fromkeys(line["base"] for line in lines):
        found = {(line["seed"], line["variant"]): line for line in lines if line["base"] == base}
        seeds = sorted({seed for seed, _ in found if all((seed, variant) in found for variant in VARIANTS)})
        for name, get in (("Recall@1", lambda x: x["recall"]["1"]), ("MAP@R", lambda x: x["map_at_r"])):
            without, generator = ([100 * get(found[seed, variant]) for seed in seeds] for variant in VARIANTS)
            if seeds:
                gained = gain([after - before for before, after in zip(without, generator, strict=True)])
                rows.append([base, name, ", ".join(map(str, seeds)), spread(without), spread(generator), gained])
    if rows:
        text += [f"After {EPOCHS} epochs on all training classes. In percent on the test classes, mean over"]
        text += ["seeds ± standard deviation; of the gain, mean difference of the same seeds ± its standard error.", ""]
        header = ["loss", "measure", "seeds", *VARIANTS, "gain"]
        text += [*markdown_table(header, rows), "", "![Recall@1 of the variants](novel-classes.png)", ""]
    if tuning:
        text += ["## What tuning found", "", "MAP@R in percent on the alphabets held out, seed 0.", ""]
        tried = [[str(line["options"]), percent(line, validated_map_at_r)] for line in tuning]
        text += [*markdown_table(["options", "MAP@R"], tried), ""]
    text += [made_with([*lines, *tuning])]
    return "\n".join(text) + "\n"


def _panels(lines: list[dict[str, Any]]) -> dict[str, dict[str, list[float]]]:
    by_base = {base: [line for line in lines if line["base"] == base] for base in BASES}
    return {base: grouped(found, "variant", recall_at_1) for base, found in by_base.items() if found}


if __name__ == "__main__":
    main()
