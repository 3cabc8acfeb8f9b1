"""What int8 takes from a student whose channels differ in scale, and what a quantisation-aware finish gives back.

    python -m benchmarks.quantization.finish --seeds 0 1 2

On rendered glyphs, with the networks of the quickstart. Students this small, trained from random weights, come
through post-training int8 nearly unharmed. Networks trained long on large sets often do not: their channels differ in
scale, and one scale for a whole tensor leaves the small ones few levels (Nagel et al., "Data-Free Quantization Through
Weight Equalization and Bias Correction", ICCV 2019, arXiv:1906.04721). So the student is given such channels: what a
BatchNorm multiplies a channel by, at most ``UNEVEN`` times up or down, the convolution behind the ReLU divides by. In
float that changes nothing.

One teacher; for each seed a student, quantised after training, finished with fake quantisation, and quantised again.
All are measured on the test classes. What is chosen is chosen on the validation classes of seed 0, which are training
classes held out: ``UNEVEN``, and the finish (tried: 4 epochs at a tenth of the student's rate, 8 at a fifth and at half
of it, which is the default); there each finish chooses its epoch too. A finished seed is a line in the results and is
not run again; an interrupted one goes on when the command is repeated with the same --work.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from benchmarks.quantization.static_int8 import embed_with, to_static_int8
from benchmarks.results import Results, made_with, markdown_table, spread
from compressor import distill
from compressor.cli import quieten
from compressor.quantization_aware import finish_quantized
from zoo import DataSplits, ImageSet, load_data, load_model, measure, save_model, train
from zoo.models import facts_of, preprocessing_of
from zoo.preprocessing import Preprocess
from zoo.retrieval import drop_interval

HERE = Path(__file__).resolve().parent
RESULTS = Results(HERE / "finish.jsonl")
TABLE = HERE / "finish.md"

DATA, VALIDATION = "glyphs", 0.15
SMALL: dict[str, Any] = {"image_size": 32, "crop_pct": 1.0, "augment": "drawing", "min_crop": 0.7}
TEACHER = SMALL | {"arch": "resnet10t", "dim": 512, "epochs": 10, "batch_size": 64, "lr": 1e-3, "proxy_lr_factor": 30}
STUDENT = SMALL | {"arch": "test_resnet", "dim": 64, "epochs": 13, "batch_size": 64, "lr": 5e-3}
UNEVEN = 8.0
SCHEME: dict[str, Any] = {"scheme": "u8s8", "per_channel": False}
FINISH: dict[str, Any] = {"epochs": 8}
CALIBRATION_IMAGES = 256


def main() -> None:
    """Run the seeds that are not in the results yet, then write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--work", type=Path, default=Path("runs/finish"), help="folder for the runs")
    options = parser.parse_args()
    quieten()
    data = load_data(DATA, validation=VALIDATION)
    for seed in options.seeds:
        if not RESULTS.lines(seed=seed):
            RESULTS.add(run_seed(data, seed, options.work))
            TABLE.write_text(table(RESULTS.lines()), encoding="utf-8")
    print(table(RESULTS.lines()))


