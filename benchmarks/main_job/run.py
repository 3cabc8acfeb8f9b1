"""The main job on real data, seed by seed: teacher, student, ONNX files, and the same student on labels alone.

    python -m benchmarks.main_job.run omniglot --data folder:PATH --tune
    python -m benchmarks.main_job.run omniglot --data folder:PATH --seeds 0 1 2 --work runs/main_job

With ``--tune`` the rate for labels alone is chosen, see ``labels_only_tuning``. Each seed has two parts: distillation,
and labels alone. A finished part is a line in results.jsonl beside this file and is not run again while its settings
stay the same. To resume an interrupted part from its last complete epoch, repeat the command with the same --work. The
table is rewritten after every part, from the lines made with the current settings.
"""

from __future__ import annotations

import argparse
import json
from itertools import product
from pathlib import Path
from typing import Any

import yaml

from benchmarks.labels_only import as_labels_only
from benchmarks.main_job.labels_only_tuning import data_options, search, tune
from benchmarks.papers import protocol
from benchmarks.results import Results, digest_of, in_points, made_with, markdown_table, spread
from compressor import run
from compressor.cli.manners import Manners, heard
from export import validate
from zoo import load_data, load_model, train
from zoo.models.network import summary_of

HERE = Path(__file__).resolve().parent
CONFIGS = HERE.parents[1] / "configs"
RESULTS = Results(HERE / "results.jsonl")
TABLE = HERE / "results.md"
INDEXES = ("sq8", "binary")
LABELS_ONLY = "labels only"
_KEPT = ("recall", "r_precision", "map_at_r", "retention", "retention_interval", "step", "dim", "parameters", "bytes")


@heard(Manners())
def main() -> None:
    """Run the parts that are not in the results yet, then write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", choices=["quickstart", "omniglot", "grocery"])
    parser.add_argument("--data", help="where the data is; none for the configuration's own")
    parser.add_argument("--tune", action="store_true", help="choose the rate of labels alone; without it, run with it")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument(
        "--parts", nargs="+", choices=PARTS, default=list(PARTS), help="the second comes after the first"
    )
    parser.add_argument("--work", type=Path, default=Path("runs/main_job"), help="folder for the runs")
    parser.add_argument("--compile", action="store_true", help="torch.compile for the student: same result, sooner")
    options = parser.parse_args()
    if options.tune:
        settings = settings_of(options.config)
        tune(options.config, settings, options.data or settings["data"], options.work)
    else:
        for seed, part in product(options.seeds, options.parts):
            finish(seed, part, options)
    print(table(counting(RESULTS.lines())))


def finish(seed: int, part: str, options: argparse.Namespace) -> None:
    """Run a part of a seed and write the table, unless the part is in the results."""
    run_part, stage = PARTS[part]
    lines = counting(RESULTS.lines(config=options.config, seed=seed))
    if any(stage in line["stages"] for line in lines):
        print(f"{options.config}, seed {seed}, {part}: in {RESULTS.path.name} already")
        return
    settings = settings_of(options.config) | {"seed": seed}
    settings |= {"out": options.work / options.config / f"seed{seed}", "data": options.data or settings["data"]}
    settings["student"] |= {"compile": True} if options.compile else {}
    RESULTS.add({"config": options.config, "seed": seed} | run_part(options.config, settings))
    TABLE.write_text(table(counting(RESULTS.lines())), encoding="utf-8")


def counting(lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the lines made with the current configurations, compiled or not, and the options that tuning chose."""

    def what(settings: dict[str, Any]) -> str:
        student = {name: value for name, value in settings["student"].items() if name != "compile"}
        return digest_of({"teacher": settings["teacher"], "student": student})

    found = []
    for line in lines:
        settings = settings_of(line["config"])
        if what(line["settings"]) != what(settings):
            continue
        stages = dict(line["stages"])
        if LABELS_ONLY in stages and not search(line["config"], settings).chose(line.get("options")):
            del stages[LABELS_ONLY]
        if stages:
            found.append(line | {"stages": stages})
    return found


def settings_of(config: str) -> dict[str, Any]:
    """Read a configuration by name."""
    settings: dict[str, Any] = yaml.safe_load((CONFIGS / f"{config}.yaml").read_text(encoding="utf-8"))
    return settings


