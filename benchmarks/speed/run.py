"""Speed of losses, evaluation and start-up, compared with other ways to do the same, measured in turns.

    python -m benchmarks.speed.run losses
    python -m benchmarks.speed.run evaluation --rival open-metric-learning=PYTHON
    python -m benchmarks.speed.run startup
    python -m benchmarks.speed.run precision --photos FOLDER --teacher tf_efficientnet_lite0=FILE --teacher FOLDER

Ways of evaluation take turns, each in its own process; medians and ratios are stored, because machines are noisy.
``--rival`` names the interpreter of an environment with a library that this one lacks. Running a part again replaces
its rows in results.json beside this file, from which results.md is written.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import torch

from benchmarks.results import markdown_table
from benchmarks.speed.evaluation import WAYS
from benchmarks.speed.losses import measure_losses
from benchmarks.speed.precision import measure_precision
from compressor.cli.verbs import VERBS
from zoo.versions import machine, versions

HERE = Path(__file__).resolve().parent
RESULTS, TABLE = HERE / "results.json", HERE / "results.md"
SIZES = ((60_000, 512),)
COMMANDS = {
    "import zoo": ("-c", "import zoo"),
    "import export.runtime": ("-c", "import export.runtime"),
    "import zoo.models.folder (torch and timm)": ("-c", "import zoo.models.folder"),
    "compressor --help": ("-m", "compressor", "--help"),
    **{f"compressor {verb} --help": ("-m", "compressor", *verb.split(), "--help") for verb in VERBS},
}


def main() -> None:
    """Run a part, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=["losses", "evaluation", "startup", "precision"])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--rival", action="append", default=[], help="NAME=PYTHON, for evaluation")
    parser.add_argument("--photos", help="for precision")
    parser.add_argument("--images", type=int, default=2000, help="how many of the photographs, for precision")
    parser.add_argument("--teacher", action="append", default=[], help="ARCH=FILE or a model folder, for precision")
    options = parser.parse_args()
    if options.part == "losses":
        rows = measure_losses(options.repeats)
    elif options.part == "evaluation":
        rows = measure_evaluation(options.repeats, dict(each.split("=", 1) for each in options.rival))
    elif options.part == "precision":
        rows = measure_precision(options.teacher, options.photos, options.images)
    else:
        rows = measure_startup(options.repeats)
    results = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.is_file() else {}
    made = {"machine": machine(), "versions": versions(), "threads": torch.get_num_threads()}
    results[options.part] = {"repeats": options.repeats, **made, "rows": rows}
    RESULTS.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    TABLE.write_text(table(results), encoding="utf-8")
    print(table(results))


def measure_evaluation(repeats: int, pythons: dict[str, str]) -> list[dict[str, Any]]:
    """Return a row for each size and each way that can run here."""
    rows = []
    for count, dim in SIZES:
        found: dict[str, dict[int, dict[str, Any]]] = {}  # by way and repeat; a repeat may fail
        for repeat in range(repeats):
            for way in WAYS:
                command = [pythons.get(way, sys.executable), str(HERE / "evaluation.py"), way, str(count), str(dim)]
                run = subprocess.run(command, capture_output=True, text=True, cwd=HERE.parents[1], check=False)
                if run.returncode == 0:
                    found.setdefault(way, {})[repeat] = json.loads(run.stdout.splitlines()[-1])
                    print(found[way][repeat], file=sys.stderr)
                else:
                    print(f"{way}: left out: {run.stderr.strip().splitlines()[-1]}", file=sys.stderr)
        for way, runs in found.items():
            rows.append(
                {
                    "way": way,
                    "size": f"{count:,} x {dim}",
                    "seconds": median(run["seconds"] for run in runs.values()),
                    "mb": median(run["mb"] for run in runs.values()),
                    "ratio": _ratio(runs, found.get("ours", {})),
                }
            )
    return rows


