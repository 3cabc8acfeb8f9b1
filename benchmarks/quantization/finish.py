"""Recall that int8 loses in a student whose channels differ in scale, and that quantisation-aware tuning restores.

    python -m benchmarks.quantization.finish --seeds 0 1 2

On rendered glyphs, with the networks of the quickstart. Students this small, trained from random weights, lose almost
nothing in post-training int8. Networks trained long on large sets often do: their channels differ in scale, and one
scale for a whole tensor leaves the small ones few levels (Nagel et al., "Data-Free Quantization Through Weight
Equalization and Bias Correction", ICCV 2019, arXiv:1906.04721). So the student is given such channels: a BatchNorm
multiplies each channel by a factor of at most ``UNEVEN`` up or down, and the convolution after the ReLU divides by it.
In float that changes nothing.

There is one teacher, and for each seed a student, exported as its user would: ``compressor.ship`` with
``precision="int8"``, a budget, and ``qat_epochs``, which fine-tunes the student if int8 is refused and tries again. In
addition, int8 files are made without a budget: of the original student, and of the fine-tuned one if it is refused. All
are measured on the test classes; choices are made on the validation classes, which are training classes held out. A
finished seed is a line in the results and is not run again while its settings stay the same. To resume an interrupted
one, repeat the command with the same --work.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import torch
from torch import nn

from benchmarks.results import Results, Settings, current, digest_of, in_points, made_with, markdown_table, spread
from compressor import distill, ship
from compressor.cli.manners import Manners, heard
from compressor.int8_finish.shipping import FINISHED
from export import Embedder, export_model
from zoo import DataSplits, RefusedError, load_data, load_model, measure, save_model, train
from zoo.retrieval.bootstrap import drop_interval

HERE = Path(__file__).resolve().parent
RESULTS = Results(HERE / "finish.jsonl")
TABLE = HERE / "finish.md"

DATA, VALIDATION = "glyphs", 0.15
SMALL: dict[str, Any] = {"image_size": 32, "crop_pct": 1.0, "augment": "drawing", "min_crop": 0.7}
TEACHER = SMALL | {
    "arch": "resnet10t",
    "dim": 512,
    "epochs": 10,
    "batch_size": 64,
    "lr": 1e-3,
    "proxy_lr_factor": 30,
    "images_per_class": 4,
}
STUDENT = SMALL | {"arch": "test_resnet", "dim": 64, "epochs": 13, "batch_size": 64, "lr": 5e-3}
UNEVEN = 8.0
EXPORT: dict[str, Any] = {"precision": "int8", "target": "x86-vnni", "max_drop": 0.005, "latency_runs": 0}
QAT_EPOCHS = 8
SETTINGS: Settings = {
    "teacher": TEACHER,
    "student": STUDENT,
    "uneven": UNEVEN,
    "export": EXPORT,
    "qat_epochs": QAT_EPOCHS,
}


@heard(Manners())
def main() -> None:
    """Run the seeds that are not in the results yet, then write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--work", type=Path, default=Path("runs/finish"), help="folder for the runs")
    options = parser.parse_args()
    data = load_data(DATA, validation=VALIDATION)
    for seed in options.seeds:
        known = {"seed": seed, "settings": digest_of(SETTINGS)}
        if not RESULTS.lines(**known):
            RESULTS.add(known | run_seed(data, seed, options.work / digest_of(SETTINGS)) | {"run": SETTINGS})
        TABLE.write_text(table(current(RESULTS.lines(), [SETTINGS])), encoding="utf-8")
    print(TABLE.read_text(encoding="utf-8"))


