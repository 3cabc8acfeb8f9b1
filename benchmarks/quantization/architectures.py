"""Gains and losses of int8 by architecture: size and latency at 224 pixels, and recall.

    python -m benchmarks.quantization.architectures times
    python -m benchmarks.quantization.architectures times-without-vnni
    python -m benchmarks.quantization.architectures recall
    python -m benchmarks.quantization.architectures quantizing

Times need no training, because weights do not affect them. They are for one image of 224 pixels without preprocessing,
all precisions in turn. ``times`` is for processors with VNNI, ``times-without-vnni`` for those without, where 8-bit
weights take longer than 7-bit ones. For recall, each network is distilled from the quickstart's teacher on rendered
letters at 32 or 64 pixels, like users' students, exported with ``--precision fp32,fp16,auto`` for processors with VNNI,
and measured on scripts never seen in training; int8 embeddings are the same on any processor. ``quantizing`` is the
command ``compressor export --precision int8`` with 256 calibration images of 224 pixels: its time and peak memory. A
finished architecture is a line in the results and is not run again. The gains in ``zoo.models.int8_speed``, by which
``distill`` warns, are copied from the table.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.main_job.run import settings_of
from benchmarks.results import Results, in_points, made_with, markdown_table
from compressor import distill
from compressor.cli.manners import Manners, heard
from export import Embedder, bench, export_model
from export.shipping import files_of
from zoo import RefusedError, create_model, load_data, measure, save_model, train
from zoo.models.int8_speed import LEAST_GAIN
from zoo.retrieval.bootstrap import drop_interval
from zoo.versions import has_vnni

HERE = Path(__file__).resolve().parent
TIMES = Results(HERE / "architecture-times.jsonl")
WITHOUT_VNNI = Results(HERE / "architecture-times-without-vnni.jsonl")
RECALL = Results(HERE / "architecture-recall.jsonl")
QUANTIZING = Results(HERE / "architecture-quantizing.jsonl")
TABLE = HERE / "architectures.md"

ARCHITECTURES = (
    "mobilenetv4_conv_small",
    "resnet18",
    "mobilenetv3_small_100",
    "efficientnet_lite0",
    "repvgg_a0",
    "convnext_atto",
    "vit_tiny_patch16_224",
    "fastvit_t8",
    "resnet50",
)
_WITH_PEAK = """\
import sys
from compressor.cli.command import main
from export.benchmark.peak_memory import own_peak
code = main(sys.argv[1:])
print(own_peak())
sys.exit(code)
"""
PRECISIONS = ("fp32", "fp16", "int8")
BITS = {"int8": "x86-vnni", "int8, 7-bit weights": "x86"}
"""Files timed on a processor without VNNI, and the target of each."""
DIM = 64
QUICKSTART = "quickstart"
STUDENT: dict[str, Any] = {"image_size": 64, "epochs": 30, "lr": 5e-3, "validate_every": 30}
"""Options that differ from the quickstart's student."""