def distilled(config: str, settings: dict[str, Any]) -> dict[str, Any]:
    """Make teacher, student and files, and return their measurements, with indexes of the int8 file's embeddings."""
    folder = settings["out"]
    changed = {"min_retention": None, "baselines": False}
    report = run(**settings | {"report": settings.get("report", {}) | changed})
    begun = (folder / "teacher" / "options.json").stat().st_mtime  # interruptions count too
    seconds = round((report.folder / "report.json").stat().st_mtime - begun)
    ordered = [folder / "export" / f"model{ending}.onnx" for ending in ("", "-fp16", "-int8")]
    files = [file for file in ordered if file.is_file()]  # int8 last, because indexes are measured with the last
    int8 = folder / "export" / "model-int8.onnx"
    more: dict[str, Any] = {}
    if int8 in files:
        more = {"index": INDEXES, "query_encoder": int8, "gallery_encoder": folder / "export" / "model.onnx"}
    line = measured(config, settings, [folder / "student", *files], folder / "comparison", **more)
    candidates = folder / "export" / "candidates.json"
    tried = json.loads(candidates.read_text(encoding="utf-8")) if candidates.is_file() else None
    if tried is not None:
        tried["model"], tried["judged_on"]["data"] = "student", config  # instead of local paths
    return line | {"seconds": seconds, "int8": tried}


def labels_only(config: str, settings: dict[str, Any]) -> dict[str, Any]:
    """Train the student's network on labels alone, and return its measurements and retention.

    The teacher's Recall@1 is read from the results, so that this part can run later or on another machine.
    """
    lines = counting(RESULTS.lines(config=config, seed=settings["seed"]))
    teachers = [line["stages"]["teacher"] for line in lines if "teacher" in line["stages"]]
    if not teachers:
        raise SystemExit(f"{config}, seed {settings['seed']}: {RESULTS.path.name} has no teacher; distil first.")
    tuned = search(config, settings_of(config)).best()
    options = as_labels_only(settings["student"], settings["teacher"]) | data_options(settings) | tuned
    alone = train(settings["data"], settings["out"] / "labels-only", seed=settings["seed"], **options)
    found = protocol.measured(alone, load_data(settings["data"], settings.get("split", "auto")).test)
    stage = found | {"retention": found["recall"]["1"] / teachers[0]["recall"]["1"], "step": None}
    stage |= {name: summary_of(load_model(alone))[name] for name in ("parameters", "dim")}
    stage["bytes"] = (alone / "model.safetensors").stat().st_size
    return {"options": tuned, "stages": {LABELS_ONLY: stage}, "settings": _networks(settings)}


def measured(config: str, settings: dict[str, Any], models: list[Path], out: Path, **more: Any) -> dict[str, Any]:
    """Return the stages of a report on the test classes, with settings, machine and versions."""
    teacher = settings["out"] / "teacher"
    report = validate(models, teacher, settings["data"], out, latency_runs=20, **data_options(settings), **more)
    return {
        "stages": {stage["stage"]: {name: stage[name] for name in _KEPT} for stage in report.content["stages"]},
        "settings": _networks(settings),
        "data": report.content["data"] | {"name": config},
        "machine": report.content["machine"],
        "versions": report.content["versions"],
    }


def _networks(settings: dict[str, Any]) -> dict[str, Any]:
    return {section: settings[section] for section in ("teacher", "student")}


PARTS = {"distilled": (distilled, "student"), "labels-only": (labels_only, LABELS_ONLY)}


def table(lines: list[dict[str, Any]]) -> str:
    """Return the results as Markdown: one row per configuration and stage, mean and standard deviation over seeds."""
    rows = []
    for config in dict.fromkeys(line["config"] for line in lines):
        of_config = sorted((line for line in lines if line["config"] == config), key=_order)
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
        of_config = sorted((line for line in lines if line["config"] == config), key=_order)
        minutes = ", ".join(f"{line['seconds'] / 60:.1f}" for line in of_config if "seconds" in line)
        text.append(f"- {config}: {minutes} minutes a seed, labels only aside. {made_with(of_config)}")
    return "\n".join(text) + "\n"


def _order(line: dict[str, Any]) -> tuple[int, bool]:
    return line["seed"], LABELS_ONLY in line["stages"]


if __name__ == "__main__":
    main()
