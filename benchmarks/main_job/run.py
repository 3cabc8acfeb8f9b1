"""The main job on real data, seed by seed: teacher, student, ONNX files, and the same student on labels alone.

    python -m benchmarks.main_job.run omniglot --data folder:PATH --seeds 0 1 2 --work runs/main_job

A finished seed is a line in results.jsonl beside this file, and is not run again while the settings of teacher and
student stay; an interrupted one goes on from its last whole epoch when the command is repeated with the same --work.
The table is made anew after every seed, of the lines that were made with the settings as they are.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import yaml

from benchmarks.labels_only import as_labels_only
from benchmarks.results import Results, digest_of, in_points, made_with, markdown_table, spread
from compressor import run
from compressor.cli import quieten
from export import validate
from zoo import train

HERE = Path(__file__).resolve().parent
CONFIGS = HERE.parents[1] / "configs"
RESULTS = Results(HERE / "results.jsonl")
TABLE = HERE / "results.md"
INDEXES = ("sq8", "binary")


def main() -> None:
    """Run the seeds that are not in the results yet, then write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", choices=["quickstart", "omniglot", "grocery"])
    parser.add_argument("--data", help="where the data is; none for the configuration's own")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--work", type=Path, default=Path("runs/main_job"), help="folder for the runs")
    parser.add_argument("--compile", action="store_true", help="torch.compile for the student: same result, sooner")
    options = parser.parse_args()
    quieten()
    for seed in options.seeds:
        if any(line["seed"] == seed for line in counting(RESULTS.lines(config=options.config))):
            print(f"{options.config}, seed {seed}: in {RESULTS.path.name} already")
            continue
        folder = options.work / options.config / f"seed{seed}"
        RESULTS.add(run_seed(options.config, options.data, seed, folder, options.compile))
        TABLE.write_text(table(counting(RESULTS.lines())), encoding="utf-8")
    print(table(counting(RESULTS.lines())))


def counting(lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the lines made with the teacher and student that the configurations have now, compiled or not."""

    def what(settings: dict[str, Any]) -> str:
        student = {name: value for name, value in settings["student"].items() if name != "compile"}
        return digest_of({"teacher": settings["teacher"], "student": student})

    return [line for line in lines if what(line["settings"]) == what(settings_of(line["config"]))]


def settings_of(config: str) -> dict[str, Any]:
    """Read a configuration by name."""
    settings: dict[str, Any] = yaml.safe_load((CONFIGS / f"{config}.yaml").read_text(encoding="utf-8"))
    return settings


def run_seed(config: str, data: str | None, seed: int, folder: Path, compiled: bool) -> dict[str, Any]:
    """Run one seed and return its line of results."""
    settings = settings_of(config)
    settings |= {"seed": seed, "out": folder, "data": data or settings["data"]}
    settings["student"] |= {"compile": True} if compiled else {}
    settings["report"] = settings.get("report", {}) | {"min_retention": None}
    report = run(**settings)
    begun = (folder / "teacher" / "options.json").stat().st_mtime  # what lay between interruptions counts too
    seconds = round((report.folder / "report.json").stat().st_mtime - begun)
    shared = {name: settings[name] for name in ("split", "validation", "max_unreadable") if name in settings}
    options = as_labels_only(settings["student"], settings["teacher"])
    labels_only = train(settings["data"], folder / "labels-only", seed=seed, **shared, **options)
    ordered = [folder / "export" / f"model{ending}.onnx" for ending in ("", "-fp16", "-int8")]
    files = [file for file in ordered if file.is_file()]  # int8 last: indexes are measured over it
    models = [labels_only, folder / "student", *files]  # each file after the model it comes from
    int8 = folder / "export" / "model-int8.onnx"
    more: dict[str, Any] = {}
    if int8 in files:
        more = {"index": INDEXES, "query_encoder": int8, "gallery_encoder": folder / "export" / "model.onnx"}
    teacher = folder / "teacher"
    report = validate(models, teacher, settings["data"], folder / "comparison", latency_runs=20, **more, **shared)
    stages = {stage["stage"]: stage for stage in report.content["stages"]}
    alone, student = stages.pop("student"), stages.pop("student-2")
    for stage in stages.values():
        if stage["step"] and stage["step"]["from"] == "student-2":
            stage["step"]["from"] = "student"
    stages = {"teacher": stages.pop("teacher"), "student": student, **stages, "labels only": alone}
    keep = (
        "recall",
        "r_precision",
        "map_at_r",
        "retention",
        "retention_interval",
        "step",
        "dim",
        "parameters",
        "bytes",
    )
    candidates = folder / "export" / "candidates.json"
    tried = json.loads(candidates.read_text(encoding="utf-8")) if candidates.is_file() else None
    if tried is not None:
        tried["model"], tried["judged_on"]["data"] = "student", config  # not where they lay
    return {
        "config": config,
        "seed": seed,
        "seconds": seconds,
        "stages": {name: {key: stage[key] for key in keep} for name, stage in stages.items()},
        "int8": tried,
        "settings": {section: settings[section] for section in ("teacher", "student")},
        "data": report.content["data"] | {"name": config},
        "machine": report.content["machine"],
        "versions": report.content["versions"],
    }


def table(lines: list[dict[str, Any]]) -> str:
    """Return the results as Markdown: one row per configuration and stage, means over seeds with standard deviation."""
    rows = []
    for config in dict.fromkeys(line["config"] for line in lines):
        of_config = sorted((line for line in lines if line["config"] == config), key=lambda line: line["seed"])
        for stage in dict.fromkeys(stage for line in of_config for stage in line["stages"]):
            having = [line for line in of_config if stage in line["stages"]]
            found = [line["stages"][stage] for line in having]
            recalls = [spread([100 * entry["recall"][k] for entry in found]) for k in ("1", "2", "4", "8")]
            steps = [entry["step"] for entry in found if entry.get("step")]
            rows.append(
                [
                    config,
                    stage,
                    ", ".join(str(line["seed"]) for line in having),
                    *recalls,
                    spread([100 * entry["map_at_r"] for entry in found]),
                    spread([100 * entry["retention"] for entry in found]),
                    "; ".join(f"{in_points(x['difference'], x['interval'], '+.2f')} from {x['from']}" for x in steps),
                    f"{found[0]['parameters']:,}",
                    str(found[0]["dim"]),
                    f"{found[0]['bytes'] / 1e6:.1f}",
                ]
            )
    header = ["configuration", "stage", "seeds", "Recall@1", "@2", "@4", "@8", "MAP@R", "retention", "step"]
    text = [
        "# The main job: teacher to ONNX, mean over seeds ± standard deviation",
        "",
        "Recall and MAP in percent, on classes never seen in training. Retention: Recall@1 over that of the",
        "same seed's teacher. Step, for each seed that has it: difference of Recall@1 in points from the stage it",
        "comes from, with the 95 % interval of a paired bootstrap over queries.",
        "",
        *markdown_table([*header, "parameters", "dim", "MB"], rows),
        "",
    ]
    for config in dict.fromkeys(line["config"] for line in lines):
        of_config = [line for line in lines if line["config"] == config]
        minutes = ", ".join(f"{line['seconds'] / 60:.1f}" for line in of_config)
        text.append(f"- {config}: {minutes} minutes a seed, labels only aside. {made_with(of_config)}")
    return "\n".join(text) + "\n"


if __name__ == "__main__":
    main()
