"""The defaults for pretrained weights, each changed on its own: which of them preserve what a network has learned?

    python -m benchmarks.pretrained.options grocery --data grocery:PATH --weights runs/weights --seeds 0 1 2

Trains an EfficientNet-Lite0 from ImageNet weights at 128 pixels with the defaults, and with one option changed at a
time. Everything is measured on the validation classes, which are training classes held out; test classes are not used.
Averaging with the initial weights is off except in its own row, so that a row shows the effect of training. A finished
run is a line in options.jsonl beside this file and is not run again while its settings stay the same. To resume an
interrupted one, repeat the command with the same --work.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from benchmarks.pretrained.run import SPLITS
from benchmarks.results import Results, current, digest_of, made_with, markdown_table, spread
from compressor.cli.manners import Manners, heard
from zoo import train

HERE = Path(__file__).resolve().parent
RESULTS = Results(HERE / "options.jsonl")
TABLE = HERE / "options.md"
ARCH = "tf_efficientnet_lite0"
COMMON = {"arch": ARCH, "dim": 512, "image_size": 128, "epochs": 5, "batch_size": 60, "average_start": False}
CHANGED: dict[str, dict[str, Any]] = {
    "the defaults": {},
    "averaged with the initial weights": {"average_start": True},
    "random head": {"fit_head": False},
    "head alone in the first epoch": {"warmup_epochs": 1},
    "BatchNorm statistics of the batches": {"freeze_batchnorm": False},
    "lower rates for earlier layers, 0.7 a stage": {"layer_decay": 0.7},
    "pulled to the initial weights, 0.1": {"towards_start": 0.1},
    "crops from 0.2 of the area": {"min_crop": 0.2},
    "crops from 0.7 of the area": {"min_crop": 0.7},
    "lr 3e-5": {"lr": 3e-5},
    "lr 3e-4": {"lr": 3e-4},
    "backbone frozen": {"freeze": "backbone"},
}


@heard(Manners())
def main() -> None:
    """Make the runs that are not in the results yet, then write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("set", choices=SPLITS)
    parser.add_argument("--data", required=True, help="grocery:PATH or folder:PATH of the set")
    parser.add_argument("--weights", type=Path, required=True, help=f"folder with {ARCH}.safetensors")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--work", type=Path, default=Path("runs/pretrained-options"), help="folder for the runs")
    options = parser.parse_args()
    for seed in options.seeds:
        for changed in CHANGED.values():
            settings = settings_of(options.set, changed)
            known = {"set": options.set, "seed": seed, "settings": digest_of(settings)}
            if RESULTS.lines(**known):
                continue
            out = options.work / options.set / f"{known['settings']}-{seed}"
            weights = options.weights / f"{ARCH}.safetensors"
            train(options.data, out, pretrained=weights, split=SPLITS[options.set], seed=seed, **COMMON | changed)
            RESULTS.add(known | {"run": settings} | found_in(out))
            TABLE.write_text(table(), encoding="utf-8")
    print(table())


def settings_of(name: str, changed: dict[str, Any]) -> dict[str, Any]:
    """Return all settings that a run depends on, except places and seed."""
    return {"set": name, "split": SPLITS[name]} | COMMON | changed


def found_in(folder: Path) -> dict[str, Any]:
    """Return a model folder's measures on the validation classes: before training, after each epoch, and kept."""
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    kept = config["embedding_compressor"]["measured"]["validation"]
    history = json.loads((folder / "validation.json").read_text(encoding="utf-8"))
    return {"kept": {name: kept[name] for name in ("epoch", "recall_at_1", "map_at_r")}, "history": history}


def table() -> str:
    """Return the results as Markdown: one table per set, means over seeds."""
    text = ["# Options of training from pretrained weights", ""]
    for name in SPLITS:
        rows, shown = [], []
        for label, changed in CHANGED.items():
            lines = current(RESULTS.lines(set=name), [settings_of(name, changed)])
            if lines:
                rows.append([label, str(len(lines)), *cells_of(lines)])
                shown += lines
        if not rows:
            continue
        text += [
            f"## {name}, {COMMON['image_size']} pixels",
            "",
            f"{ARCH}, {COMMON['epochs']} epochs, validation classes, %: before training, after the last, and what "
            "is kept, which is the network before training where no epoch is better by MAP@R.",
            "",
            *markdown_table(
                ["", "seeds", "Recall@1 before", "last", "kept", "MAP@R before", "last", "kept", "epoch kept"], rows
            ),
            "",
            made_with(shown),
            "",
        ]
    return "\n".join(text)


def cells_of(lines: list[dict[str, Any]]) -> list[str]:
    """Return the cells of a row, means over seeds."""
    cells = []
    for measure in ("recall_at_1", "map_at_r"):
        before = [epoch[measure] for line in lines for epoch in line["history"][:1] if epoch["epoch"] == 0]
        last = [line["history"][-1][measure] for line in lines]
        kept = [line["kept"][measure] for line in lines]
        cells += [spread([100 * value for value in values], 1) if values else "" for values in (before, last, kept)]
    return [*cells, ", ".join(str(line["kept"]["epoch"]) for line in lines)]


if __name__ == "__main__":
    main()
