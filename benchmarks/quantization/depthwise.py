"""Recall that int8 loses in pretrained depthwise networks, and that equalisation and bias correction restore.

    python -m benchmarks.quantization.depthwise --lite0 LITE0.safetensors --mobilenetv2 MNV2.safetensors \
        --caltech FOLDER --grocery FOLDER --seeds 0 1 2

EfficientNet-Lite0 and MobileNetV2 with ImageNet weights, at 128 pixels, without training; their head is the PCA of
their pooled features to 64 dimensions, fitted on training images. Every scheme is judged as ``export`` judges it, for
the target x86-vnni, on validation classes and on training images not used for calibration. Then it is measured on the
test classes, which decide nothing. ``chosen`` is the scheme that ``--precision auto`` would ship.

A seed draws the images for PCA, calibration and judging. A finished run is a line in the results and is not made again
while its settings stay the same. ``--most`` uses fewer images, for a quick look.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.results import Results, Settings, current, digest_of, in_points, made_with, markdown_table, spread
from compressor.cli.manners import Manners, heard
from export.int8.budget import Budget, Drop
from export.int8.choice import choose
from export.int8.judge import Judge, Part, balanced, images_of, judging
from export.int8.schemes import MINMAX, schemes_for
from export.int8.trial import Trial
from export.onnx.tracing import Traced, trace_model
from zoo import DataSplits, create_model, load_data
from zoo.models.embedding import embed_pooled
from zoo.retrieval.projection import principal_directions

HERE = Path(__file__).resolve().parent
RESULTS = Results(HERE / "depthwise.jsonl")
TABLE = HERE / "depthwise.md"

NETWORKS = {"lite0": "tf_efficientnet_lite0", "mobilenetv2": "mobilenetv2_100"}
DATA = {"caltech": ("folder", "first-half"), "grocery": ("grocery", "even-odd")}
DIM, IMAGE_SIZE = 64, 128
TARGET, MAX_DROP = "x86-vnni", 0.005
FITTED_ON = 1000  # training images for PCA, balanced over classes, far more than DIM


@heard(Manners())
def main() -> None:
    """Make the runs that are not in the results yet, then write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, arch in NETWORKS.items():
        parser.add_argument(f"--{name}", type=Path, help=f"weights of timm's {arch}, .safetensors")
    for name in DATA:
        parser.add_argument(f"--{name}", type=Path, help="folder of the data")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--most", type=int, default=6000, help="images to judge on, and to test on")
    options = vars(parser.parse_args())
    torch.set_num_threads(1)
    for seed in options["seeds"]:
        for data in (name for name in DATA if options[name]):
            kind, split = DATA[data]
            for network in (name for name in NETWORKS if options[name]):
                known = {"network": network, "set": data, "seed": seed, "settings": digest_of(settings(options))}
                if not RESULTS.lines(**known):
                    splits = load_data(f"{kind}:{options[data]}", split)
                    found = run(NETWORKS[network], options[network], splits, seed, options["most"])
                    RESULTS.add(known | found | {"run": settings(options)})
                TABLE.write_text(table(current(RESULTS.lines(), [settings(options)]), options["most"]), "utf-8")
    print(TABLE.read_text(encoding="utf-8"))


def settings(options: dict[str, Any]) -> Settings:
    """Return all settings that a run depends on, except places and seed."""
    numbers = {"dim": DIM, "image_size": IMAGE_SIZE, "target": TARGET, "max_drop": MAX_DROP, "fitted_on": FITTED_ON}
    return numbers | {"most": options["most"]}


def as_it_comes(arch: str, weights: Path, splits: DataSplits, seed: int) -> Traced:
    """Return a pretrained network whose head is the PCA of its pooled features on training images."""
    model = create_model(arch, DIM, weights, image_size=IMAGE_SIZE).eval()
    pooled = embed_pooled(model, splits.train.subset(np.sort(balanced(splits.train, FITTED_ON, seed))))
    head: Any = model.get_classifier()  # type: ignore[operator]
    with torch.no_grad():
        head.weight.copy_(torch.from_numpy(principal_directions(pooled, DIM)))
        head.bias.zero_()
    return trace_model(model)