def _ratio(runs: dict[int, dict[str, Any]], own: dict[int, dict[str, Any]]) -> float | None:
    """Return the median ratio of seconds in the repeats that both finished; None if there are none."""
    ratios = [run["seconds"] / own[repeat]["seconds"] for repeat, run in runs.items() if repeat in own]
    return round(median(ratios), 2) if ratios else None


def measure_startup(repeats: int) -> list[dict[str, Any]]:
    """Return a row for each command: the least and the median of its processor seconds, which are of this process's
    children.
    """
    taken: dict[str, list[float]] = {name: [] for name in COMMANDS}
    for _ in range(repeats):
        for name, command in COMMANDS.items():
            before = os.times()
            subprocess.run([sys.executable, *command], capture_output=True, cwd=HERE.parents[1], check=True)
            after = os.times()
            spent = after.children_user + after.children_system - before.children_user - before.children_system
            taken[name].append(spent)
    return [
        {"command": name, "least": round(min(each), 2), "median": round(median(each), 2)}
        for name, each in taken.items()
    ]


def _shown(ratio: float | None) -> str:
    return "–" if ratio is None else f"{ratio:.2f}"


def table(results: dict[str, Any]) -> str:
    """Return all parts as Markdown."""
    text = ["# Speed", ""]
    for part, (title, about, header, cells) in _TABLES.items():
        if part in results:
            rows = [cells(row) for row in results[part]["rows"]]
            text += [f"## {title}", "", *([about, ""] if about else [])]
            text += [*markdown_table(header, rows), "", made_by(results[part]), ""]
    return "\n".join(text)


def _changed(found: list[float]) -> list[str]:
    return [f"{found[0]:.2f}", f"{found[2]:+.2f} ({found[3]:+.2f} to {found[4]:+.2f})"]


# By part: title, what it is about, columns, and the cells of a row.
_TABLES: dict[str, tuple[str, str, list[str], Callable[[dict[str, Any]], list[str]]]] = {
    "losses": (
        "Losses, forward and backward",
        "`plain` is the relaxed contrastive loss with float32 matrix products, which lose near pairs.",
        ["loss", "batch x dimensions", "ms", "plain, ms", "ratio"],
        lambda row: [row["loss"], row["shape"], f"{row['ms']:.1f}", f"{row['plain_ms']:.1f}", f"{row['ratio']:.2f}"],
    ),
    "evaluation": (
        "Evaluation",
        "Recall@K, R-Precision and MAP@R, every image a query against all others.",
        ["", "vectors", "seconds", "times ours", "MB beyond the vectors"],
        lambda row: [row["way"], row["size"], f"{row['seconds']:.1f}", _shown(row["ratio"]), f"{row['mb']:,.0f}"],
    ),
    "startup": (
        "Start-up",
        "Processor seconds, which other work on the machine lengthens less than wall-clock time.",
        ["", "least, s", "median, s"],
        lambda row: [row["command"], f"{row['least']:.2f}", f"{row['median']:.2f}"],
    ),
    "precision": (
        "A teacher in bfloat16",
        "Photographs of the Grocery Store data, milliseconds of one thread for an image at 128 pixels, and what "
        "bfloat16 changes, in percent, with the 95 % interval of a paired bootstrap over queries.",
        ["teacher", "images", "float32, ms", "bfloat16, ms", "times as fast", "Recall@1", "change", "MAP@R", "change"],
        lambda row: [
            row["teacher"],
            f"{row['images']:,}",
            *(f"{row[name]:.1f}" for name in ("fp32_ms", "bf16_ms")),
            f"{row['speedup']:.1f}",
            *_changed(row["recall"]),
            *_changed(row["map_at_r"]),
        ],
    ),
}


def made_by(part: dict[str, Any]) -> str:
    """Return a sentence on the machine and versions that a part was measured with."""
    return (
        f"Medians of {part['repeats']}, {part['threads']} threads. {part['machine']['processor']}, "
        f"{part['machine']['cores']} cores. Versions: {json.dumps(part['versions'])}."
    )


if __name__ == "__main__":
    main()