@heard(Manners())
def main() -> None:
    """Run the architectures that are not in the results yet, then write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=list(PARTS))
    parser.add_argument("--architectures", nargs="+", default=list(ARCHITECTURES))
    parser.add_argument("--compile", action="store_true", help="torch.compile for students: same result, sooner")
    parser.add_argument("--work", type=Path, default=Path("runs/architectures"), help="folder for the runs")
    options = parser.parse_args()
    results, run = PARTS[options.part]
    if run is recall_of and options.compile:
        run = partial(recall_of, compile=True)
    for arch in options.architectures:
        if not results.lines(arch=arch):
            results.add({"arch": arch, **run(arch, options.work / options.part / arch)})
        write_table()
    print(TABLE.read_text(encoding="utf-8"))


def recall_of(arch: str, work: Path, compile: bool = False) -> dict[str, Any]:
    """Distil a network, export it, and return the recall of its files on scripts never seen in training."""
    settings = settings_of(QUICKSTART)
    data, validation = settings["data"], settings["validation"]
    own: dict[str, Any] = {"lr": 1e-3} if arch.startswith(("vit", "convnext")) else {}
    if arch.startswith(("resnet", "repvgg")):  # they would take hours, and learn enough at half the size in less time
        own |= {"image_size": 32, "epochs": 10, "validate_every": 10}
    teacher = train(data, work.parent / "teacher", validation=validation, **settings["teacher"])
    student = settings["student"] | STUDENT | own | {"arch": arch, "dim": DIM, "compile": compile}
    folder = distill(teacher, data=data, out=work / "model", validation=validation, **student)
    start = time.monotonic()
    asked = "fp32,fp16,auto"
    files = files_of(folder, work / "export", asked)
    try:
        options: dict[str, Any] = {"target": "x86-vnni", "latency_runs": 0}
        export_model(folder, work / "export", precision=asked, data=data, validation=validation, **options)
    except RefusedError:
        del files["int8"]
    seconds = time.monotonic() - start
    images = load_data(data).test.checked()
    pixels = [images.pixels(i) for i in range(len(images))]
    hits = {precision: measure(Embedder(file)(pixels), images).recall[1] for precision, file in files.items()}
    drops = {
        precision: {
            "drop": float(hits["fp32"].mean() - found.mean()),
            "interval": list(drop_interval(found, hits["fp32"], 2000)),
        }
        for precision, found in hits.items()
        if precision != "fp32"
    }
    scheme = Embedder(files["int8"]).metadata["quantization"] if "int8" in files else None
    return {"recall_at_1": float(hits["fp32"].mean()), "drops": drops, "scheme": scheme, "export_seconds": seconds}


def times_of(arch: str, work: Path) -> dict[str, Any]:
    """Return sizes and latencies of an architecture with random weights at 224 pixels."""
    if not has_vnni():
        raise SystemExit("This processor has no VNNI; run the part 'times-without-vnni' here.")
    model = create_model(arch, DIM, image_size=224).eval()
    start = time.monotonic()
    files = export_model(
        model, work, precision="fp32,fp16,int8", input="tensor", data="glyphs", max_drop=None, latency_runs=0
    ).files
    seconds = time.monotonic() - start
    return {
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "bytes": {precision: file.stat().st_size for precision, file in files.items()},
        "ms": milliseconds(files, threads=(1, 2)),
        "export_seconds_at_224": seconds,
    }


def times_without_vnni_of(arch: str, work: Path) -> dict[str, Any]:
    """Return the latencies of int8 with 8-bit and 7-bit weights on a processor without VNNI."""
    if has_vnni():
        raise SystemExit("This processor has VNNI; run the part 'times' here.")
    model = create_model(arch, DIM, image_size=224).eval()
    shared: dict[str, Any] = {"input": "tensor", "data": "glyphs", "max_drop": None, "latency_runs": 0}
    shared |= {"validation": 0.03, "calibration_images": 8}  # few, since recall and ranges do not affect latency
    files = {"fp32": export_model(model, work / "fp32.onnx", precision="fp32", input="tensor").files["fp32"]}
    for name, target in BITS.items():
        path = work / f"{target}.onnx"
        files[name] = export_model(model, path, precision="int8", target=target, **shared).files["int8"]
    return {"ms": milliseconds(files, threads=(1,))}


def milliseconds(files: dict[str, Path], threads: Sequence[int]) -> dict[str, dict[str, float]]:
    """Return the median latency of each file, timed in turn, by number of threads."""
    content = bench([str(file) for file in files.values()], batch_sizes=(1,), threads=threads, runs=40)
    times: dict[str, dict[str, float]] = {}
    for row in content["rows"]:
        name = next(name for name, file in files.items() if str(file) == row["file"])
        times.setdefault(str(row["threads"]), {})[name] = row["latency_ms"]["median"]
    return times


def quantizing_of(arch: str, work: Path) -> dict[str, Any]:
    """Return time and peak memory of the command that makes an int8 file from a model folder."""
    folder = work / "model"
    save_model(create_model(arch, DIM, image_size=224), folder)
    options = ["--precision", "int8", "--data", "glyphs", "--max_drop", "null", "--latency_runs", "0"]
    command = [sys.executable, "-c", _WITH_PEAK, "export", str(folder), str(work / "int8.onnx"), *options]
    start = time.monotonic()
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return {"seconds": time.monotonic() - start, "peak_memory_bytes": int(done.stdout.splitlines()[-1])}


PARTS = {
    "times": (TIMES, times_of),
    "times-without-vnni": (WITHOUT_VNNI, times_without_vnni_of),
    "recall": (RECALL, recall_of),
    "quantizing": (QUANTIZING, quantizing_of),
}


def write_table() -> None:
    """Write the results as a page of Markdown beside this file."""
    text = table(TIMES.lines(), RECALL.lines(), QUANTIZING.lines()) + table_without_vnni(WITHOUT_VNNI.lines())
    TABLE.write_text(text, encoding="utf-8")


def table(times: list[dict[str, Any]], recall: list[dict[str, Any]], quantizing: list[dict[str, Any]]) -> str:
    """Return the results as Markdown, one row per architecture, the fastest in int8 first."""
    kept = {line["arch"]: line for line in recall}
    costs = {line["arch"]: line for line in quantizing}
    rows = []
    for line in sorted(times, key=lambda line: line["ms"]["1"]["int8"]):
        one, two = line["ms"]["1"], line["ms"]["2"]
        row = [
            line["arch"],
            " / ".join(f"{line['bytes'][precision] / 1e6:.1f}" for precision in PRECISIONS),
            " / ".join(f"{one[precision]:.1f}" for precision in PRECISIONS),
            " / ".join(f"{two[precision]:.1f}" for precision in PRECISIONS),
            f"{one['fp32'] / one['int8']:.2f}×",
        ]
        if recall:
            measured = kept.get(line["arch"])
            row += ["", "", "", ""] if measured is None else [*_kept(measured), _ready(measured, one)]
        if quantizing:
            cost = costs.get(line["arch"])
            row.append("" if cost is None else f"{cost['seconds']:.0f} s, {cost['peak_memory_bytes'] / 1e9:.1f} GB")
        rows.append(row)
    header = ["architecture", "MB fp32 / fp16 / int8", "ms, 1 thread", "ms, 2 threads", "int8 faster, 1 thread"]
    text = ["# int8 by architecture", ""]
    text += ["Times: one image of 224 pixels, median, preprocessing left to the caller, on a processor with VNNI."]
    if recall:
        header += ["Recall@1 fp32", "drop fp16", "drop int8", "int8-ready"]
        text += [
            "Recall@1 in percent and its drop in points with the 95 % interval: on rendered letters of scripts never",
            f"seen, {DIM} dimensions, distilled at {STUDENT['image_size']} pixels for {STUDENT['epochs']} epochs",
            "(ResNet and RepVGG 32 and 10) from `make demo`'s teacher, one seed; int8 by `--precision auto --target",
            "x86-vnni --latency_runs 0`, which ships what loses least on validation classes, and nothing that loses",
            "more than half a point there.",
            f"int8-ready: not refused, and at least {LEAST_GAIN:g} times as fast as fp32 on one thread. Where blocks",
            "have to stay in float, the file that ships is larger and slower than sizes and times of all in int8.",
        ]
    if quantizing:
        header += ["quantizing"]
        text += ["Quantizing: the whole command, with 256 images of 224 pixels, and its peak memory."]
    text += ["", *markdown_table(header, rows), ""]
    if times:
        text.append(made_with([*times, *recall, *quantizing]))
    return "\n".join(text) + "\n"


def table_without_vnni(lines: list[dict[str, Any]]) -> str:
    """Return the latencies without VNNI as Markdown, one row per architecture, the fastest in fp32 first."""
    if not lines:
        return ""
    rows = []
    for line in sorted(lines, key=lambda line: line["ms"]["1"]["fp32"]):
        ms = line["ms"]["1"]
        faster = [f"{ms['fp32'] / ms[name]:.2f}×" for name in BITS]
        rows.append([line["arch"], " / ".join(f"{ms[name]:.1f}" for name in ("fp32", *BITS)), *faster])
    header = ["architecture", f"ms fp32 / {' / '.join(BITS)}", *(f"{name}, faster" for name in BITS)]
    text = [
        "",
        "## Without VNNI",
        "",
        "The same on one thread of a processor without VNNI, where sums of 8-bit products are exact but slow; see",
        "[int8](../../docs/how-to/int8.md#processors-without-vnni).",
        "",
        *markdown_table(header, rows),
        "",
        made_with(lines),
    ]
    return "\n".join(text) + "\n"


def _ready(measured: dict[str, Any], ms: dict[str, float]) -> str:
    if "int8" not in measured["drops"] or ms["fp32"] < LEAST_GAIN * ms["int8"]:
        return "no"
    blocks = len(json.loads(measured["scheme"])["float_blocks"])
    return f"but for {blocks} blocks" if blocks else "yes"


def _kept(line: dict[str, Any]) -> list[str]:
    int8 = line["drops"].get("int8")
    refused = "refused" if int8 is None else in_points(int8["drop"], int8["interval"])
    fp16 = line["drops"]["fp16"]
    return [f"{100 * line['recall_at_1']:.1f}", in_points(fp16["drop"], fp16["interval"]), refused]


if __name__ == "__main__":
    main()