def run_seed(data: DataSplits, seed: int, work: Path) -> dict[str, Any]:
    """Distil, quantise, fine-tune and quantise again; return the measurements."""
    shared = {"data": data, "validation": VALIDATION}
    often = {"validate_every": TEACHER["epochs"], "precision": "auto"}
    teacher = train(out=work / "teacher", **shared, **often, **TEACHER)
    often = {"validate_every": STUDENT["epochs"], "teacher_precision": "auto"}
    even = distill(teacher, out=work / f"student-{seed}", seed=seed, **shared, **often, **STUDENT)
    student = work / f"uneven-{seed}"
    save_model(unevenly_scaled(load_model(even), seed), student)
    unlimited = EXPORT | {"max_drop": None, "precision": "fp32,int8"}
    files = export_model(student, work / f"unfinished-{seed}", **shared, **unlimited, seed=seed).files
    start = time.monotonic()
    out = work / f"shipped-{seed}"
    try:
        shipped = ship(student, out, teacher=teacher, qat_epochs=QAT_EPOCHS, **shared, **EXPORT, seed=seed)
        candidates = shipped.candidates
        assert candidates is not None
        if candidates["chosen"].startswith("finished"):
            files["finished int8"] = shipped.files["int8"]
    except RefusedError as error:
        candidates = error.content
        path = work / f"refused-{seed}"  # the refused file is measured too
        files["finished int8"] = export_model(out / FINISHED, path, **shared, **unlimited, seed=seed).files["int8"]
    images = data.test
    pixels = [images.pixels(i) for i in range(len(images))]
    hits = {name: measure(Embedder(file)(pixels), images).recall[1] for name, file in files.items()}
    judged = [{key: entry[key] for key in ("name", "drop", "drop_interval")} for entry in candidates["candidates"]]
    return {
        "test": {
            name: {
                "recall_at_1": float(found.mean()),
                "drop": float(hits["fp32"].mean() - found.mean()),
                "interval": list(drop_interval(found, hits["fp32"], 2000)),
            }
            for name, found in hits.items()
        },
        "validation": judged,
        "chosen": candidates["chosen"],
        "ship_seconds": round(time.monotonic() - start),
    }


def unevenly_scaled(model: nn.Module, seed: int) -> nn.Module:
    """Scale the channels between the convolutions of a ResNet's stem and blocks without changing its output."""
    stem = model.conv1
    pairs = [(stem[1], stem[3]), (stem[4], stem[6])]
    for layer in (model.layer1, model.layer2, model.layer3, model.layer4):
        for block in layer:
            pairs.append((block.bn1, block.conv2))
            if hasattr(block, "conv3"):
                pairs.append((block.bn2, block.conv3))
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for batchnorm, convolution in pairs:
            scales = UNEVEN ** (2 * torch.rand(len(batchnorm.weight), generator=generator) - 1)
            batchnorm.weight.mul_(scales)
            batchnorm.bias.mul_(scales)
            convolution.weight.div_(scales.view(1, -1, 1, 1))
    return model


def table(lines: list[dict[str, Any]]) -> str:
    """Return the results as Markdown: one row per seed, and the mean of those that were fine-tuned."""
    rows = []
    for line in sorted(lines, key=lambda line: line["seed"]):
        judged = {entry["name"]: in_points(entry["drop"], entry["drop_interval"]) for entry in line["validation"]}
        before = next(drop for name, drop in judged.items() if name.startswith("static"))
        after = next((drop for name, drop in judged.items() if name.startswith("finished, static")), None)
        test = line["test"]
        drops = {name: in_points(found["drop"], found["interval"]) for name, found in test.items()}
        row = [str(line["seed"]), before, "–" if after is None else after]
        row.append("not needed" if after is None else "shipped" if line["chosen"] else "refused")
        row += [f"{100 * test['fp32']['recall_at_1']:.2f}", drops["int8"]]
        rows.append([*row, drops.get("finished int8", "–")])
    header = ["seed", "int8, validation", "finished, validation", "the file", "fp32 Recall@1", "int8", "finished int8"]
    finished = [line for line in lines if "finished int8" in line["test"]]
    text = [
        "# A quantisation-aware finish",
        "",
        f"{STUDENT['arch']} at {STUDENT['image_size']} pixels, {STUDENT['dim']} dimensions, distilled on rendered",
        f"glyphs for {STUDENT['epochs']} epochs, its channels then scaled by up to {UNEVEN:g} times, which changes",
        f"nothing in float. Exported with `--precision {EXPORT['precision']} --target {EXPORT['target']}",
        f"--max_drop {EXPORT['max_drop']} --qat_epochs {QAT_EPOCHS}`. Drop of Recall@1 against the same seed's",
        "student in fp32, in points, with the 95 % interval: first on the validation classes, which decide, then on",
        "the test classes.",
        "",
        *markdown_table(header, rows),
        "",
    ]
    for name in ("int8", "finished int8"):
        drops = [100 * line["test"][name]["drop"] for line in finished]
        if drops:
            text += [f"Drop on the test classes, seeds that were finished, {name}: {spread(drops)} points.", ""]
    return "\n".join([*text, made_with(lines)]) + "\n"


if __name__ == "__main__":
    main()
