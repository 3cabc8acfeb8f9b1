"""Conditions in which generated novel classes might help: long training, few classes, a network trained before.

    python -m benchmarks.papers.novel_classes_conditions --data folder:PATH --seeds 0 1 2

Compares Proxy-NCA with and without the generator. 30 epochs on all training classes, from random weights, had gained
nothing; of these conditions ``novel_classes`` adopted long training. All runs are judged on held-out alphabets of the
training classes, never on test classes. A finished run is a line in the results and is not run again while its settings
stay the same.
"""

from __future__ import annotations

import json
from itertools import product
from pathlib import Path
from statistics import fmean
from typing import Any

from benchmarks.papers.comparison import Comparison, Key
from benchmarks.papers.novel_classes import OPTIONS, VARIANTS, WITHOUT
from benchmarks.papers.protocol import HELD_OUT, SPLITS, arguments, validated, validated_map_at_r
from benchmarks.results import Options, Settings, digest_of, gain_over, made_with, markdown_table, spread
from compressor.cli.manners import Manners, heard
from zoo import load_data, train

ONE_ALPHABET = "omniglot-one-alphabet"
LETTERS = "letters"
CONDITIONS: dict[str, Settings] = {
    "long training": {"split": HELD_OUT, "epochs": 90, "proxy_lr_factor": 10.0},
    "few classes": {"split": ONE_ALPHABET, "epochs": 90, "proxy_lr_factor": 10.0},
    "trained before": {"split": HELD_OUT, "epochs": 30, "proxy_lr_factor": 30.0, "pretrained": LETTERS},
}
"""Training characters: 90 of three alphabets, 40 of one; or 90 after pretraining on the letters of ``make demo``."""
_BASE = {"lr": 3e-3, "images_per_class": 4}
_GENERATOR = {"base": "proxy_nca", "synthetic_weight": 1.0, "novel_classes": 64, "generator_lr_factor": 1.0}
_ON_LETTERS = OPTIONS | {"epochs": 12, "validate_every": 5, "lr": 1e-2, "proxy_lr_factor": 10.0, "images_per_class": 1}


@heard(Manners())
def main() -> None:
    """Make the runs that are not in the results yet, then write the table."""
    parser = arguments(__doc__, tuned=False)
    parser.add_argument("--conditions", nargs="+", choices=CONDITIONS, default=list(CONDITIONS))
    options = parser.parse_args()
    for seed, condition, variant in product(options.seeds, options.conditions, VARIANTS):

        def judged(settings: Settings, seed: int = seed) -> dict[str, Any]:
            folder = make(settings, options.data, seed, options.work / "novel-classes")
            return {"validation": validated(folder)} | generated(folder)

        COMPARISON.compare({"condition": condition, "variant": variant}, judged, seed=seed)
    COMPARISON.write(table(COMPARISON.lines(KEYS)))


def settings_of(key: Key, tried: Options) -> Settings:
    """Return the settings of a run: those of ``novel_classes``, with the changes of the condition."""
    settings = OPTIONS | CONDITIONS[key["condition"]] | _BASE | tried
    settings["validate_every"] = settings["epochs"]  # only the last epoch is measured
    if key["variant"] == WITHOUT:
        return settings | {"loss": "proxy_nca"}
    return settings | {"loss": "novel_classes", "loss_options": _GENERATOR}


def make(settings: Settings, data: str, seed: int, work: Path) -> Path:
    """Train with these settings, unless the model is trained already."""
    options = {name: value for name, value in settings.items() if name != "split"}
    if options.get("pretrained") == LETTERS:
        before = train("glyphs", work / f"{LETTERS}-{seed}", seed=seed, **_ON_LETTERS)
        options["pretrained"] = before / "model.safetensors"
    split = f"list:{SPLITS / settings['split']}.yaml"
    return train(load_data(data, split), work / f"{digest_of(settings)}-{seed}", seed=seed, **options)


def generated(folder: Path) -> dict[str, Any]:
    """Return how far generated classes are from real ones; empty for a run without the generator."""
    file = folder / "generated.json"
    return {"generated": json.loads(file.read_text(encoding="utf-8"))} if file.is_file() else {}


COMPARISON = Comparison("novel-classes-conditions", grid=lambda key: [], settings=settings_of, score=validated_map_at_r)
KEYS = [{"condition": condition, "variant": variant} for condition, variant in product(CONDITIONS, VARIANTS)]


def table(lines: list[dict[str, Any]]) -> str:
    """Return the results as Markdown: for each condition, without and with the generator, and the difference."""
    measures = {"Recall@1": lambda line: line["validation"]["recall_at_1"], "MAP@R": validated_map_at_r}
    rows = []
    for condition, (name, score) in product(CONDITIONS, measures.items()):
        of_condition = [line for line in lines if line["condition"] == condition]
        without, generator = ([line for line in of_condition if line["variant"] == variant] for variant in VARIANTS)
        if without and generator:
            seeds = ", ".join(str(line["seed"]) for line in generator)
            spreads = (spread([100 * score(line) for line in found]) for found in (without, generator))
            rows.append([condition, name, seeds, *spreads, gain_over(without, generator, score)])
    found = {name: [line for line in lines if line["condition"] == name and "generated" in line] for name in CONDITIONS}
    distances = [
        [condition, *(_mean(of_condition, name) for name in ("real_to_nearest_real", "novel_to_nearest_real"))]
        for condition, of_condition in found.items()
        if of_condition
    ]
    text = [
        "# Generated novel classes under other conditions",
        "",
        "Proxy-NCA on Omniglot. In percent on alphabets held out of the training classes, mean over seeds ± standard",
        "deviation; of the gain, mean difference of the same seeds ± its standard error. Long training: 90 epochs on",
        "90 characters of three alphabets; few classes: 90 epochs on 40 of one; trained before: 30 epochs on the 90,",
        "from the weights of a network that learnt printed letters.",
        "",
        *markdown_table(["condition", "measure", "seeds", *VARIANTS, "gain"], rows),
        "",
        "Energy distance of a class to the nearest real class of those that train, mean over classes and seeds; 0 is",
        "the same place.",
        "",
        *markdown_table(["condition", "of a real class", "of a novel class"], distances),
        "",
        made_with(lines),
    ]
    return "\n".join(text) + "\n"


def _mean(lines: list[dict[str, Any]], distance: str) -> str:
    return f"{fmean(line['generated']['energy_distance'][distance] for line in lines):.2f}"


if __name__ == "__main__":
    main()