def run(arch: str, weights: Path, splits: DataSplits, seed: int, most: int) -> dict[str, Any]:
    """Judge every scheme, choose one, and measure all on the test classes."""
    start = time.monotonic()
    traced = as_it_comes(arch, weights, splits, seed)
    calibration, parts = images_of(splits, 256, most, 10, seed)
    test = splits.test.subset(np.sort(judging(splits.test, most, seed))).checked(10)
    schemes = schemes_for(traced.graphs.network, TARGET)
    plain = [scheme for scheme in schemes if scheme.ranges == MINMAX and not scheme.additions]
    variants = [
        replace(scheme, equalized=equalized, bias_corrected=corrected)
        for scheme in plain
        for equalized in (False, True)
        for corrected in (False, True)
    ]
    content: dict[str, Any] = {"candidates": []}
    with tempfile.TemporaryDirectory() as folder:
        judged, tested = Path(folder) / "judged", Path(folder) / "test"
        judged.mkdir()
        tested.mkdir()
        trial = Trial(Judge(traced, parts, judged, seed), calibration, content, Budget(MAX_DROP), lambda _: None)
        trial.add("fp32", traced.graphs.network, None)
        for scheme in variants:
            trial.add_int8(scheme)
        choose(trial, TARGET)
        judge = Judge(traced, [Part("test classes", test)], tested, seed)
        scores = {name: judge.measure(judge.embed(each, False))[0] for name, each in trial.networks.items()}
    drops = {name: Drop.of(found, scores["fp32"], seed) for name, found in scores.items()}
    shown = ("name", "parts", "drop", "drop_interval", "standard_error", "neighbour_overlap", "inside_budget")
    return {
        "images": {part.of: len(part.images) for part in parts} | {"test classes": len(test)},
        "candidates": [
            {key: entry[key] for key in shown}
            | {"test": {"score": drops[entry["name"]].score, "drop": drops[entry["name"]].mean}}
            | {"test_interval": list(drops[entry["name"]].interval)}
            for entry in content["candidates"]
        ],
        "chosen": content.get("chosen"),
        "seconds": round(time.monotonic() - start),
    }


def table(lines: list[dict[str, Any]], most: int) -> str:
    """Return the results as Markdown: drops by network, set and scheme, means over seeds."""
    text = [
        "# Pretrained depthwise networks in int8",
        "",
        f"Networks as they come, with ImageNet's weights, {IMAGE_SIZE} pixels, head the PCA to {DIM} dimensions;",
        "nothing is trained. Drop of Recall@1 against fp32 in points: on the validation classes, on all judged images",
        "(only of schemes inside the budget of half a point on the first), on the test classes; with the 95 %",
        "interval where there is one seed. Overlap: of fp32's ten nearest images, on what was judged.",
        f"At most {most} images to judge on and {most} to test on; target {TARGET}.",
        "",
    ]
    for network, data in sorted({(line["network"], line["set"]) for line in lines}):
        group = [line for line in lines if (line["network"], line["set"]) == (network, data)]
        seeds = ", ".join(str(line["seed"]) for line in group)
        images = "; ".join(f"{count} of {of}" for of, count in group[0]["images"].items())
        fp32 = spread([100 * line["candidates"][0]["test"]["score"] for line in group])
        text += [f"## {NETWORKS[network]}, {data}", ""]
        text += [f"Seeds {seeds}; images: {images}. fp32 on the test classes: {fp32} %.", ""]
        names = [entry["name"] for entry in group[0]["candidates"][1:]]
        text += [*markdown_table(HEADER, [_row(group, name) for name in names]), ""]
        chosen = [next((e for e in line["candidates"] if e["name"] == line["chosen"]), None) for line in group]
        shipped = [entry for entry in chosen if entry is not None]
        found = f"{len(shipped)} of {len(group)} ship by these schemes"
        if shipped:
            found += f"; drop on the test classes {spread([100 * entry['test']['drop'] for entry in shipped])}"
        text += [f"{found}.", ""]
    return "\n".join([*text, made_with(lines)]) + "\n"


HEADER = ["scheme", "validation classes", "all judged", "test classes", "overlap@10, %", "inside", "chosen"]


def _row(group: list[dict[str, Any]], name: str) -> list[str]:
    entries = [next(entry for entry in line["candidates"] if entry["name"] == name) for line in group]
    complete = [entry for entry in entries if len(entry["parts"]) == len(group[0]["images"]) - 1]

    def drops(found: list[dict[str, Any]], values: list[tuple[float, list[float]]]) -> str:
        if len(found) == 1:
            return in_points(*values[0])
        return spread([100 * drop for drop, _ in values]) if found else "–"

    return [
        name,
        drops(entries, [(entry["parts"][0]["drop"], entry["parts"][0]["drop_interval"]) for entry in entries]),
        drops(complete, [(entry["drop"], entry["drop_interval"]) for entry in complete]),
        drops(entries, [(entry["test"]["drop"], entry["test_interval"]) for entry in entries]),
        spread([100 * entry["neighbour_overlap"] for entry in entries], 1),
        f"{sum(entry['inside_budget'] for entry in entries)} of {len(entries)}",
        f"{sum(line['chosen'] == name for line in group)} of {len(group)}",
    ]


if __name__ == "__main__":
    main()
