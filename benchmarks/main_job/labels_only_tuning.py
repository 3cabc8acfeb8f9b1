"""Tune the learning rate of training on labels alone for the main job: the rate of distillation may not suit it.

Each configuration gets six runs with seed 0, two factors of the proxies' rate with each of three rates, and is judged
by MAP@R on validation classes, which are training classes held out. A finished run is a line in the results and is not
run again while its settings stay the same.
"""

from __future__ import annotations

from itertools import product
from pathlib import Path
from typing import Any

from benchmarks.labels_only import as_labels_only
from benchmarks.papers.protocol import HELD_OUT, validated, validated_map_at_r
from benchmarks.results import GridSearch, Options, Results, Settings, digest_of
from zoo import train

TUNING = Results(Path(__file__).resolve().parent / "labels-only-tuning.jsonl")
RATES = {"quickstart": (5e-3, 1e-2, 2e-2), "omniglot": (3e-4, 1e-3, 3e-3), "grocery": (5e-4, 2e-3, 5e-3)}
FACTORS = (10.0, 30.0)
TUNED_WITH: dict[str, Options] = {
    "omniglot": {"split": f"list:configs/splits/{HELD_OUT}.yaml", "epochs": 20},
    "grocery": {"validation": 0.5, "epochs": 50},
}
"""The split or fraction held out if a configuration trains on all its classes, and the epochs of these runs."""


def tune(config: str, settings: Settings, data: str, work: Path) -> None:
    """Run the options that were not tried yet.

    Args:
        config: name of the configuration.
        settings: its content.
        data: the data.
        work: folder for the runs.
    """

    def judged(options: Settings) -> dict[str, Any]:
        return {"validation": validated(train(data, work / config / f"labels-only-{digest_of(options)}", **options))}

    search(config, settings).run(judged)


def search(config: str, settings: Settings) -> GridSearch:
    """Return the grid search that tunes a configuration."""
    shared = as_labels_only(settings["student"], settings["teacher"]) | data_options(settings)
    shared |= TUNED_WITH.get(config, {})
    shared["validate_every"] = shared["epochs"]

    def settings_of(tried: Options) -> Settings:
        return shared | tried

    grid = [{"lr": lr, "proxy_lr_factor": factor} for lr, factor in product(RATES[config], FACTORS)]
    return GridSearch(TUNING, grid, settings_of, validated_map_at_r, config=config)


def data_options(settings: Settings) -> Options:
    """Return a configuration's data options for ``train`` and ``validate``."""
    return {name: settings[name] for name in ("split", "validation", "max_unreadable") if name in settings}
