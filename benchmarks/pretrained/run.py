"""Pretrained networks on photographs, seed by seed: is training never worse than the network before training?

    python -m benchmarks.pretrained.run grocery --data grocery:PATH --weights runs/weights --seeds 0 1 2 3 4
    python -m benchmarks.pretrained.run caltech --data folder:PATH --weights runs/weights --seeds 0 1 2 3 4

Each seed trains an EfficientNet-Lite2 from ImageNet weights, distils it into an EfficientNet-Lite0 of 64 dimensions
that starts from such weights too, exports that in fp32 and int8, and validates all next to their baselines: the
networks before training, and the teacher reduced by PCA. A finished seed is a line in results.jsonl beside this file
and is not run again while its settings stay the same. To resume an interrupted one, repeat the command with the same
--work. ``weights.py`` makes the files in --weights. The best epoch, the initial head and the share of averaged weights
are chosen on validation classes, which are training classes held out; test classes are measured once.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

from benchmarks.results import Results, current, digest_of, made_with, markdown_table, spread
from compressor import run
from compressor.cli.manners import Manners, heard

HERE = Path(__file__).resolve().parent
RESULTS = Results(HERE / "results.jsonl")
TABLE = HERE / "results.md"
TEACHER, STUDENT = "tf_efficientnet_lite2", "tf_efficientnet_lite0"
SPLITS = {"grocery": "even-odd", "caltech": "first-half"}
TEACHER_EPOCHS = {"grocery": 6, "caltech": 1}
STUDENTS: dict[str, dict[str, Any]] = {
    "grocery": {"epochs": 6, "batch_size": 60, "loss_options": {"sigma": "auto"}},
    "caltech": {"epochs": 4, "batch_size": 60, "loss": "similarity", "augment": "photo-mixed", "min_crop": 0.1},
}
_KEPT = ("recall", "r_precision", "map_at_r", "retention", "retention_interval", "step", "dim", "parameters", "bytes")


@heard(Manners())
def main() -> None:
    """Run the seeds that are not in the results yet, then write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("set", choices=SPLITS)
    parser.add_argument("--data", required=True, help="grocery:PATH or folder:PATH of the set")
    parser.add_argument("--weights", type=Path, required=True, help="folder of the networks' .safetensors files")
    parser.add_argument("--size", type=int, default=128, help="side of the networks' input, pixels")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--work", type=Path, default=Path("runs/pretrained"), help="folder for the runs")
    options = parser.parse_args()
    settings = settings_of(options.set, options.size)
    for seed in options.seeds:
        known = {"set": options.set, "size": options.size, "seed": seed, "settings": digest_of(settings)}
        if RESULTS.lines(**known):
            print(f"{options.set}, seed {seed}: in {RESULTS.path.name} already")
            continue
        RESULTS.add(known | run_seed(settings, options, seed))
        TABLE.write_text(table(), encoding="utf-8")
    print(table())


def settings_of(name: str, size: int) -> dict[str, Any]:
    """Return all settings of a run except places and seed."""
    return {
        "split": SPLITS[name],
        "teacher": {"arch": TEACHER, "dim": 512, "image_size": size, "epochs": TEACHER_EPOCHS[name]},
        "student": {"arch": STUDENT, "dim": 64, "image_size": size} | STUDENTS[name],
        "export": {"precision": "fp32,auto", "target": "x86-vnni"},
        "report": {"latency_runs": 20},
    }


def run_seed(settings: dict[str, Any], options: argparse.Namespace, seed: int) -> dict[str, Any]:
    """Run a seed in its own folder, and return the parts of its report to keep."""
    began = time.monotonic()
    parts = {name: dict(settings[name]) for name in ("teacher", "student", "export", "report")}
    for part in ("teacher", "student"):
        parts[part]["pretrained"] = options.weights / f"{parts[part]['arch']}.safetensors"
    out = options.work / f"{options.set}-{options.size}" / f"seed{seed}"
    report = run(options.data, out, split=settings["split"], seed=seed, **parts)
    stages = {
        stage["stage"]: {name: stage[name] for name in (*_KEPT, "baseline") if name in stage}
        for stage in report.content["stages"]
    }
    return {
        "minutes": round((time.monotonic() - began) / 60, 1),
        "queries": report.content["data"]["queries"],
        "stages": stages,
        "verdict": report.content.get("verdict"),
    }


def table() -> str:
    """Return the results as Markdown: one table per set and size, mean and standard deviation over seeds."""
    text = ["# Pretrained networks on photographs", ""]
    for name in SPLITS:
        for size in sorted({line["size"] for line in RESULTS.lines(set=name)}):
            lines = current(RESULTS.lines(set=name, size=size), [settings_of(name, size)])
            if not lines:
                continue
            seeds = ", ".join(str(line["seed"]) for line in lines)
            text += [
                f"## {name}, {size} pixels",
                "",
                f"Test classes, %, {lines[0]['queries']:,} queries; seeds {seeds}.",
            ]
            header = ["", "Recall@1", "MAP@R", "dimensions", "MB"]
            stages = list(dict.fromkeys(stage for line in lines for stage in line["stages"]))
            rows = [
                row_of(stage, [line["stages"][stage] for line in lines if stage in line["stages"]]) for stage in stages
            ]
            minutes = spread([line["minutes"] for line in lines], 0)
            text += ["", *markdown_table(header, rows), "", f"Minutes a seed: {minutes}. {made_with(lines)}", ""]
    return "\n".join(text)


def row_of(stage: str, found: list[dict[str, Any]]) -> list[str]:
    """Return the cells of a stage, over its seeds."""
    megabytes = found[0]["bytes"]
    return [
        stage,
        spread([100 * each["recall"]["1"] for each in found]),
        spread([100 * each["map_at_r"] for each in found]),
        str(found[0]["dim"]),
        "" if megabytes is None else f"{megabytes / 1e6:.1f}",
    ]


if __name__ == "__main__":
    main()
