"""Does a student lose accuracy if it sees the same few views of each image repeatedly?

    python -m benchmarks.speed.views DATA --split RULE --work runs/views --seeds 0 1 2

For each seed a teacher is trained, and from it one student for each number of views, and one with new views in every
epoch. Each is measured once on the test classes. A finished student is a line in views.jsonl beside this file and is
not trained again while its settings stay the same.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

from benchmarks.results import Results, current, digest_of, made_with, markdown_table, spread
from compressor import distill
from compressor.cli.manners import Manners, heard
from zoo import load_data, load_model, measure, train
from zoo.models.embedding import embed
from zoo.models.facts import facts_of

HERE = Path(__file__).resolve().parent
RESULTS, TABLE = Results(HERE / "views.jsonl"), HERE / "views.md"
COUNTS = (None, 8)
SETTINGS: dict[str, dict[str, Any]] = {
    "teacher": {"arch": "resnet10t", "dim": 512, "epochs": 12, "batch_size": 64, "images_per_class": 4, "lr": 3e-3}
    | {"proxy_lr_factor": 30},
    "student": {"arch": "mobilenetv4_conv_small", "dim": 64, "epochs": 20, "batch_size": 64, "lr": 1e-2}
    | {"loss_options": {"sigma": 0.5}, "teacher_precision": "auto"},
}
SIZES = {"omniglot": {"image_size": 48, "crop_pct": 1.0, "augment": "drawing", "min_crop": 0.6}}
PHOTOS: dict[str, Any] = {"image_size": 64, "crop_pct": 1.0}


@heard(Manners())
def main() -> None:
    """Make the runs that are not in the results yet, then write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data")
    parser.add_argument("--name", required=True, help="of the set, for the table: omniglot or another")
    parser.add_argument("--split", required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--work", type=Path, default=Path("runs/views"))
    options = parser.parse_args()
    for seed in options.seeds:
        for count in COUNTS:
            settings = settings_of(options.name, count)
            known = {"set": options.name, "views": count, "seed": seed, "settings": digest_of(settings)}
            if not RESULTS.lines(**known):
                RESULTS.add(known | run(settings, options, seed, count))
                TABLE.write_text(table(), encoding="utf-8")
    print(table())


def settings_of(name: str, count: int | None) -> dict[str, Any]:
    """Return all settings of a run except places and seed."""
    shared = SIZES.get(name, PHOTOS) | {"validation": 0}
    parts = {part: options | shared for part, options in SETTINGS.items()}
    parts["student"] = parts["student"] | {"teacher_views": count}
    return parts


def run(settings: dict[str, Any], options: argparse.Namespace, seed: int, count: int | None) -> dict[str, Any]:
    """Train a student, and its teacher if it is not trained yet, and measure both on the test classes."""
    shared = {"split": options.split, "seed": seed}
    folder = options.work / options.name / f"seed{seed}"
    teacher = train(options.data, folder / "teacher", **shared, **settings["teacher"])
    began = time.monotonic()
    student = distill(teacher, options.data, folder / f"views-{count}", **shared, **settings["student"])
    minutes = (time.monotonic() - began) / 60
    images = load_data(options.data, options.split, 0).test
    measured = {}
    for name, place in (("teacher", teacher), ("student", student)):
        model = load_model(place)
        measured[name] = measure(embed(model, images), images, facts_of(model).metric).summary()
    return {"minutes": round(minutes, 1), **measured}


def table() -> str:
    """Return means and standard deviations over seeds, and differences of the same seeds, as Markdown."""
    text = ["# A fixed number of views of each image", ""]
    for name in dict.fromkeys(line["set"] for line in RESULTS.lines()):
        lines = current(RESULTS.lines(set=name), [settings_of(name, count) for count in COUNTS])
        fresh = {line["seed"]: line for line in lines if line["views"] is None}
        rows = []
        for count in COUNTS:
            found = [line for line in lines if line["views"] == count]
            if found:
                paired = [line for line in found if line["seed"] in fresh]
                differences = [percent(line) - percent(fresh[line["seed"]]) for line in paired]
                rows.append(
                    [
                        "new in every epoch" if count is None else str(count),
                        spread([percent(line) for line in found]),
                        spread([100 * line["student"]["map_at_r"] for line in found]),
                        "" if count is None or not differences else spread(differences),
                        spread([line["minutes"] for line in found], 1),
                    ]
                )
        teachers = {line["seed"]: 100 * line["teacher"]["recall"]["1"] for line in lines}
        header = ["views of each image", "Recall@1", "MAP@R", "Recall@1 against new ones", "minutes"]
        text += [f"## {name}", "", f"Test classes, %, seeds {', '.join(map(str, teachers))}. Teacher: "]
        text[-1] += f"{spread(list(teachers.values()))}."
        text += ["", *markdown_table(header, rows), "", made_with(lines), ""]
    return "\n".join(text)


def percent(line: dict[str, Any]) -> float:
    """Return a student's Recall@1."""
    return 100 * float(line["student"]["recall"]["1"])


if __name__ == "__main__":
    main()