def run_seed(data: DataSplits, seed: int, work: Path) -> dict[str, Any]:
    """Distil, quantise, finish and quantise again; return the line of results."""
    shared = {"data": data, "validation": VALIDATION}
    often = {"validate_every": TEACHER["epochs"], "precision": "auto"}
    teacher = train(out=work / "teacher", **shared, **often, **TEACHER)
    often = {"validate_every": STUDENT["epochs"], "teacher_precision": "auto"}
    even = distill(teacher, out=work / f"student-{seed}", seed=seed, **shared, **often, **STUDENT)
    student = work / f"uneven-{seed}"
    save_model(unevenly_scaled(load_model(even), seed), student)
    start = time.monotonic()
    out = work / f"finished-{seed}"
    finished = finish_quantized(student, teacher, data, out, seed=seed, **SCHEME, **FINISH)
    seconds = round(time.monotonic() - start)
    line: dict[str, Any] = {
        "seed": seed,
        "student": STUDENT,
        "uneven": UNEVEN,
        **SCHEME,
        "finish": FINISH,
        "finish_seconds": seconds,
    }
    parts = {"validation": data.validation, "test": data.test}
    student_recall: dict[str, np.ndarray] = {}
    for name, folder in (("student", student), ("finished", finished)):
        model = load_model(folder)
        every = np.linspace(0, len(data.train) - 1, CALIBRATION_IMAGES).astype(int)
        calibration = inputs(model, data.train.subset(every))
        file = to_static_int8(model, calibration, work / f"{name}-{seed}.onnx", **SCHEME)
        for part, images in parts.items():
            pixels = inputs(model, images)
            with torch.inference_mode():
                exact = np.concatenate([model(batch).numpy() for batch in torch.from_numpy(pixels).split(64)])
            for precision, embeddings in (("fp32", exact), ("int8", embed_with(file, pixels))):
                result = measure(embeddings, images, facts_of(model).metric)
                reference = student_recall.setdefault(part, result.recall[1])
                line[f"{name} {precision} {part}"] = {
                    "recall_at_1": result.recall_at(1),
                    "map_at_r": float(result.average_precision.mean()),
                    "drop": float(reference.mean() - result.recall_at(1)),
                    "drop_interval": list(drop_interval(result.recall[1], reference, 2000)),
                }
    return line


def unevenly_scaled(model: nn.Module, seed: int) -> nn.Module:
    """Scale the channels between the convolutions of a ResNet's stem and blocks, so that it computes the same."""
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


def inputs(model: nn.Module, images: ImageSet) -> np.ndarray:
    """Return images as a model's input, float32 ``(N, 3, H, W)``, through the preprocessing that ships."""
    prepare = Preprocess(preprocessing_of(model))
    return np.concatenate([prepare(torch.from_numpy(images.pixels(i)[None])).numpy() for i in range(len(images))])


def table(lines: list[dict[str, Any]]) -> str:
    """Return the results as Markdown: one row for student and finished student in float and int8, and one a seed."""
    stages = [f"{name} {precision}" for name in ("student", "finished") for precision in ("fp32", "int8")]

    def cells(found: list[dict[str, Any]]) -> list[str]:
        row = []
        for stage in stages:
            row.append(spread([100 * line[f"{stage} test"]["recall_at_1"] for line in found]))
            if stage != "student fp32":
                row.append(spread([100 * line[f"{stage} test"]["drop"] for line in found]))
        return row

    rows = [[str(line["seed"]), *cells([line])] for line in lines]
    if len(lines) > 1:
        rows.append(["mean", *cells(lines)])
    first, student = lines[0], lines[0]["student"]
    intervals = [
        f"seed {line['seed']}: "
        + ", ".join(
            f"{stage} {100 * low:.2f} to {100 * high:.2f}"
            for stage in ("student int8", "finished int8")
            for low, high in [line[f"{stage} test"]["drop_interval"]]
        )
        for line in lines
    ]
    weights = "per channel" if first["per_channel"] else "per tensor"
    text = [
        "# A quantisation-aware finish",
        "",
        f"{student['arch']} at {student['image_size']} pixels, {student['dim']} dimensions, distilled on rendered "
        f"glyphs for {student['epochs']} epochs, its channels then scaled by up to {first['uneven']:g} times, which "
        f"changes nothing in float; finished for {first['finish']['epochs']} epochs. Int8 is {first['scheme']}, "
        f"weights {weights}, min-max ranges of {CALIBRATION_IMAGES} training images.",
        "Recall@1 on the test classes in percent; drop: points below the same seed's student in fp32.",
        "",
        *markdown_table(
            ["seed", "student fp32", "int8", "drop", "finished fp32", "drop", "finished int8", "drop"],
            rows,
        ),
        "",
        f"95 % intervals of the drop, paired bootstrap over queries: {'; '.join(intervals)}.",
        "",
        f"The finish takes {spread([line['finish_seconds'] / 60 for line in lines], 1)} minutes. {made_with(lines)}",
    ]
    return "\n".join(text) + "\n"


if __name__ == "__main__":
    main()
